"""`launcher profile` asks inside the job, brings the traces, and says why where it gets none."""

from __future__ import annotations

import gzip
import json
import sys
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from launcher import ROOT
from launcher.cli import main
from launcher.errors import PlanError, RunNotFoundError, SubmitError
from launcher.runs import profiles as kept
from launcher.submission import profiles, rerun, shell

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.heavy  # programs of their own

WISH = profiles.Wish((0,), 2, 60.0)
TRACE = b"\x1f\x8b\x00trace"
FILE = "rank-0.pt.trace.json.gz"
RANK = {"rank": 0, "host": "a", "file": FILE, "bytes": len(TRACE)}
ANSWER = {"name": "0-1", "steps": 2, "time": 1.0, "ranks": [RANK]}
# the node entry's side, which docker/profiling.py does: argv is the records' folder, the answer, the ranks' run folder
ENTRY = """
import json, os, pathlib, shutil, subprocess, sys, time
print("welcome\\n\\n", flush=True)  # as a TaskProlog does
told, answer, runs = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
told.mkdir(exist_ok=True)
env = {"PATH": os.defpath, "LAUNCHER_HEARTBEAT": str(told), "RUN_DIR": runs}
shell = subprocess.Popen(["sh"], stdin=sys.stdin, env=env)
def wait(pattern):
    while shell.poll() is None:
        if found := sorted(told.glob(pattern)):
            return found[0]
        time.sleep(0.01)
    sys.exit(shell.returncode)
ask = wait("*.ask")
(told / "wish").write_text(ask.read_text())
ask.unlink()
if answer == "end":
    shutil.rmtree(told)
else:
    for line in ("step 4, 0 of 1", "step 5, 0 of 1"):
        ask.with_suffix(".said").write_text(line + "\\n")
        time.sleep(0.5)
    ask.with_suffix(".answer").write_text(answer)
sys.exit(shell.wait())
"""


class Known:
    """A run, as much as is asked of it."""

    def __init__(self, folder: Path) -> None:
        self.id, self.folder, self.nodes, self.slots = "job-1", folder, 1, 2


@pytest.fixture
def run(tmp_path: Path) -> Any:
    (tmp_path / "run").mkdir()
    return Known(tmp_path / "run")


def beside(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(shell, "words", lambda *_, **__: list(words))


def answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answer: Any) -> None:
    text = answer if isinstance(answer, str) else json.dumps(answer, indent=1) + "\n"
    words = (str(tmp_path / "it's here"), text, str(tmp_path / "theirs"))
    beside(monkeypatch, sys.executable, "-c", ENTRY, *words)


