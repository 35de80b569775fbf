"""What a user sees when something breaks, as a table: `make faults` breaks a real cluster of four hosts.

Owns the faults and what must hold after each; tests/real/slurm owns the cluster. Not part of `make test`:
a quarter of an hour. Every training run takes 24 steps of a small GPT on two hosts with a checkpoint every 4 steps.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.real.slurm import cluster, config
from tests.real.slurm import test_own_programs as own
from tests.real.slurm.site import ENDED, Site

if TYPE_CHECKING:
    from collections.abc import Callable

STEPS, EVERY = 24, 4
TRAIN = ("args.step-delay=0.3", f"args.max-steps={STEPS}", f"checkpoint.every={EVERY}", "batch={micro: 2}")
SLEEP = "import time; time.sleep(60)\n"


@dataclass(frozen=True)
class Row:
    """`seen` is quoted from the command line; `lost` and `times` are measured."""

    fault: str
    seen: str
    lost: str
    times: str = ""


def train(site: Site, name: str, *more: str) -> str:
    """A run that has just passed step 6, with a complete checkpoint of step 4."""
    run = site.submit(*TRAIN, f"name={name}", *more)
    site.wait(run, lambda _: any(step >= 6 for step in steps(site, run)))
    return run


def steps(site: Site, run: str) -> list[int]:
    return [r["step"] for r in site.metrics(run) if "loss" in r and "event" not in r]


def complete(site: Site, run: str) -> set[str]:
    """The tags of all complete checkpoints."""
    return {p.parent.name for p in (site.path(run) / "checkpoints").glob("*/complete.json")}


def went_on(site: Site, run: str, began: float, state: str = "SUCCEEDED") -> tuple[str, str]:
    """(what was lost, where the time went) of a run that was interrupted at `began` and has to end in `state`."""
    left = None
    while True:
        now = site.status(run)
        if left is None and (now["state"] != "RUNNING" or len(attempts(site, run)) > 1):
            left = time.time()
        if now["state"] in ENDED:
            break
        time.sleep(0.2)
    assert now["state"] == state, f"{now}\n{site.all_logs(run)}"
    assert set(steps(site, run)) == set(range(1, STEPS + 1)), "a step is missing"
    return lost(site, run), times(site, run, began, left or began)


def lost(site: Site, run: str) -> str:
    """How many steps were done twice; every checkpoint that was complete must have been used."""
    records, twice = site.metrics(run), 0
    for start in site.starts(run)[1:]:
        before = records[: records.index(start)]
        saved = [r["tag"] for r in before if r.get("event") == "checkpoint"]
        assert start["resumed_from"] == (saved[-1] if saved else None), "not the newest complete checkpoint"
        done = max((r["step"] for r in before if "loss" in r and "event" not in r), default=0)
        twice += max(0, done - start["step"])
    return f"no checkpoint; {twice} steps done again" if twice else "nothing"


def attempts(site: Site, run: str) -> list[float]:
    """When each attempt's script started, Unix time."""
    return sorted(p.stat().st_mtime for p in site.path(run).glob("hostfile-*"))


def times(site: Site, run: str, began: float, left: float) -> str:
    """Detect: until Slurm's state changed. Wait: until the script ran again. Start: imports, meeting, engine, load.

    Empty for a run that was never started again.
    """
    if len(site.starts(run)) == 1:
        return ""
    taken = [r["time"] for r in site.metrics(run) if "loss" in r and "event" not in r]
    again = next(s["time"] for s in site.starts(run)[1:] if max(taken) > s["time"])
    first = min(t for t in taken if t > again)
    script = max(t for t in attempts(site, run) if t < again)
    parts = {"detect": left - began, "wait": script - left, "start and load": again - script}
    parts["first step"] = first - again
    words = ", ".join(f"{name} {max(0.0, seconds):.1f}" for name, seconds in parts.items())
    return f"{first - began:.1f} s: {words}"


