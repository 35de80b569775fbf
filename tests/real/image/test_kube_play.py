"""The Kubernetes manifest of the quickstart as it is rendered, run by podman: the same pod, without a cluster.

podman plays Jobs and ConfigMaps and passes over Services and NetworkPolicies: it takes the part of the kubelet. What
Kubernetes' Job controller adds to each pod is added here: its host name and its index; and a volume that is projected
from several ConfigMaps, which podman does not know, is one of one.
https://kubernetes.io/docs/concepts/workloads/controllers/job/#completion-mode
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from ruamel.yaml import YAML

from launcher import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.real.image.engines import Image

# One worker for all of them: they share one build.
pytestmark = pytest.mark.image


def rendered(image: str) -> list[dict[str, Any]]:
    """Return the quickstart's objects as `--dry-run` prints them, with fewer steps."""
    settings = [f"cluster.image={image}", "args.max-steps=30", "args.eval-every=0", "checkpoint.every=20"]
    words = [sys.executable, "-m", "launcher", "kubernetes", "jobs/quickstart.yaml", "--dry-run"]
    words += [word for setting in settings for word in ("--set", setting)]
    text = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return list(YAML(typ="safe").load_all(text))


def controlled(objects: list[dict[str, Any]]) -> str:
    """Return the objects as text, with what the Job controller gives the pod of index 0."""
    (job,) = (made for made in objects if made["kind"] == "Job")
    pod = job["spec"]["template"]["spec"]
    pod["hostname"] = f"{job['metadata']['name']}-0"
    pod["containers"][0]["env"].append({"name": "JOB_COMPLETION_INDEX", "value": "0"})
    for volume in pod["volumes"]:
        _join(objects, volume)
    return "\n---\n".join(map(json.dumps, objects))


def _join(objects: list[dict[str, Any]], volume: dict[str, Any]) -> None:
    """Bring what is projected into the first of its ConfigMaps."""
    first, *others = [
        entry["configMap"] for entry in volume.pop("projected", {"sources": []})["sources"]
    ] or [None]
    if first is None:
        return
    held = {made["metadata"]["name"]: made for made in objects if made["kind"] == "ConfigMap"}
    for other in others:
        first["items"] += other["items"]
        for field in ("data", "binaryData"):
            held[first["name"]].setdefault(field, {}).update(held[other["name"]].get(field, {}))
    volume["configMap"] = first


def test_the_quickstarts_pod_trains(cpu_image: Image, tmp_path: Path) -> None:
    engine, file = cpu_image.engine, tmp_path / "manifest.yaml"
    objects = rendered(f"localhost/{cpu_image.name}")
    file.write_text(controlled(objects))
    name = objects[0]["metadata"]["name"]
    played = engine.run("podman", "kube", "play", str(file)).stdout
    try:
        container = re.findall(r"^Containers?:\n(\w+)", played, re.MULTILINE)[0]
        code = engine.run("podman", "wait", container, timeout=600).stdout.strip()
        logs = engine.run("podman", "logs", container)
        # `wait` answers 0 for a container that never started.
        inspected = json.loads(engine.run("podman", "inspect", container).stdout)[0]
        assert inspected["State"]["Status"] == "exited", inspected["State"]
        assert code == "0", logs.stdout + logs.stderr
        # As the pod asks for it.
        assert inspected["HostConfig"]["ReadonlyRootfs"]
        assert inspected["Config"]["User"] == "10001:10001"
        assert not inspected["EffectiveCaps"]
        for run_file in ("summary.json", "metrics.jsonl", "checkpoints"):
            engine.run("podman", "cp", f"{container}:/runs/{name}/{run_file}", str(tmp_path))
    finally:
        engine.run("podman", "kube", "down", "--force", str(file), ok=False)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["steps"], summary["world_size"]) == (30, 2)
    assert summary["loss_last"] < summary["loss_first"] - 0.5
    assert list((tmp_path / "checkpoints").glob("step-*"))
