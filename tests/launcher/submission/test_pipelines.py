"""Pipelines: the file, its mistakes, and real runs on this machine that wait for each other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from launcher import ROOT
from launcher.errors import SpecError
from launcher.files import pipeline

if TYPE_CHECKING:
    from pathlib import Path

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
        data = json.loads(self.launcher("status", chain, "--json"))
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
    assert "chain-pipeline-1 ended with stage b; `python -m launcher resume chain-pipeline-1` goes on" in told
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


def test_every_mistake_of_a_file_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(
        "name: Bad\nclusters: x\npipeline:\n  a: {job: a.yaml, sets: {}}\n  b: {}\n"
        "  c: {job: c.yaml, set: {model: $d/x}}\n"
        "  d: {job: d.yaml, set: 3}\n"
    )
    with pytest.raises(SpecError) as told:
        pipeline.read(str(path))
    assert [str(problem).replace(str(tmp_path), "") for problem in told.value.problems] == [
        "/bad.yaml:2:1: unknown key 'clusters' of a pipeline; did you mean 'cluster'?",
        "/bad.yaml:1:1: name: 'Bad' is not a valid name; "
        "use lower case letters, digits and '-', starting with a letter",
        "/bad.yaml:4:20: unknown key 'sets' of a stage; did you mean 'set'?",
        "/bad.yaml:5:3: stage b has no job; write {job: FILE}",
        "/bad.yaml:6:20: stage c needs $d, which is no stage before it; "
        "stages before it are a, b; $$ is a dollar sign",
        "/bad.yaml:7:20: set: `key.path: value` lines are expected",
    ]


def test_a_setting_of_the_command_line_names_its_stage(folder: Folder) -> None:
    made = pipeline.read(str(folder.path / "chain.yaml"))
    assert pipeline.shared(["b.nodes=2", "cluster.slots=1"], made.stages) == {
        "a": ["cluster.slots=1"],
        "b": ["nodes=2", "cluster.slots=1"],
        "c": ["cluster.slots=1"],
    }
    told = folder.launcher("local", "chain.yaml", "--set", "nodes=2", code=2)
    assert (
        "--set nodes=2: which stage?; start with a stage (a, b, c) or with cluster, such as a.nodes=2" in told
    )


def test_nothing_is_submitted_when_a_later_stage_is_wrong(folder: Folder) -> None:
    told = folder.launcher("local", "chain.yaml", "--set", "c.batch.micro=0", code=2)
    assert "batch.micro: must be at least 1" in told
    assert not folder.runs.exists()
    told = folder.launcher("kubernetes", "chain.yaml", code=3)
    assert "Kubernetes has no jobs that wait for each other" in told


def test_values_of_any_kind_arrive_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(
        "name: p\npipeline:\n  a: {job: a.yaml, set: {args: {lr: 1.0e-4, on: true, data: ['a $$ b', \"it's\"]}}}\n"
    )
    (stage,) = pipeline.read(str(path)).stages
    assert stage.words({}) == ['args={"lr": 0.0001, "on": true, "data": ["a $ b", "it\'s"]}']
