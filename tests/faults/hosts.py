"""Hosts that go, with and without a spare, and ranks that hang or die on them."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

from tests.faults import runs
from tests.faults.runs import Fault
from tests.real.slurm.site import ENDED

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.row import Row
    from tests.real.slurm.site import Site

SPARE = ("spares=1", "preflight=true")


def slurmd_is_killed(site: Site) -> Row:
    run = runs.train(site, "slurmd")
    host, began = site.status(run)["hosts"][1], time.time()
    os.kill(site.cluster.first_pid[host], signal.SIGSTOP)  # the test's host would end with its slurmd
    site.cluster.node_exec(host, "pkill", "-KILL", "-x", "slurmd")
    time.sleep(2)
    site.cluster.node_exec(host, "slurmd", "-N", host)
    seen = "nothing: the run stays RUNNING and ends"
    row = runs.over(site, run, Fault(began), "slurmd of a host is killed and starts again", seen)
    assert len(site.starts(run)) == 1
    site.cluster.crash(host)
    site.cluster.start_node(host)
    return row


def host_crashes(site: Site) -> Row:
    run = runs.train(site, "crash")
    host, began = site.status(run)["hosts"][1], time.time()
    site.cluster.crash(host)
    seen = f"PENDING, then RUNNING without {host}, which is on bad-hosts.txt"
    row = runs.over(site, run, Fault(began), "a host loses power", seen)
    assert bad(site) == {host}
    return row


def first_host_is_cut(site: Site) -> Row:
    """It still reaches the run's folder, and says that the other one is lost."""
    run = runs.train(site, "cut")
    host, began = site.status(run)["hosts"][0], time.time()
    site.cluster.cut(host)
    seen = "PENDING, then RUNNING on other hosts; it alone is on bad-hosts.txt"
    row = runs.over(site, run, Fault(began), "the first host is cut off the network", seen)
    assert bad(site) == {host}
    return row


def spare_takes_over(site: Site) -> Row:
    """Rank 0's host of four loses power."""
    return _without_power(site, 4)


def spare_of_two(site: Site) -> Row:
    """The same with half the ranks: on two cores these start side by side, as on hosts of their own."""
    return _without_power(site, 2)


def _without_power(site: Site, nodes: int) -> Row:
    def lose_power(run: str, host: str) -> float:
        began = time.time()
        site.cluster.crash(host)
        return began

    run, fault = _replaced(site, f"spare-{nodes}", nodes, lose_power)
    what = f"the first of {nodes} hosts that train loses power, with `spares: 1`"
    return _row(site, run, fault, what)


def spare_for_a_cut_host(site: Site) -> Row:
    """Rank 0's host of four still reaches the run's folder, where it says that others are lost."""

    def cut(run: str, host: str) -> float:
        began = time.time()
        site.cluster.cut(host)
        return began

    run, fault = _replaced(site, "spare-cut", 4, cut)
    return _row(site, run, fault, "the first of 4 hosts that train is cut off the network, with `spares: 1`")


def spare_for_a_hang(site: Site) -> Row:
    def hang(run: str, host: str) -> float:
        site.cluster.node_exec(host, "kill", "-STOP", runs.pid(site, run, 0))
        return time.time()

    run, fault = _replaced(site, "spare-hang", 4, hang, ("watch={stall: 15s}",))
    assert "is stopped (SIGSTOP)" in site.status(run)["hang"]["verdict"]
    what = "a rank of 4 hosts hangs (SIGSTOP; `watch.stall: 15s`), with `spares: 1`"
    return _row(site, run, fault, what)


def rank_killed_three_times(site: Site) -> Row:
    """On one host, as long as it trains: after the second time the spare has its place.

    As by a fault of a GPU; SIGKILL is that of a kernel without memory, after which a restart does not help.
    """
    run = runs.train(site, "thrice", *SPARE, "nodes=4", "args.step-delay=1.0")
    host, kills, began = site.status(run)["hosts"][1], 0, 0.0
    for past in (runs.EVERY + 2, 2 * runs.EVERY + 2, 3 * runs.EVERY + 2):
        site.wait(run, lambda _: runs.done(site, run) >= past and _steps(site, run) > 0, runs.LIMIT)  # noqa: B023
        hosts = site.status(run)["hosts"]
        if host not in hosts:
            break
        began = began or time.time()
        attempts = len(site.starts(run))
        site.cluster.node_exec(host, "kill", "-SEGV", runs.pid(site, run, hosts.index(host)))
        kills += 1
        site.wait(run, lambda _: len(site.starts(run)) > attempts, runs.LIMIT)  # noqa: B023
    assert (kills, bad(site)) == (2, {host}), site.all_logs(run)
    seen = f"RUNNING; after the second time {host} is on bad-hosts.txt, and the idle host has its place"
    what = "a rank dies (SIGSEGV) again and again on one of 4 hosts, with `spares: 1` (the first time is measured)"
    return runs.over(site, run, Fault(began), what, seen)


def _steps(site: Site, run: str) -> int:
    """How many steps the newest attempt has done."""
    last = site.starts(run)[-1]["time"]
    return sum(r["time"] > last for r in runs.taken(site, run))


def _replaced(
    site: Site, name: str, nodes: int, breaks: Callable[[str, str], float], more: tuple[str, ...] = ()
) -> tuple[str, Fault]:
    """A run of `nodes` hosts and a spare, of which `breaks(run, host)` takes the first one that trains.

    A job that waits for any host must not get one while the run lives.
    """
    run = runs.train(site, name, *SPARE, f"nodes={nodes}", *more)
    idle = len(site.cluster.names) - nodes  # the waiting job wants one host more than those that are free now
    waits = site.cluster.sh(f"sbatch --parsable -N{idle} --exclusive -o /dev/null --wrap true")
    now = site.status(run)
    host = now["hosts"][0]
    began = breaks(run, host)
    after = site.wait(run, lambda now: now["state"] in ENDED, runs.LIMIT)
    assert after["state"] == "SUCCEEDED", site.all_logs(run)
    assert (after["native_id"], bad(site)) == (now["native_id"], {host}), site.all_logs(run)
    assert "Restarts=0" in site.cluster.sh(f"scontrol show job {now['native_id']}")
    assert host not in after["hosts"]
    _waited(site, waits, now["native_id"])
    return run, Fault(began)


def _waited(site: Site, job: str, held: str) -> None:
    """That a job got its hosts only when the job that held them had ended."""
    site.cluster.wait_for_state(job, "COMPLETED", timeout=runs.LIMIT)
    moments = "SLURM_TIME_FORMAT=%s sacct -X -n -P"
    began = int(site.cluster.sh(f"{moments} -j {job} -o Start"))
    # a job that has lost a host is written down anew, with those that it has left
    over = max(map(int, site.cluster.sh(f"{moments} -j {held} -o End").split()))
    assert began >= over, f"another job got in {over - began} s before the end"


def _row(site: Site, run: str, fault: Fault, what: str) -> Row:
    hosts = ", ".join(site.status(run)["hosts"])
    seen = f"nothing: RUNNING, on {hosts}; a job that waited for hosts went on waiting"
    return runs.over(site, run, fault, what, seen)


def bad(site: Site) -> set[str]:
    """The hosts on bad-hosts.txt."""
    path = site.folder / "runs" / "bad-hosts.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    return {line.split()[0] for line in lines if line.strip() and not line.startswith("#")}
