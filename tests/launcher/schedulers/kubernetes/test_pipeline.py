"""A pipeline on Kubernetes, where `--wait` does what dependencies do elsewhere: the real client on fakeserver.py."""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from launcher.cli import main

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.launcher.schedulers.kubernetes.conftest import Cluster

SITE = "slots: 1\nfabric: tcp\nimage: registry.example.com/train:1\nkubernetes: {runs: runs}\n"


@pytest.fixture
def chain(tmp_path: Path) -> str:
    (tmp_path / "site.yaml").write_text(SITE)
    for name in ("first", "second"):
        text = f"name: {name}\ncluster: site.yaml\nmodel: byte-gpt\nbatch: {{micro: 1}}\n"
        (tmp_path / f"{name}.yaml").write_text(text)
    (tmp_path / "chain.yaml").write_text(
        "name: chain\npipeline:\n  a: {job: first.yaml}\n  b: {job: second.yaml, set: {model: $a/export}}\n"
    )
    return str(tmp_path / "chain.yaml")


def play(cluster: Cluster, words: Sequence[str]) -> list[str]:
    """Let each job that appears end with the next of `words`. Returns their names."""
    seen: list[str] = []
    for word in words:
        deadline = time.monotonic() + 60
        while not (new := [n for p, n in cluster.objects() if p == "jobs" and n not in seen]):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert len(new) == 1, "the next stage was submitted before this one had ended"
        seen += new
        time.sleep(0.5)
        condition = {"type": word, "status": "True", "reason": "", "message": ""}
        cluster.tell("status", plural="jobs", name=new[0], status={"conditions": [condition]})
    return seen


def launch(chain: str, cluster: Cluster, words: Sequence[str]) -> tuple[int, list[str]]:
    seen: list[str] = []
    thread = threading.Thread(target=lambda: seen.extend(play(cluster, words)))
    thread.start()
    code = main.main(["kubernetes", chain, "--wait"])
    thread.join()
    return code, seen


def told(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main.main(words) == 0
    data: dict[str, Any] = json.loads(capsys.readouterr().out)
    return data


def test_each_stage_is_submitted_when_the_one_before_has_succeeded(
    chain: str, cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    code, (first, second) = launch(chain, cluster, ["Complete", "Complete"])
    assert code == 0, capsys.readouterr().err
    command = cluster.objects()["jobs", second]["spec"]["template"]["spec"]["containers"][0]["command"]
    assert f"--model=/runs/{first}/export" in command  # as the ranks see it
    found = told(capsys, "status", "chain-pipeline-1", "--json")
    assert [(s["run"], s["state"]) for s in found["stages"]] == [(first, "SUCCEEDED"), (second, "SUCCEEDED")]


def test_a_failure_ends_the_pipeline(
    chain: str, cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    code, (first,) = launch(chain, cluster, ["Failed"])
    assert code == 1
    assert [n for p, n in cluster.objects() if p == "jobs"] == [first]
    found = told(capsys, "status", "chain-pipeline-1", "--json")
    assert [(s["run"], s["state"]) for s in found["stages"]] == [(first, "FAILED")]


def test_what_cannot_be_is_said_before_anything_is_submitted(
    chain: str, cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["kubernetes", chain]) == 3
    assert "Kubernetes has no jobs that wait for each other; add --wait" in capsys.readouterr().err
    (tmp_path / "site.yaml").write_text(SITE.replace("kubernetes: {runs: runs}", ""))
    assert main.main(["kubernetes", chain, "--wait"]) == 3
    err = capsys.readouterr().err
    assert "stage b reads what an earlier one left, and run folders end with their pods" in err
    assert "kubernetes: {runs: CLAIM}" in err
    assert not cluster.objects()
