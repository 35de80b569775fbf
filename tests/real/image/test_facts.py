"""What a real image says of itself, as the launcher reads it: `make image-facts`, and labels in a registry."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from launcher.doctor import ops
from launcher.images import facts as images_facts
from launcher.images import registry
from launcher.planning import image_check
from tests import samples

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from launcher.images.facts import Facts
    from tests.real.image.engines import Image

# One worker for all of them: they share one build.
pytestmark = pytest.mark.image


@pytest.fixture(scope="module")
def printed(cpu_image: Image) -> str:
    """What `make image-facts` prints of the image."""
    env = {**cpu_image.engine.env, "ENGINE": "buildah", "IMAGE": cpu_image.name}
    words = [sys.executable, "-m", "imagebuild.export", "facts"]
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def facts(printed: str) -> Facts:
    return images_facts.parse(printed, "here.image.json")


def test_the_file_is_what_the_image_holds(printed: str, cpu_image: Image) -> None:
    assert json.loads(printed) == cpu_image.facts


def test_podman_prints_the_same(printed: str, cpu_image: Image) -> None:
    env = {**cpu_image.engine.env, "ENGINE": "podman", "IMAGE": cpu_image.name}
    words = [sys.executable, "-m", "imagebuild.export", "facts"]
    assert subprocess.run(words, env=env, capture_output=True, text=True, check=True).stdout == printed


def test_jobs_are_held_against_it(facts: Facts) -> None:
    offload = {"deepspeed": "zero2-offload"}
    assert image_check.refusal(samples.decided(offload), facts) is None
    lion = {"deepspeed": {"preset": "zero2-offload", "optimizer": {"type": "Lion"}}}
    assert "lacks DeepSpeed's CPU_LION" in str(image_check.refusal(samples.decided(lion), facts))
    on_gpus = samples.decided(gpu="h100-80gb", memory="2000GB")
    assert "is of the cpu flavour" in str(image_check.refusal(on_gpus, facts))
    old = samples.decided(cpu_level="x86-64-v2")
    assert "compiled for x86-64-v3" in str(image_check.refusal(old, facts))


def test_doctor_tells_prebuilt_ops_from_those_that_no_compiler_makes(cpu_image: Image, facts: Facts) -> None:
    """The same questions that `doctor` asks, asked inside the image."""
    probed = json.loads(cpu_image.inside("python", "-c", ops._PROBE, *ops._PACKAGES).splitlines()[-1])
    verdicts = {
        name: ops.verdict(op, probed, ops.Tools("", "", ""), facts) for name, op in probed["ops"].items()
    }
    for name in ("cpu_adam", "fused_adam", "deepspeed_shm_comm"):
        assert verdicts[name] == ("ok", "prebuilt")
    state, detail = verdicts["cpu_lion"]
    assert state == "missing"
    assert detail == "cannot work here: not prebuilt, and to compile it ninja and a C++ compiler are missing"


@pytest.fixture
def served(cpu_image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The image's name in a registry that has its manifest and configuration, and none of its layers."""
    inspected = cpu_image.engine.run(
        "skopeo", "inspect", f"containers-storage:localhost/{cpu_image.name}"
    ).stdout
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Labels": json.loads(inspected)["Labels"]},
            "rootfs": {"type": "layers", "diff_ids": []},
        }
    ).encode()
    kind = "application/vnd.oci.image.manifest.v1+json"
    digest = f"sha256:{hashlib.sha256(config).hexdigest()}"
    about = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": len(config)}
    manifest = json.dumps({"schemaVersion": 2, "mediaType": kind, "config": about, "layers": []}).encode()
    repository, tag = cpu_image.name.split(":")
    pages = {
        "/v2/": (b"{}", "application/json"),
        f"/v2/{repository}/manifests/{tag}": (manifest, kind),
        f"/v2/{repository}/blobs/{digest}": (config, "application/octet-stream"),
    }

    class Registry(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body, content = pages.get(self.path, (b"", "text/plain"))
            self.send_response(200 if self.path in pages else 404)
            self.send_header("Content-Type", content)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Registry) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        place = f"127.0.0.1:{server.server_port}"
        settings = tmp_path / ".config" / "containers" / "registries.conf"
        settings.parent.mkdir(parents=True)
        settings.write_text(f'[[registry]]\nlocation = "{place}"\ninsecure = true\n')
        monkeypatch.setenv("HOME", str(tmp_path))
        registry.inspect.cache_clear()
        yield f"{place}/{repository}:{tag}"
        server.shutdown()


def test_a_registry_says_the_same(served: str, facts: Facts) -> None:
    found, note = registry.facts(served)
    assert found
    assert not note
    assert found.source == f"labels of {served}"
    # labels are short: no packages, and the versions that the image was built for
    assert found.versions == {
        "deepspeed": facts.versions["deepspeed"],
        "torch": facts.versions["torch"].partition("+")[0],
    }
    assert found._replace(source=facts.source, versions=facts.versions, packages=facts.packages) == facts


def test_a_registry_without_the_image(served: str) -> None:
    facts, note = registry.facts(f"{served}-other")
    assert facts is None
    assert "was not checked" in note


def test_a_submission_asks_it(served: str, tmp_path: Path) -> None:
    """The whole command: refused with exit code 3 before a scheduler is asked for anything."""
    (tmp_path / "here.yaml").write_text(f"gpu: h100-80gb\nslots: 8\nmemory: 2000GB\nimage: {served}\n")
    (tmp_path / "job.yaml").write_text("name: demo\ncluster: here.yaml\nmodel: gpt2\nbatch: {micro: 1}\n")
    words = [sys.executable, "-m", "launcher", "kubernetes", str(tmp_path / "job.yaml")]
    env = {**os.environ, "LAUNCHER_RUNS": str(tmp_path / "runs")}
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert f"is of the cpu flavour (labels of {served})" in done.stderr
    assert not (tmp_path / "runs").exists()
