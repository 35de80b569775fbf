"""The gate before the ranks, on real hosts: what it checks, whom it names, and what it costs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.real.slurm.site import Site

pytestmark = pytest.mark.slurm

PROGRAM = "import os; print('rank', os.environ['RANK'], 'runs')\n"


def settings(site: Site, *more: str) -> list[str]:
    """A job of four hosts that does next to nothing after preflight."""
    (site.folder / "hello.py").write_text(PROGRAM)
    chosen = ("workload=./hello.py", "preflight=true", "nodes=4", "batch={micro: 1}", "args={}", *more)
    return [word for setting in chosen for word in ("--set", setting)]


def test_fit_hosts_pass_and_the_ranks_start(site: Site) -> None:
    done = site.launcher("slurm", "job.yaml", "--wait", *settings(site))
    assert "succeeded" in done.stderr
    run = json.loads(site.launcher("list", "--json").stdout)[0]["id"]
    log = (site.path(run) / "logs" / "job.log").read_text()
    table = log[log.index("preflight, ") :].splitlines()
    assert table[1].split()[:4] == ["host", "/dev/shm", "scratch", "memlock"]
    assert [row.split()[0] for row in table[2:6]] == ["n1", "n2", "n3", "n4"]
    assert all("GB/s" in row and "FAILED" not in row for row in table[2:6])
    assert "rank 3 runs" in site.launcher("logs", run, "--rank", "3").stdout


def test_unfit_hosts_are_named_and_then_avoided(site: Site) -> None:
    # n2 has less shared memory than a rank needs
    site.cluster.node_exec("n2", "mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", "/dev/shm")
    try:
        done = site.launcher("slurm", "job.yaml", "--wait", *settings(site, "nodes=2"), code=1)
        assert "n2 failed: /dev/shm" in done.stderr
        run = json.loads(site.launcher("list", "--json").stdout)[0]
        assert (run["state"], run["exit_code"]) == ("FAILED", 76)
        assert not list((site.path(run["id"]) / "logs").glob("rank-*.log")), "no rank may start"

        listed = (site.folder / "runs" / "bad-hosts.txt").read_text()
        assert listed.startswith("n2 20")
        again = site.launcher("slurm", "job.yaml", "--exclude-bad", "--wait", *settings(site, "nodes=2"))
        assert "without n2: /dev/shm" in again.stderr
        hosts = json.loads(site.launcher("list", "--json").stdout)[0]["hosts"]
        assert len(hosts) == 2
        assert "n2" not in hosts
    finally:
        site.cluster.node_exec("n2", "umount", "/dev/shm")


def test_a_slow_host_is_named(site: Site) -> None:
    """One of three hosts has a slow cable: it is slow with both neighbours, they only with it."""
    link = site.cluster.network.link("n3")
    site.cluster.sh(f"tc qdisc add dev {link} root tbf rate 100mbit burst 256k latency 50ms")
    try:
        words = settings(site, "nodes=3", "cluster.slurm.floor=0.05")
        done = site.launcher("slurm", "job.yaml", "--wait", *words, code=1)
        assert "preflight: n3 failed: all-reduce" in done.stderr
        assert "n2 failed" not in done.stderr
        assert "n1 failed" not in done.stderr
    finally:
        site.cluster.sh(f"tc qdisc del dev {link} root")
