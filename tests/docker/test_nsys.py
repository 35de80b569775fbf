"""Ranks under Nsight Systems (docker/nsys.py): a stand-in for nsys, real node entries, and a torch of the test's.

The stand-in is as unlike its rank as can be: it ends with 0 whatever the rank does, and hears no signal. What it makes
of a range is a report, as nsys does for each with `--capture-range-end=repeat`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import nsys
import pytest
import ranks

from tests.docker import entries

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.heavy
STAND_IN = f"""#!{sys.executable}
import os, pathlib, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
words = sys.argv[1:]
assert words.pop(0) == "profile"
given = {{}}
while words[0].startswith("--"):
    name, _, value = words.pop(0).partition("=")
    given[name] = value
assert (given["--capture-range"], given["--capture-range-end"]) == ("cudaProfilerApi", "repeat"), given
output, number = pathlib.Path(given["--output"]), 0
assert output.parent.is_dir()
started = subprocess.Popen(words)
while started.poll() is None:
    if output.with_suffix(".closed").exists():
        output.with_suffix(".closed").unlink()
        number += 1
        output.with_name(f"{{output.name}}.{{number}}.nsys-rep").write_text("report")
    time.sleep(0.05)
"""
# A torch whose ranges the stand-in sees, and steps until there is a file.
PROGRAM = """
import os, pathlib, signal, sys, time, types
from pathlib import Path
mine = Path(os.environ["LAUNCHER_NSYS"])
start = lambda: mine.with_suffix(".opened").touch()
stop = lambda: mine.with_suffix(".closed").touch()
cuda = types.SimpleNamespace(synchronize=lambda: None, profiler=types.SimpleNamespace(start=start, stop=stop))
sys.modules["torch"] = types.SimpleNamespace(cuda=cuda)
import workloads
signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))
step = 0
Path(f"pid-{os.environ['RANK']}").write_text(str(os.getpid()))
while not Path("go-on").exists():
    step += 1
    time.sleep(0.02)
    workloads.heartbeat(step)
sys.exit(7)
"""


@pytest.fixture
def job(new_job: Callable[..., entries.Job]) -> entries.Job:
    job = new_job(slots=2)
    (job.folder / "bin").mkdir()
    stand_in = job.folder / "bin" / "nsys"
    stand_in.write_text(STAND_IN)
    stand_in.chmod(0o755)
    return job


def start(job: entries.Job) -> Path:
    """The folder of the records, once both ranks have done a step."""
    scratch = job.folder / "scratch"
    scratch.mkdir()
    path = f"{job.folder / 'bin'}:{os.environ['PATH']}"
    job.start(0, PROGRAM, "--nsys", f"--scratch={scratch}", grace=10.0, PATH=path)

    def stepped() -> list[Path]:
        return [
            f for f in scratch.glob("heartbeat-*") if all((f / f"rank-{rank}").exists() for rank in (0, 1))
        ]

    entries.until(stepped, "ranks step")
    return stepped()[0]


def profile(told: Path, name: str) -> dict[str, Any]:
    wish = {"ranks": [0, 1], "steps": 3, "limit": 60.0, "tool": "nsys"}
    (told / f"{name}.draft").write_text(json.dumps(wish))
    (told / f"{name}.draft").rename(told / f"{name}.ask")
    entries.until((told / f"{name}.answer").exists, "it is answered")
    found: dict[str, Any] = json.loads((told / f"{name}.answer").read_text())
    return found


def test_each_profile_is_a_report_and_the_rank_ends_as_it_does(job: entries.Job) -> None:
    told = start(job)
    names = set()
    for number in range(2):
        found = profile(told, f"profile-{number}")
        names.add(found["name"])
        for rank in found["ranks"]:
            assert rank["file"] == f"rank-{rank['rank']}.nsys-rep", rank
            assert rank["to"] - rank["from"] == 2
            assert (job.folder / "profiles" / found["name"] / rank["file"]).read_text() == "report"
    assert len(names) == 2
    assert not list((job.folder / "profiles" / "nsys-0").glob("*.nsys-rep"))
    job.go_on()
    assert job.codes() == [7]
    assert job.outcome()[0] == 7


def test_signals_are_the_ranks(job: entries.Job) -> None:
    start(job)
    job.entries[0].send_signal(signal.SIGTERM)
    assert job.codes() == [9]
    assert not any(entries.lives(pid) for pid in job.ranks("pid"))


def test_no_rank_outlives_a_killed_node_entry(job: entries.Job) -> None:
    start(job)
    job.entries[0].kill()
    entries.until(lambda: not any(map(entries.lives, job.ranks("pid"))), "no rank is left")


def test_without_nsys_nothing_starts(new_job: Callable[..., entries.Job]) -> None:
    job = new_job()
    job.start(0, "print('started')", "--nsys", PATH="/nowhere")
    assert job.codes() == [64]
    assert "profile.nsys: there is no nsys on PATH (/nowhere)" in job.said(0)
    assert not (job.folder / "logs" / "rank-0.log").exists()


def test_a_rank_that_is_not_under_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(nsys.VARIABLE, raising=False)
    with pytest.raises(RuntimeError, match="attaches to no process that runs"):
        nsys.Recorder(None, 1)


def test_a_report_that_does_not_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(nsys.VARIABLE, str(tmp_path / "rank-0"))
    monkeypatch.setattr(nsys, "_AGAIN", 0.0)
    nothing = SimpleNamespace(start=lambda: None, stop=lambda: None)
    (tmp_path / "rank-0.1.nsys-rep").write_text("of the profile before")
    recorder = nsys.Recorder(
        SimpleNamespace(cuda=SimpleNamespace(synchronize=lambda: None, profiler=nothing)), 1
    )
    recorder.stop()
    report, to = tmp_path / "rank-0.2.nsys-rep", tmp_path / "kept" / "rank-0.nsys-rep"
    assert recorder.written(to) is None
    report.write_text("a")
    assert recorder.written(to) is None  # it may grow
    report.write_text("ab")
    assert recorder.written(to) is None
    assert (recorder.written(to) or {})["bytes"] == 2
    assert to.read_text() == "ab"
    recorder._ended -= nsys._PATIENCE + 1
    with pytest.raises(TimeoutError, match="no report within 120 s"):
        recorder.written(to)


def test_a_rank_that_has_not_started_yet_or_has_ended(tmp_path: Path) -> None:
    """Then nsys itself gets the signals: another process may have the rank's number by now."""
    held = ranks.Ranks(under={5: nsys.file(tmp_path, "0")})
    assert (held.process(5), held.code(5, -9), held.process(6), held.code(6, 3)) == (5, 137, 6, 3)
    nsys.file(tmp_path, "0").write_text("77")
    assert held.process(5) == 77
    nsys.file(tmp_path, "0").with_suffix(".code").write_text("-11")
    assert (held.process(5), held.code(5, 0)) == (5, 139)
