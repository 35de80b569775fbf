"""Pipelines: real runs on this machine that wait for each other, and what is left when some of it is gone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from launcher import ROOT
from tests import commandline

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

pytestmark = pytest.mark.heavy  # every test has real runs

# A stage's program: keeps what it was given, waits as long as a file is there, ends with a code.
PROGRAM = """
import os, sys, time
from pathlib import Path
given, hold, code = sys.argv[1:4]
Path(os.environ["RUN_DIR"], "given").write_text(given)
while Path(hold).exists():
    time.sleep(0.05)
raise SystemExit(int(Path(code).read_text()) if Path(code).exists() else 0)
"""
JOB = """name: {name}
cluster: here.yaml
workload: {program}
batch: {{micro: 1}}
args: {{given: x, hold: {hold}, code: {code}}}
"""


class Folder:
    """A user's folder with a pipeline of three stages: b needs a, c needs both."""

    def __init__(self, path: Path) -> None:
        self.path, self.runs = path, path / "all runs"
        self.env = {**os.environ, "LAUNCHER_RUNS": str(self.runs), "HOME": str(path)}
        self.env["XDG_STATE_HOME"] = str(path / "state")
        (path / "here.yaml").write_text("slots: 1\nfabric: loopback\n")
        program = PROGRAM.replace("sys.argv[1:4]", "(w.partition('=')[2] for w in sys.argv[1:4])")
        (path / "stage.py").write_text(program)
        for name in "abc":
            text = JOB.format(
                name=name, program=path / "stage.py", hold=path / "hold", code=path / f"code-{name}"
            )
            (path / f"{name}.yaml").write_text(text)
        (path / "chain.yaml").write_text(
            "name: chain\npipeline:\n  a: {job: a.yaml}\n"
            "  b: {job: b.yaml, set: {args.given: $a/export}}\n"
            "  c: {job: c.yaml, set: {args.given: '${a}+$b $$5'}}\n"
        )

    def launcher(self, *words: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "launcher", *words],
            cwd=self.path,
            env={**self.env, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == code, f"{words}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout if not code else done.stderr

    def stages(self, chain: str) -> dict[str, dict[str, Any]]:
        env = {**self.env, "PYTHONPATH": str(ROOT)}
        data = json.loads(commandline.asked(["status", chain, "--json"], env, self.path))
        return {stage["stage"]: stage for stage in data["stages"]}

    def states(self, chain: str) -> list[str]:
        return [stage["state"] for stage in self.stages(chain).values()]

    def wait(self, chain: str, states: list[str]) -> None:
        deadline = time.monotonic() + 60
        while (now := self.states(chain)) != states:
            assert time.monotonic() < deadline, now
            time.sleep(0.1)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_stages_run_in_order_and_know_the_folders_of_those_before(folder: Folder) -> None:
    folder.launcher("local", "chain.yaml", "--wait", "--set", "a.args.given=0")
    found = folder.stages("chain-p")  # the first characters of its id
    assert [stage["state"] for stage in found.values()] == ["SUCCEEDED"] * 3
    runs = {name: folder.runs / stage["run"] for name, stage in found.items()}
    given = {name: (run / "given").read_text() for name, run in runs.items()}
    assert given == {"a": "0", "b": f"{runs['a']}/export", "c": f"{runs['a']}+{runs['b']} $5"}
    began = [(runs[name] / "given").stat().st_mtime_ns for name in "abc"]
    assert began == sorted(began)


def test_a_failure_stops_those_after_it_and_resume_goes_on_from_there(folder: Folder) -> None:
    (folder.path / "code-b").write_text("7")
    told = folder.launcher("local", "chain.yaml", "--wait", code=1)
    assert "chain-pipeline-1 stopped at stage b; `python -m launcher resume chain-pipeline-1`" in told
    folder.wait("chain-pipeline-1", ["SUCCEEDED", "FAILED", "CANCELLED"])
    found = folder.stages("chain-pipeline-1")
    assert found["b"]["exit_code"] == 7
    assert found["c"]["reason"] == f"not started: {found['b']['run']} did not succeed"
    assert not (folder.runs / found["c"]["run"] / "given").exists()

    (folder.path / "code-b").unlink()
    folder.launcher("resume", "chain-pipeline-1")
    folder.wait("chain-pipeline-1", ["SUCCEEDED"] * 3)
    assert "chain-pipeline-1 is succeeded; there is nothing to resume" in folder.launcher(
        "resume", "chain-pipeline-1", code=4
    )


def test_a_pipeline_is_cancelled_as_one(folder: Folder) -> None:
    (folder.path / "hold").touch()
    chain = folder.launcher("local", "chain.yaml").strip()
    folder.wait(chain, ["RUNNING", "PENDING", "PENDING"])
    found = folder.stages(chain)
    assert found["c"]["reason"] == f"waits for {found['a']['run']}"
    listed = json.loads(folder.launcher("list", "--json"))
    assert [run["state"] for run in listed] == ["PENDING", "PENDING", "RUNNING"]
    folder.launcher("cancel", chain)
    folder.wait(chain, ["CANCELLED"] * 3)
    assert not (folder.runs / found["b"]["run"] / "given").exists()


def test_a_run_whose_process_was_killed_holds_up_nobody(folder: Folder) -> None:
    (folder.path / "hold").touch()
    chain = folder.launcher("local", "chain.yaml").strip()
    folder.wait(chain, ["RUNNING", "PENDING", "PENDING"])
    record = json.loads((folder.runs / folder.stages(chain)["a"]["run"] / "run.json").read_text())
    os.killpg(int(record["native_id"].partition(":")[0]), 9)
    folder.wait(chain, ["FAILED", "CANCELLED", "CANCELLED"])


def test_after_on_this_machine(folder: Folder) -> None:
    (folder.path / "hold").touch()
    first = folder.launcher("local", "a.yaml").strip()
    second = folder.launcher("local", "b.yaml", "--after", first).strip()
    now = json.loads(folder.launcher("status", second, "--json"))
    assert (now["state"], now["reason"]) == ("PENDING", f"waits for {first}")
    (folder.path / "hold").unlink()
    folder.launcher("local", "c.yaml", "--after", second, "--wait")
    assert (folder.runs / second / "given").exists()


def test_nothing_is_submitted_when_a_later_stage_is_wrong(folder: Folder) -> None:
    told = folder.launcher("local", "chain.yaml", "--set", "c.batch.micro=0", code=2)
    assert "--set c.batch.micro=0: batch.micro: must be at least 1" in told
    assert not folder.runs.exists()
    told = folder.launcher("kubernetes", "chain.yaml", "--set", "cluster.kubernetes.runs=runs", code=3)
    assert "Kubernetes has no jobs that wait for each other" in told


# What earlier versions recorded: a pipeline's stages that were submitted, and nothing else.
OLD_RUN = {"scheduler": "local", "submitted": 1764000000.5, "nodes": 1, "slots": 1, "place": {}, "former": []}


def recorded_before(folder: Folder, stages: Sequence[str], codes: Sequence[int]) -> None:
    """Write a pipeline `old-pipeline-1` as version 0.1.0 did, with runs that have ended."""
    before: list[str] = []
    entries = []
    for stage, code in zip(stages, codes, strict=True):
        run = folder.runs / f"{stage}-0123ab"
        run.mkdir(parents=True)
        record = {"id": run.name, "native_id": "999999:1", "folder": str(run), **OLD_RUN}
        (run / "run.json").write_text(json.dumps(record, indent=1) + "\n")
        (run / "exit_code").write_text(f"{code}\n")
        (run / "job.sh").write_text(f"echo 0 >{json.dumps(str(run / 'exit_code'))}\n")
        entries.append({"stage": stage, "run": run.name, "needs": list(before)})
        before.append(stage)
    home = folder.runs / "old-pipeline-1"
    home.mkdir()
    (home / "pipeline.json").write_text(json.dumps({"id": home.name, "stages": entries}, indent=1) + "\n")


def test_what_was_recorded_before_still_opens(folder: Folder) -> None:
    recorded_before(folder, "ab", [0, 7])
    found = folder.stages("old-pipeline-1")
    assert {name: (s["run"], s["state"], s["exit_code"]) for name, s in found.items()} == {
        "a": ("a-0123ab", "SUCCEEDED", 0),
        "b": ("b-0123ab", "FAILED", 7),
    }
    run = json.loads(folder.launcher("status", "b-0123ab", "--json"))
    assert (run["state"], run["native_id"]) == ("FAILED", "999999")
    assert len(json.loads(folder.launcher("list", "--json"))) == 2
    folder.launcher("logs", "old-pipeline-1")
    folder.launcher("resume", "old-pipeline-1")
    folder.wait("old-pipeline-1", ["SUCCEEDED", "SUCCEEDED"])


def test_a_run_that_was_deleted_takes_no_other_stage_with_it(folder: Folder) -> None:
    (folder.path / "hold").touch()
    chain = folder.launcher("local", "chain.yaml").strip()
    folder.wait(chain, ["RUNNING", "PENDING", "PENDING"])
    gone = folder.stages(chain)["c"]["run"]
    folder.launcher("cancel", gone)
    shutil.rmtree(folder.runs / gone)
    found = folder.stages(chain)
    assert [s["state"] for s in found.values()] == ["RUNNING", "PENDING", "UNKNOWN"]
    assert found["c"]["reason"] == "its run folder cannot be read"
    folder.launcher("cancel", chain)
    folder.wait(chain, ["CANCELLED", "CANCELLED", "UNKNOWN"])
    (folder.path / "hold").unlink()
    folder.launcher("resume", chain)
    folder.wait(chain, ["SUCCEEDED", "SUCCEEDED", "UNKNOWN"])


def test_a_stage_whose_input_is_gone_is_not_resumed(folder: Folder) -> None:
    recorded_before(folder, "ab", [0, 7])
    shutil.rmtree(folder.runs / "a-0123ab")
    told = folder.launcher("resume", "old-pipeline-1", code=4)
    assert "the run folder of stage a cannot be read, and a later stage needs it" in told


def test_stages_that_were_never_submitted_are_resumed(folder: Folder) -> None:
    """The launcher was killed between two submissions: every stage is recorded, some have no run.json."""
    (folder.path / "code-a").write_text("7")
    folder.launcher("local", "chain.yaml", "--wait", code=1)
    folder.wait("chain-pipeline-1", ["FAILED", "CANCELLED", "CANCELLED"])
    for stage in ("b", "c"):
        run = folder.runs / folder.stages("chain-pipeline-1")[stage]["run"]
        for name in ("run.json", "cancelled", "exit_code"):
            (run / name).unlink()
    found = folder.stages("chain-pipeline-1")
    assert [s["state"] for s in found.values()] == ["FAILED", "CANCELLED", "CANCELLED"]
    assert found["c"]["reason"] == "not submitted: an earlier stage did not succeed"
    (folder.path / "code-a").unlink()
    folder.launcher("resume", "chain-pipeline-1")
    folder.wait("chain-pipeline-1", ["SUCCEEDED"] * 3)


def test_a_pipeline_that_was_refused_leaves_nothing(folder: Folder) -> None:
    for name in ("sbatch", "squeue", "scancel"):
        program = folder.path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text("#!/bin/sh\necho 'sbatch: error: invalid partition' >&2\nexit 1\n")
        program.chmod(0o755)
    folder.env["PATH"] = f"{folder.path}/bin:{os.environ['PATH']}"
    told = folder.launcher("slurm", "chain.yaml", code=4)
    assert "invalid partition" in told
    assert list(folder.runs.iterdir()) == []


def test_report_of_a_pipeline_passes_over_what_is_gone(folder: Folder) -> None:
    recorded_before(folder, "ab", [0, 0])
    shutil.rmtree(folder.runs / "a-0123ab")
    line = {"step": 1, "loss": 2.0, "time": 1.0, "tokens_per_second": 5.0, "max_steps": 1}
    (folder.runs / "b-0123ab" / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    assert "b-0123ab" in folder.launcher("report", "old-pipeline-1")
