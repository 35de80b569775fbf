"""What Slurm does to jobs, and many of them at once."""

from __future__ import annotations

import concurrent.futures
import json
import resource
import time
from typing import TYPE_CHECKING, Any

from tests.faults import runs
from tests.faults.row import Row
from tests.faults.runs import Fault
from tests.real.slurm import test_own_programs as own
from tests.real.slurm.site import ENDED

if TYPE_CHECKING:
    from tests.real.slurm.site import Site

SLEEP = "import time; time.sleep(60)\n"


def requeued(site: Site) -> Row:
    run = runs.train(site, "requeue")
    began = time.time()
    site.cluster.sh(f"scontrol requeue {site.status(run)['native_id']}")
    seen = "PENDING: waiting for its begin time (after a requeue: a short delay)"
    return runs.over(site, run, Fault(began), "`scontrol requeue`", seen)


def preempted(site: Site) -> Row:
    run = runs.train(site, "preempt", "cluster.slurm.partition=low")
    began, every = time.time(), len(site.cluster.names)
    site.cluster.sh(f"sbatch -p debug -N{every} --exclusive -o /dev/null --wrap 'sleep 5'")
    seen = "saves on the signal; PENDING: waiting for free nodes"
    return runs.over(site, run, Fault(began), "preemption with 5 s of grace", seen)


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
    what = "the walltime of a program of one's own runs out"
    return Row(what, seen, "nothing", told=runs.told(site, run))


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
    seen = f"ten runs with folders of their own; a submission costs {ours:.2f} s of CPU above sbatch's own"
    return Row("ten submissions of one job at once", seen, "nothing")


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
    return Row("an array of 100 runs", f"one array; `report` shows 100 rows; {spent}", "nothing")


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
    seen = f"exit 4, Slurm's own words: {said}"
    return Row("a wrong partition or account", seen, "no run folder is left")
