"""Hangs on a real Slurm, two hosts: explained, ended, the host listed, started again; and live runs looked into."""

from __future__ import annotations

import gzip
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests import commandline
from tests.real.slurm.site import ENV

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.real.slurm.site import Site

pytestmark = pytest.mark.slurm
OWN = Path(__file__).with_name("own")
LIMIT = 300.0
STALL = 20  # seconds


def submit(site: Site, program: str, stall: str, **more: Any) -> str:
    job = {
        "name": "hang",
        "cluster": "./site.yaml",
        "nodes": 2,
        "walltime": "15m",
        "preflight": False,
        "env": ENV,
    }
    job |= {"workload": str(OWN / program), "batch": {"micro": 1}, "watch": {"stall": stall}, **more}
    (site.folder / "hang.yaml").write_text(json.dumps(job))
    return site.launcher("slurm", "hang.yaml").stdout.strip()


def until(site: Site, run: str, done: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + LIMIT
    while not (found := done()):
        assert time.monotonic() < deadline, f"{what}\n{site.all_logs(run)}"
        time.sleep(0.2)
    return found


def stacks(site: Site, run: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(commandline.asked(["stacks", run, "--json"], site.env, site.folder))
    return found


def test_a_rank_that_was_stopped(site: Site) -> None:
    run = submit(site, "hanging.py", "10s", walltime="10m")
    folder = site.path(run)
    until(site, run, lambda: "step 7" in _log(folder), "it is started again")

    (line,) = (folder / "attempts.jsonl").read_text().splitlines()
    ended = json.loads(line)
    assert (ended["code"], ended["rank"], ended["step"], ended["again"]) == (72, 1, 3, True)
    assert f"rank 1 on {ended['host']} is stopped (SIGSTOP) (step 4)" in site.all_logs(run)
    (bad,) = [line for line in (folder.parent / "bad-hosts.txt").read_text().splitlines() if line[:1] != "#"]
    assert bad.startswith(f"{ended['host']} ")
    assert "is stopped (SIGSTOP)" in bad
    hang = site.status(run)["hang"]
    assert (hang["rank"], hang["host"], hang["of_host"]) == (1, ended["host"], True)

    found = stacks(site, run)
    assert [(rank["rank"], rank["step"]) for rank in found["ranks"]] == [(0, 8), (1, 8)]
    assert all(rank["threads"][0][-1][2] == "<module>" for rank in found["ranks"])
    (folder / "go-on").touch()
    assert site.ended(run)["state"] == "SUCCEEDED", site.all_logs(run)


WORDS = {
    "sleep": "sleeps (six_hangs.py:{line}, step {step})",
    "stop": "is stopped (SIGSTOP) (step {step})",
    "fifo": "is reading or writing a file (six_hangs.py:{line}, step {step})",
    "loop": "is in loop (six_hangs.py:{line}, step {step})",
    "kernel": "hangs in the kernel",
}
LINES = (OWN / "six_hangs.py").read_text().splitlines()


def line_of(kind: str) -> int:
    """The last line of the function at which rank 1 hangs."""
    begin = LINES.index(f"def {kind}() -> None:")
    return begin + LINES[begin:].index("")


def test_six_hangs_of_zero_2_and_zero_3(site: Site) -> None:
    """Four ranks of DeepSpeed: who waits for whom, at which line; a profile in between; the last hang ends the run."""
    cluster = site.folder / "site.yaml"
    cluster.write_text(cluster.read_text().replace("slots: 1", "slots: 2"))
    run = submit(site, "six_hangs.py", f"{STALL}s")
    folder = site.path(run)
    for stage in (2, 3):
        for kind in WORDS:
            until(site, run, (folder / f"at-{kind}-{stage}").exists, f"{kind} with ZeRO-{stage}")
            hangs(site, run, kind, folder / f"free-{kind}-{stage}")
        profiled(site, run)
        (folder / f"profiled-{stage}").touch()

    until(site, run, (folder / "last").exists, "the last hang")
    (folder / "quiet").touch()
    assert site.ended(run)["state"] == "SUCCEEDED", site.all_logs(run)
    (line,) = (folder / "attempts.jsonl").read_text().splitlines()
    ended = json.loads(line)
    assert (ended["code"], ended["rank"], ended["again"]) == (72, 1, True), site.all_logs(run)
    hang = site.status(run)["hang"]
    assert "ranks are in different collectives: " in hang["verdict"]
    assert f"waits in barrier (six_hangs.py:{line_of('other')}, step" in hang["verdict"]
    assert (hang["rank"], hang["of_host"]) == (1, False)
    said = json.loads((Path(hang["folder"]) / "verdict.json").read_text())
    assert said["limit"] == STALL <= said["silent"] <= 3 * STALL


def hangs(site: Site, run: str, kind: str, free: Path) -> None:
    """The verdict names rank 1 and its line as soon as the others wait for it; then it goes on."""
    found: dict[str, Any] = {}

    def seen() -> bool:
        found.update(stacks(site, run))
        rank = found["ranks"][1]
        words = WORDS[kind].format(line=line_of(kind), step=rank["step"])
        # the source of a broadcast goes on to the next one, so that they may wait at two lines
        waiting = [one for one in found["ranks"] if one["step"] == rank["step"]]
        return (
            len(waiting) == 4
            and "ranks wait in" in found["verdict"]
            and f"rank 1 on {rank['host']} {words}" in found["verdict"]
        )

    deadline = time.monotonic() + LIMIT
    while not seen():
        assert time.monotonic() < deadline, f"{kind}: {found['verdict']}"
    assert (found["rank"], found["of_host"]) == (1, kind in {"stop", "kernel"})
    if kind == "stop":
        rank = found["ranks"][1]
        site.cluster.node_exec(rank["host"], "kill", "-CONT", str(rank["pid"]))
    if free.is_fifo():
        os.close(os.open(free, os.O_RDWR))
    else:
        free.touch()


def profiled(site: Site, run: str) -> None:
    """A rank of each host, at the same steps, while they go on."""
    found = json.loads(site.launcher("profile", run, "--ranks", "0,3", "--steps", "2", "--json").stdout)
    first, last = found["ranks"]
    assert [first["rank"], last["rank"]] == [0, 3]
    assert first["host"] != last["host"]
    for rank in found["ranks"]:
        assert rank["to"] - rank["from"] == 1
        with gzip.open(site.path(run) / "profiles" / found["name"] / rank["file"]) as text:
            names = {event["name"] for event in json.load(text)["traceEvents"]}
        assert {"aten::addmm", "ProfilerStep#1", "ProfilerStep#2"} <= names


def _log(folder: Path) -> str:
    try:
        return (folder / "logs" / "rank-0.log").read_text()
    except OSError:
        return ""
