"""The probe with real ranks: every figure is there, in the form that the launcher reads; what is slow is named."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import pytest
from workloads import probe, probe_hosts, probe_links, probe_merging, probe_rates

from launcher import workloads
from launcher.files import measured, validation
from tests.docker.workloads import ranks

if TYPE_CHECKING:
    from pathlib import Path

SMALL = ("--rounds=2", "--sizes", "16", "32", "--messages", "4K", "64K", "--file=1M")


@pytest.mark.deepspeed
def test_two_ranks_measure_all_that_a_forecast_reads(tmp_path: Path) -> None:
    words = (*SMALL, f"--scratch={tmp_path}")
    run = ranks.run(tmp_path, 2, {}, *words, workload="probe", given=("run-dir",))
    text = (run.run_dir / probe.FILE).read_text()
    found, violations = validation.read(measured.Probe, json.loads(text))
    assert found, violations
    assert (found.device, found.ranks, found.slots, len(found.hosts)) == ("cpu", 2, 2, 1)
    assert [(m.type, m.size) for m in found.matrix] == [(t, s) for t in ("bf16", "fp32") for s in (16, 32)]
    assert [(c.kind, c.scope, c.ranks, c.bytes) for c in found.collectives] == [
        (kind, "host", 2, size) for kind in probe_links.KINDS for size in (4096, 65536)
    ]
    assert found.hosts[0].memory > 2**28
    assert [d.what for d in found.disks] == ["run folder", "scratch"]
    assert list(tmp_path.glob(".probe-*")) == []
    every = [m.rate for m in found.matrix] + [c.rate for c in found.collectives] + [found.memory]
    assert all(1 < r.low <= r.value <= r.high < math.inf for r in every)
    # for whom the run folder is out of reach, the log has the same
    (line,) = [line for line in run.output(0).splitlines() if line.startswith(probe.MARK)]
    assert json.loads(line.removeprefix(probe.MARK)) == json.loads(text)
    assert run.output(1) == ""


@pytest.mark.deepspeed
def test_a_folder_that_cannot_be_written_ends_every_rank(tmp_path: Path) -> None:
    words = (*SMALL, f"--scratch={tmp_path}/absent")
    run = ranks.run(tmp_path, 2, {}, *words, workload="probe", given=("run-dir",), code=64)
    assert f"--scratch {tmp_path}/absent or the run folder: No such file" in run.output(0)


def test_the_launcher_reads_its_options_without_torch() -> None:
    assert workloads.options("probe") == {"run-dir"}
    assert [text for _, p in workloads.problems("probe", {"types": ["fp64"]}) for text in [p.message]]


@pytest.mark.parametrize("hosts", range(1, 10))
def test_every_two_hosts_meet_once(hosts: int) -> None:
    turns = probe_links.tournament(hosts)
    met = [pair for turn in turns for pair in turn]
    assert sorted(met) == [(a, b) for a in range(hosts) for b in range(a + 1, hosts)]
    for turn in turns:  # no host is in two pairs at the same time
        assert len({host for pair in turn for host in pair}) == 2 * len(turn)


@pytest.mark.parametrize("hosts", range(1, 10))
def test_a_ring_has_every_neighbour(hosts: int) -> None:
    met = sorted(pair for turn in probe_links.ring(hosts) for pair in turn)
    whole = {tuple(sorted((host, (host + 1) % hosts))) for host in range(hosts)} - {(0, 0)}
    assert met == sorted(whole)
    for turn in probe_links.ring(hosts):
        assert len({host for pair in turn for host in pair}) == 2 * len(turn)


def rates(slow: dict[tuple[str, str], float], names: str = "abcd") -> dict[tuple[str, str], float]:
    every = [(one, other) for one in names for other in names if one < other]
    return {pair: slow.get(pair, 1e9) for pair in every}


def test_a_slow_host_is_slow_with_all_and_a_slow_link_is_between_two() -> None:
    assert probe_links.slow(rates({})) == ([], [])
    assert probe_links.slow(rates({("a", "c"): 1e8})) == ([], [("a", "c")])
    host = {("a", "c"): 1e7, ("b", "c"): 1e7, ("c", "d"): 1e7}
    assert probe_links.slow(rates(host)) == (["c"], [])
    assert probe_links.slow({("a", "b"): 1.0}) == ([], [])  # nothing to compare with
    assert probe_links.slow({}) == ([], [])


def rank(host: str, matrix: float, pairs: list[tuple[int, int, float]]) -> dict[str, Any]:
    return {
        "host": {"host": host, "memory": 2 * matrix, "free": matrix},
        "matrix": [{"type": "fp32", "size": 64, "rate": [matrix, 2 * matrix]}],
        "memory": [4.0, 5.0],
        "transfers": {},
        "collectives": [],
        "disks": {"scratch": {"write": [7.0], "read": [8.0]}},
        "pairs": pairs,
    }


def test_the_slowest_rank_counts_and_hosts_of_one_name_are_told_apart() -> None:
    pairs = [(0, 1, 9.0)]
    every = [rank("n", 4.0, pairs), rank("n", 2.0, pairs), rank("n", 8.0, pairs), rank("n", 8.0, pairs)]
    found = probe_merging.merged(every, "cpu", 2, {"torch": "2"})
    assert found["matrix"] == [{"type": "fp32", "size": 64, "rate": {"value": 3.0, "low": 2.0, "high": 4.0}}]
    assert [(h["memory"], h["rate"]) for h in found["hosts"]] == [(4.0, 4.0), (16.0, 16.0)]
    assert found["pairs"] == [{"hosts": ["n#0", "n#1"], "rate": 9.0}]
    assert found["slow"] == {"hosts": ["n#0"], "links": []}  # it computes at less than half of the median
    assert "SLOW: host n#0" in probe_merging.report(found)


def test_hosts_say_what_sysfs_says(tmp_path: Path) -> None:
    files = {
        "class/net/eth0/operstate": "up\n",
        "class/net/eth0/speed": "100000\n",
        "class/net/ib0/operstate": "down\n",
        "class/net/lo/operstate": "unknown\n",
        "class/infiniband/mlx5_0/ports/1/state": "4: ACTIVE\n",
        "class/infiniband/mlx5_0/ports/1/rate": "400 Gb/sec (4X NDR)\n",
        "class/infiniband/mlx5_0/ports/1/link_layer": "InfiniBand\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert list(probe_hosts.interfaces(tmp_path)) == [
        {"name": "eth0", "state": "up", "megabits": 100_000},
        {"name": "ib0", "state": "down", "megabits": None},
    ]
    (port,) = probe_hosts.rdma(tmp_path)
    assert port["state"] == "4: ACTIVE"
    assert (port["name"], port["port"], port["layer"]) == ("mlx5_0", "1", "InfiniBand")
    assert probe_hosts.through("127.0.0.1") == ""  # this host itself


def test_a_disk_leaves_no_file(tmp_path: Path) -> None:
    found = probe_rates.disk(tmp_path, 2**20, 2)
    assert all(len(found[way]) == 2 and min(found[way]) > 0 for way in ("write", "read"))
    assert list(tmp_path.iterdir()) == []