def slurmd_is_killed(site: Site) -> Row:
    run = train(site, "slurmd")
    host, began = site.status(run)["hosts"][1], time.time()
    os.kill(site.cluster.first_pid[host], signal.SIGSTOP)  # the test's host would end with its slurmd
    site.cluster.node_exec(host, "pkill", "-KILL", "-x", "slurmd")
    time.sleep(2)
    site.cluster.node_exec(host, "slurmd", "-N", host)
    went_on(site, run, began)
    assert len(site.starts(run)) == 1
    site.cluster.crash(host)
    site.cluster.start_node(host)
    return Row(
        "slurmd of a host is killed and starts again", "nothing: the run stays RUNNING and ends", "nothing"
    )


def host_crashes(site: Site) -> Row:
    run = train(site, "crash")
    host, began = site.status(run)["hosts"][1], time.time()
    site.cluster.crash(host)
    gone, spent = went_on(site, run, began)
    assert (site.folder / "runs" / "bad-hosts.txt").read_text().count(f"{host} ")
    return Row(
        "a host loses power", f"PENDING, then RUNNING without {host}, which is on bad-hosts.txt", gone, spent
    )


def first_host_is_cut(site: Site) -> Row:
    run = train(site, "cut")
    host, began = site.status(run)["hosts"][0], time.time()
    site.cluster.cut(host)
    gone, spent = went_on(site, run, began)
    return Row("the first host is cut off the network", "PENDING, then RUNNING on other hosts", gone, spent)


def spare_takes_over(site: Site) -> Row:
    """Rank 0's host loses power, and a job waits for hosts: it must not get one."""
    run = train(site, "spare", "spares=1", "preflight=true", "walltime=30m")
    waits = site.cluster.sh("sbatch --parsable -N3 --exclusive -o /dev/null --wrap true")
    now, began = site.status(run), time.time()
    site.cluster.crash(now["hosts"][0])
    while site.status(run)["state"] not in ENDED:
        assert site.cluster.states(waits) <= {"PENDING"}, "another job got in"
        time.sleep(0.5)
    after = site.ended(run)
    assert after["state"] == "SUCCEEDED", site.all_logs(run)
    assert "Restarts=0" in site.cluster.sh(f"scontrol show job {now['native_id']}")
    job, (_, again) = now["native_id"], site.starts(run)
    detected = (site.path(run) / f"outcome-{job}-0").stat().st_mtime
    step = (site.path(run) / f"hostfile-{job}-1").stat().st_mtime
    first = min(r["time"] for r in site.metrics(run) if "loss" in r and r["time"] > again["time"])
    parts = {
        "detect": detected - began,
        "other hosts": step - detected,
        "start and load": again["time"] - step,
    }
    words = ", ".join(f"{name} {seconds:.1f}" for name, seconds in parts.items())
    spent = f"{first - began:.1f} s: {words}, first step {first - again['time']:.1f}"
    seen = f"nothing: RUNNING, on {', '.join(after['hosts'])}; a job that waited for hosts went on waiting"
    return Row("the first host that trains loses power, with `spares: 1`", seen, lost(site, run), spent)


def requeued(site: Site) -> Row:
    run = train(site, "requeue")
    began = time.time()
    site.cluster.sh(f"scontrol requeue {site.status(run)['native_id']}")
    gone, spent = went_on(site, run, began)
    return Row(
        "`scontrol requeue`",
        "PENDING: waiting for its begin time (after a requeue: a short delay)",
        gone,
        spent,
    )


# The example of jobs/own/ at five steps a second, so that it outlives the shortest walltime that is not refused.
SLOWLY = (
    "import builtins, time\nsay = print\nbuiltins.print = lambda *w, **k: (say(*w, **k), time.sleep(0.2))\n"
)


