"""`cluster discover --probe` on four hosts of a real Slurm, one of which has a slow cable (tc, in its namespace)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from launcher.files import load
from tests.real.slurm import cluster, config
from tests.real.slurm.site import Site

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slurm


def test_the_file_gets_the_figures_and_the_slow_host_is_named(
    slurm_requirements: None, tmp_path: Path
) -> None:
    with cluster.Cluster(config.Settings(gpus=0, accounting=False)) as running:
        _probe(Site(tmp_path, running))


def _probe(site: Site) -> None:
    link = site.cluster.network.link("n3")
    site.cluster.sh(f"tc qdisc add dev {link} root tbf rate 100mbit burst 32k latency 50ms")
    try:
        small = ("args.rounds=2", "args.sizes=[64]", "args.messages=[4K, 256K]", "args.file=1M")
        settings = [word for setting in small for word in ("--set", setting)]
        words = ("cluster", "discover", "slurm", "-o", "found.yaml", "--probe", "--nodes", "4", *settings)
        done = site.launcher(*words)
    finally:
        site.cluster.sh(f"tc qdisc del dev {link} root")
    assert "SLOW: host n3" in done.stdout
    path = site.folder / "found.yaml"
    own, text = load.load_cluster(str(path)), path.read_text()
    assert own.interface == "eth0"
    assert own.bandwidth == 1  # Gb/s at least: the ring of all hosts is as fast as its slowest cable
    for line in ("# MEASURED by probe-", "#   interface eth0: up", "#   SLOW: host n3", "GB/s written"):
        assert line in text, text
    found = json.loads((site.folder / "found.measured.json").read_text())
    assert [host["host"] for host in found["probe"]["hosts"]] == ["n1", "n2", "n3", "n4"]
    pairs = {tuple(pair["hosts"]): pair["rate"] for pair in found["probe"]["pairs"]}
    assert len(pairs) == 6
    assert max(rate for pair, rate in pairs.items() if "n3" in pair) < 1.5e7  # bytes a second of 100 Mb/s
    assert (
        "n3" in found["probe"]["slow"]["hosts"]
    )  # another may compute slowly, where the machine has other work
    # and a plan for these hosts has a forecast
    words = ("plan", "job.yaml", "--cluster", "found.yaml", "--set", "batch={micro: 1}", "--json")
    forecast = json.loads(site.launcher(*words).stdout)["forecast"]
    assert forecast["fabric"] > 0
    assert forecast["low"] <= forecast["step"] <= forecast["high"]
