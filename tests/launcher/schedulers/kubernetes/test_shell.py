"""A shell beside a rank in a pod: `kubectl exec` into the pod of the rank or host, with its context and namespace."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, Any

from launcher.runs import record
from launcher.runs.status import Selection, Status
from launcher.submission import shell
from tests.launcher.schedulers.kubernetes.test_verbs import submitted

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from tests.launcher.schedulers.kubernetes.conftest import Cluster


def test_a_pod(cluster: Cluster, run: Any, job: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "kubectl.log"
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "kubectl").write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" >'{log}'\n")
    (tmp_path / "bin" / "kubectl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    name = submitted(run, job)
    assert run("shell", name)[0] == 4, "it is pending"
    pods = [cluster.pod(name, index) for index in range(2)]
    found = record.find(tmp_path / "runs", name)
    monkeypatch.setattr("launcher.schedulers.statuses", lambda runs: [Status("RUNNING") for _ in runs])
    command = shell.words(found, Selection(rank=3), terminal=True)
    start = [
        "kubectl",
        "--context=admin",
        "--namespace=training",
        "exec",
        "-i",
        "-t",
        pods[1],
        "--container=node",
    ]
    assert command[: len(start) + 1] == [*start, "--"]
    assert command[-2:] == ["--folder=", "--rank=3"]
    assert shell.words(found, Selection(host=f"{name}-1"), terminal=False)[-1] == "--rank=2"
    subprocess.run(command, check=True)
    assert log.read_text().splitlines()[:3] == ["--context=admin", "--namespace=training", "exec"]
    cluster.tell("remove", plural="pods", name=pods[0])
    code, _, err = run("shell", name)
    assert code == 5, err
    assert f"host 0 of {name} has no pod that runs" in err