def test_it_asks_waits_and_says_how_far_it_is(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(monkeypatch, tmp_path, ANSWER)
    folder = run.folder / "profiles" / "0-1"
    folder.mkdir(parents=True)
    (folder / FILE).write_bytes(TRACE)
    told: list[str] = []
    assert profiles.take(run, WISH, told.append) == ANSWER
    assert told[-1] == "step 5, 0 of 1"
    assert json.loads((tmp_path / "it's here" / "wish").read_text()) == {
        "ranks": [0],
        "steps": 2,
        "limit": 60.0,
        "tool": "torch",
    }
    assert json.loads((folder / "profile.json").read_text()) == ANSWER
    left = [path.name for path in (tmp_path / "it's here").iterdir()]
    assert left == ["wish"], "nothing stays beside the records"


def test_traces_of_another_file_system_come_here(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Kubernetes, where the run folder is the pods'."""
    theirs = tmp_path / "theirs" / "profiles" / "0-1"
    theirs.mkdir(parents=True)
    (theirs / FILE).write_bytes(TRACE)
    seats: list[int] = []
    shells = [
        [sys.executable, "-c", ENTRY, str(tmp_path / "told"), json.dumps(ANSWER), str(tmp_path / "theirs")],
        ["env", f"RUN_DIR={tmp_path / 'theirs'}", "sh", "-c", "echo welcome; exec sh"],
    ]

    def words(_: Any, selection: Any, terminal: bool) -> list[str]:
        seats.append(selection.rank)
        assert not terminal
        return shells[min(len(seats), 2) - 1]

    monkeypatch.setattr(shell, "words", words)
    assert "error" not in profiles.take(run, WISH, lambda _: None)["ranks"][0]
    assert seats == [0, 0]
    assert (run.folder / "profiles" / "0-1" / FILE).read_bytes() == TRACE

    (run.folder / "profiles" / "0-1" / FILE).unlink()
    (theirs / FILE).unlink()
    seats.clear()
    (rank,) = profiles.take(run, WISH, lambda _: None)["ranks"]
    assert rank["error"].startswith("its trace did not arrive: ")
    assert "No such file" in rank["error"]
    assert [path.name for path in (run.folder / "profiles" / "0-1").iterdir()] == ["profile.json"]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"error": "a profile is being taken already"}, "job-1: a profile is being taken already"),
        (
            {**ANSWER, "ranks": [{"rank": 0, "host": "a", "file": "", "error": "tells no steps"}]},
            "job-1: rank 0 on a: tells no steps",
        ),
    ],
)
def test_what_cannot_be_profiled(
    answer: Any, message: str, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(monkeypatch, tmp_path, answer)
    with pytest.raises(PlanError, match=message):
        profiles.take(run, WISH, lambda _: None)
    assert list(run.folder.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("sh",), "the node entry of job-1 gave no profile: rank 0's host has no folder of records"),
        (("true",), "the node entry of job-1 gave no profile: it said nothing"),
        (("/no/such/program",), "/no/such/program did not start: No such file or directory"),
    ],
)
def test_why_there_is_none(
    words: tuple[str, ...], message: str, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LAUNCHER_HEARTBEAT", raising=False)
    beside(monkeypatch, *words)
    with pytest.raises(SubmitError, match=message):
        profiles.take(run, WISH, lambda _: None)


@pytest.mark.parametrize(
    "answer",
    [
        [],
        3,
        {},
        {**ANSWER, "ranks": None},
        {**ANSWER, "ranks": [3]},
        {**ANSWER, "ranks": [{**RANK, "bytes": "x"}]},
        {**ANSWER, "ranks": [{**RANK, "file": 1}]},
        {**ANSWER, "ranks": [{**RANK, "file": ".."}]},
        {**ANSWER, "ranks": [{**RANK, "file": "profile.json"}]},
        {**ANSWER, "ranks": [{**RANK, "file": "../../x"}]},
        {**ANSWER, "name": "../x"},
        {**ANSWER, "name": "x" * 300},
        "[" * 100_000,
    ],
)
def test_an_answer_may_be_anything(
    answer: Any, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node entry is a program in somebody's pod."""
    answers(monkeypatch, tmp_path, answer)
    with pytest.raises((SubmitError, PlanError), match=r"gave no profile|names that are none|names no ranks"):
        profiles.take(run, WISH, lambda _: None)
    assert list(run.folder.iterdir()) == []


def test_no_more_of_a_trace_is_taken_than_was_announced(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    beside(monkeypatch, "sh", "-c", "exec yes")  # without an end
    rank = dict(RANK)
    profiles._fetch(run, rank, run.folder)
    assert "error" not in rank
    assert (run.folder / FILE).stat().st_size == len(TRACE)


def test_a_run_that_ends_meanwhile(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, tmp_path, "end")
    with pytest.raises(SubmitError, match="the run ended before"):
        profiles.take(run, WISH, lambda _: None)


def test_a_rank_that_there_is_not(run: Any) -> None:
    with pytest.raises(RunNotFoundError, match=r"job-1 has no rank 2; ranks are 0 to 1"):
        profiles.take(run, profiles.Wish((0, 2), 2, 60.0), lambda _: None)


@pytest.mark.parametrize("under", [False, True])
def test_nsys_is_for_runs_that_were_started_under_it(
    under: bool, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = SimpleNamespace(profile=SimpleNamespace(nsys=under))
    monkeypatch.setattr(rerun, "plan_of", lambda _: SimpleNamespace(job=job))
    report = {**RANK, "file": "rank-0.nsys-rep", "cpu": 0.0, "device": 0.0, "operators": []}
    answers(monkeypatch, tmp_path, {**ANSWER, "ranks": [report]})
    (run.folder / "profiles" / "0-1").mkdir(parents=True)
    (run.folder / "profiles" / "0-1" / "rank-0.nsys-rep").write_bytes(TRACE)
    if under:
        assert profiles.take(run, WISH._replace(tool="nsys"), lambda _: None)["ranks"] == [report]
        assert json.loads((tmp_path / "it's here" / "wish").read_text())["tool"] == "nsys"
    else:
        with pytest.raises(PlanError, match="job-1 was not started under nsys, which attaches to no process"):
            profiles.take(run, WISH._replace(tool="nsys"), lambda _: None)


def test_a_run_that_has_ended_names_what_was_taken(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(*_: Any, **__: Any) -> list[str]:
        raise shell.EndedError("job-1 has ended")

    monkeypatch.setattr(shell, "words", ended)
    with pytest.raises(PlanError, match=r"job-1 has ended: .*; none were taken while it ran"):
        profiles.take(run, WISH, lambda _: None)
    folder = kept.keep(run.folder, ANSWER)
    with pytest.raises(PlanError, match=f"those taken while it ran are in {folder}"):
        profiles.take(run, WISH, lambda _: None)


PROGRAM = """
import pathlib, torch, workloads
model = torch.nn.Linear(8, 8)
step = 0
while not pathlib.Path({gate!r}).exists():
    step += 1
    model(torch.ones(4, 8)).sum().backward()
    workloads.heartbeat(step)
    print("step", step, flush=True) if step < 3 else None
    __import__("time").sleep(0.05)
"""


@pytest.mark.heavy
def test_a_run_on_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A program of one's own with torch, on two hosts: traces of both ranks, while it runs on."""
    gate = tmp_path / "gate"
    monkeypatch.setenv("LAUNCHER_RUNS", str(tmp_path / "runs"))
    monkeypatch.chdir(ROOT)
    (tmp_path / "own.py").write_text(PROGRAM.format(gate=str(gate)))
    settings = (f"workload={tmp_path}/own.py", "args={}", "nodes=2", "batch={micro: 1}", "cluster.slots=1")
    words = [word for setting in settings for word in ("--set", setting)]
    assert main.main(["local", "jobs/quickstart.yaml", *words]) == 0
    run = capsys.readouterr().out.strip()
    folder = tmp_path / "runs" / run
    try:
        deadline = time.monotonic() + 120
        while not all(_ready(folder, rank) for rank in range(2)):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert main.main(["profile", run, "--ranks", "0-1", "--steps", "3", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert [(rank["rank"], rank["host"]) for rank in found["ranks"]] == [
            (0, "127.0.0.1"),
            (1, "127.0.0.2"),
        ]
        for rank in found["ranks"]:
            assert rank["to"] - rank["from"] == 2
            with gzip.open(folder / "profiles" / found["name"] / rank["file"]) as text:
                names = [event["name"] for event in json.load(text)["traceEvents"]]
            assert names.count("aten::linear") == 3
        assert main.main(["profile", run, "--ranks", "2"]) == RunNotFoundError.exit_code
        assert main.main(["profile", run, "--steps", "1"]) == 0
        shown = capsys.readouterr()
        assert "rank 0 on 127.0.0.1: steps " in shown.out
        assert f"{run} has no rank 2; ranks are 0 to 1" in shown.err
    finally:
        gate.touch()
    deadline = time.monotonic() + 60
    while not (folder / "exit_code").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert (folder / "exit_code").read_text().strip() == "0"
    assert main.main(["profile", run]) == PlanError.exit_code


def _ready(folder: Path, rank: int) -> bool:
    log = folder / "logs" / f"rank-{rank}.log"
    return log.exists() and "step 2" in log.read_text()