def walltime_is_over(site: Site) -> Row:
    """Nothing but Slurm's own clock ends the attempts of a program of the user's own."""
    last = 400
    run = own.example(site, SLOWLY + own.START, args={"steps": last}, walltime="2m")
    done = site.wait(run, lambda now: now["state"] in ENDED, limit=900)
    assert done["state"] == "SUCCEEDED", site.all_logs(run)
    assert own.steps(site, run) == list(range(1, last + 1)), "a step is missing, or was done twice"
    times = (site.path(run) / "logs" / "job.log").read_text().count("requeued, to resume")
    assert times, "it was never put back"
    seen = f"PENDING, then RUNNING; put back {times} time{'s' * (times > 1)}"
    return Row("the walltime of a program of one's own runs out", seen, "nothing")


def preempted(site: Site) -> Row:
    run = train(site, "preempt", "cluster.slurm.partition=low")
    began = time.time()
    site.cluster.sh("sbatch -p debug -N4 --exclusive -o /dev/null --wrap 'sleep 5'")
    gone, spent = went_on(site, run, began)
    return Row(
        "preemption with 5 s of grace", "saves on the signal; PENDING: waiting for free nodes", gone, spent
    )


def rank_dies_while_saving(site: Site) -> Row:
    run = site.submit(*TRAIN, "name=torn")
    site.wait(run, lambda _: bool(steps(site, run)))
    host = site.status(run)["hosts"][1]
    torn = site.path(run) / "checkpoints" / f"step-{2 * EVERY:08d}"
    pid = next(
        line.rpartition(" ")[2]
        for line in (site.path(run) / "logs/rank-1.log").read_text().splitlines()
        if line.startswith("--- attempt")
    )
    # inside the host, so that the signal comes within a millisecond of the folder
    site.cluster.node_exec(host, "bash", "-c", 'until [ -e "$0" ]; do :; done; kill -9 "$1"', str(torn), pid)
    site.wait(run, lambda now: now["state"] == "FAILED")
    assert torn.name not in complete(site, run), "the checkpoint was whole already: the fault came too late"
    said = site.launcher("status", run).stdout
    assert "rank 1 on" in said
    began = time.time()
    site.launcher("resume", run)
    gone, spent = went_on(site, run, began)
    first = next(line for line in said.splitlines() if line.startswith("first failure"))
    return Row(
        "kill -9 of a rank during a checkpoint", f"{' '.join(first.split())}; `resume` continues", gone, spent
    )


def disk_is_full_behind_training(site: Site) -> Row:
    """Steps are done meanwhile, so that it is started again by itself before it is given up: no time is told."""
    row = disk_is_full(site, "checkpoint.async=true")
    return Row(f"{row.fault} while training goes on", row.seen, row.lost)


def disk_is_full(site: Site, *more: str) -> Row:
    run = train(site, "full", *more)
    filler = site.folder / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(2**20))
    os.truncate(filler, filler.stat().st_size - 2**18)  # room for the last words, not for a checkpoint
    code = site.wait(run, lambda now: now["state"] == "FAILED")["exit_code"]
    said = site.launcher("status", run).stdout
    assert "likely cause   a disk is full" in said, f"{said}\n{site.all_logs(run)}"
    before = complete(site, run)
    assert before, "the complete checkpoints must stay"
    filler.unlink()
    began = time.time()
    site.launcher("resume", run)
    gone, spent = went_on(site, run, began)
    seen = f"FAILED, exit code {code}, likely cause: a disk is full; `resume` continues"
    return Row("the run folder's disk fills up", seen, gone, spent)


def ten_at_once(site: Site) -> Row:
    words = [w for s in (*site.program("print('done')\n"), "nodes=1") for w in ("--set", s)]
    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        ids = list(pool.map(lambda _: site.launcher("slurm", "job.yaml", *words).stdout.strip(), range(10)))
    assert len(set(ids)) == 10
    assert all(site.ended(run)["state"] == "SUCCEEDED" for run in ids)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    site.launcher("slurm", "job.yaml", *words)
    middle = resource.getrusage(resource.RUSAGE_CHILDREN)
    site.cluster.sh("sbatch --parsable -o /dev/null --wrap true")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    ours = _cpu(middle) - _cpu(before) - (_cpu(after) - _cpu(middle))
    cost = f"one submission: {ours:.2f} s of CPU above sbatch's own"
    return Row("ten submissions of one job at once", "ten runs with folders of their own", "nothing", cost)


def _cpu(usage: resource.struct_rusage) -> float:
    return usage.ru_utime + usage.ru_stime


def array_of_a_hundred(site: Site) -> Row:
    rates = ",".join(f"{i}e-5" for i in range(1, 101))
    words = [w for s in (*site.program("print('done')\n"), "nodes=1", "args={lr: 1}") for w in ("--set", s)]
    began = time.monotonic()
    sweep = site.launcher("slurm", "job.yaml", *words, "--sweep", f"args.lr={rates}").stdout.strip()
    submitted = time.monotonic() - began
    while True:
        results: list[dict[str, Any]] = json.loads(site.launcher("report", sweep, "--json").stdout)
        if all(r["state"] in ENDED for r in results):
            break
        time.sleep(1)
    assert [r["state"] for r in results] == ["SUCCEEDED"] * 100
    spent = f"submitted in {submitted:.1f} s, all done after {time.monotonic() - began:.0f} s"
    return Row("an array of 100 runs", "one array; `report` shows 100 rows", "nothing", spent)


def held_by_admin(site: Site) -> Row:
    run = site.submit(*site.program(SLEEP), "cluster.slurm.sbatch.begin=now+1hour")
    site.cluster.sh(f"scontrol hold {site.status(run)['native_id']}")
    now = site.status(run)
    assert now["reason"] == "held by an administrator", now
    site.launcher("cancel", run)
    return Row("an administrator holds the job", f"{now['state']}: {now['reason']}", "nothing")


def refused(site: Site) -> Row:
    partition = site.launcher("slurm", "job.yaml", "--set", "cluster.slurm.partition=absent", code=4).stderr
    account = site.launcher("slurm", "job.yaml", "--set", "cluster.slurm.account=absent", code=4).stderr
    assert "partition" in partition
    assert "account" in account
    said = partition.strip().splitlines()[0].removeprefix("error: ")
    return Row("a wrong partition or account", f"exit 4, Slurm's own words: {said}", "no run folder is left")


# fmt: off
FAULTS: tuple[Callable[[Site], Row], ...] = (
    host_crashes, first_host_is_cut, spare_takes_over, slurmd_is_killed, requeued, walltime_is_over, preempted,
    rank_dies_while_saving, disk_is_full, disk_is_full_behind_training, ten_at_once, array_of_a_hundred, held_by_admin,
    refused,
)
# fmt: on


def main() -> int:
    chosen = [f for f in FAULTS if not sys.argv[1:] or f.__name__ in sys.argv[1:]]
    rows, bad = [], 0
    with tempfile.TemporaryDirectory(prefix="faults-") as made:
        # a disk of its own, mounted before the hosts start, so that they see it and it can be filled
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1g", "tmpfs", made], check=True)
        try:
            settings = config.Settings(extra="AccountingStorageEnforce=associations")
            with cluster.Cluster(settings) as running:
                for number, fault in enumerate(chosen):
                    began, folder = time.monotonic(), Path(made) / str(number)
                    folder.mkdir()
                    try:
                        rows.append(fault(Site(folder, running)))
                    except Exception as error:  # one fault that goes wrong must not hide the others
                        bad += 1
                        said = str(error).strip().splitlines() or [type(error).__name__]
                        rows.append(Row(fault.__name__, f"NOT AS IT SHOULD BE: {said[0][:200]}", "?"))
                        print(error, file=sys.stderr)
                    print(f"{fault.__name__}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
                    running.reset()
        finally:
            subprocess.run(["umount", "-l", made], check=False)
    print("| fault | what the user sees | lost | until it trains again |\n|---|---|---|---|")
    for row in rows:
        cells = (row.fault, row.seen, row.lost, row.times)
        print("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
