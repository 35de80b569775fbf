"""Cluster files from facts: each can be read, a field is written only where there is one answer, values are data."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from launcher import ROOT
from launcher.cli import main
from launcher.discovery import cluster_file, facts, local, probed
from launcher.errors import SpecError
from launcher.files import load, measured, validation
from launcher.sizing import gpus
from tests import samples
from tests.launcher.discovery import answers

if TYPE_CHECKING:
    from pathlib import Path

    from launcher.files.cluster import Cluster

# Tests are named after the files that are kept, which are those that are rendered (tests/test_golden.py).
NAMES = sorted(path.name for path in (ROOT / "tests" / "golden" / "clusters").iterdir())


@pytest.mark.parametrize("name", NAMES)
def test_each_is_a_cluster_file(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(answers.rendered()[name], encoding="utf-8")
    assert load.load_cluster(str(tmp_path / name)).slots >= 1


def test_one_answer_is_a_field_and_several_are_a_comment(tmp_path: Path) -> None:
    def read(name: str) -> Cluster:
        (tmp_path / name).write_text(answers.rendered()[name], encoding="utf-8")
        return load.load_cluster(str(tmp_path / name))

    h100 = read("slurm-23.11-gpu.yaml")
    assert (h100.gpu_name, h100.slots, h100.hosts, h100.memory) == ("h100-80gb", 8, 16, 2000000 * 2**20)
    assert (h100.slurm.partition, h100.slurm.account) == ("gpu", None)  # two accounts
    assert h100.slurm.sbatch == {"gpus-per-node": "nvidia_h100_80gb_hbm3:8"}  # the partition has others
    debug = read("slurm-23.11.yaml")
    assert (debug.slurm.partition, debug.slurm.sbatch) == ("debug", {})  # Slurm's own default
    assert read("slurm-25.05.yaml").slurm.account == "lab"
    old = read("slurm-21.08.yaml")
    assert (old.gpu, old.slots) == (None, 4)
    aws = read("kubernetes-aws.yaml")
    assert (aws.fabric, aws.kubernetes.queue, aws.kubernetes.runs) == ("efa-p5", "research", "runs")
    azure = read("kubernetes-azure.yaml")
    assert (azure.gpu, azure.fabric, azure.kubernetes.tolerations[0].key) == (None, "tcp", "sku")
    assert read("kubernetes-coreweave.yaml").kubernetes.node_selector == {
        "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"
    }
    assert "create jobs.batch" in answers.rendered()["kubernetes-gcp-user.yaml"]
    assert "cannot list /api/v1/nodes" in answers.rendered()["kubernetes-gcp-user.yaml"]


def test_the_control_plane_is_not_what_trains(tmp_path: Path) -> None:
    """Without GPUs the larger group of nodes is taken, and of three of the control plane that would be wrong."""
    taint = facts.Taint("node-role.kubernetes.io/control-plane", "", "NoSchedule")
    nodes = (facts.Nodes(3, cpus=4, memory=2**33, taints=(taint,)), facts.Nodes(2, cpus=32, memory=2**36))
    (tmp_path / "x.yaml").write_text(cluster_file.of_kubernetes(facts.Kubernetes("c", "n", "1.34", nodes)))
    own = load.load_cluster(str(tmp_path / "x.yaml"))
    assert (own.cpus, own.kubernetes.tolerations) == (32, [])


def test_words_of_the_cluster_are_data(tmp_path: Path) -> None:
    strange = 'a"b\n#: {{ x }}$HOME'
    hosts = facts.Hosts(strange, 1, cpus=1, memory=2**30, gpus=(facts.Gpus(strange, 2),))
    lack = facts.Lack(strange, strange, strange)
    told = facts.Slurm(strange, strange, (hosts,), accounts=(strange,), accounting=True, lacks=(lack,))
    (tmp_path / "x.yaml").write_text(cluster_file.of_slurm(told), encoding="utf-8")
    own = load.load_cluster(str(tmp_path / "x.yaml"))
    assert (own.slurm.partition, own.slurm.account) == (strange, strange)


def test_hosts_with_gpus_of_the_number_0_have_none(tmp_path: Path) -> None:
    hosts = facts.Hosts("cpu", 4, cpus=8, memory=2**36, gpus=(facts.Gpus("", 0),))
    (tmp_path / "x.yaml").write_text(cluster_file.of_slurm(facts.Slurm("x", "25.05", (hosts,))))
    own = load.load_cluster(str(tmp_path / "x.yaml"))
    assert (own.gpu, own.slots) == (None, 1)


def test_what_a_probe_found_is_in_the_file(tmp_path: Path) -> None:
    found = validation.build(measured.Measured, samples.measured())
    hosts = facts.Hosts("cpu", 4, cpus=8, memory=2**36)
    text = cluster_file.of_slurm(facts.Slurm("x", "25.05", (hosts,)), None, found)
    (tmp_path / "x.yaml").write_text(text)
    own = load.load_cluster(str(tmp_path / "x.yaml"))
    assert (own.interface, own.bandwidth) == ("eth0", 1)
    assert "# MEASURED by probe-abc123 (2026-11-26)" in text
    assert "#   interface eth0: up, 10000 Mb/s" in text
    own_file = cluster_file.of_kubernetes(facts.Kubernetes("c", "n", "1.34"), found)
    assert 'interface: "eth0"' in own_file
    assert "bus bandwidth among hosts: 0.1 GB/s" in cluster_file.of_machine(facts.Machine(2, 2**33), found)


def test_interfaces_that_differ_are_no_field() -> None:
    hosts = [
        {**h, "interface": name} for h, name in zip(samples.probed()["hosts"], ("eth0", "ib0"), strict=True)
    ]
    found = validation.build(measured.Measured, samples.measured(probe=samples.probed(hosts=hosts)))
    seen = probed.seen(found)
    assert seen
    assert seen.interface == ""


def test_a_partition_that_is_not_there() -> None:
    with pytest.raises(SpecError, match="did you mean 'debug'"):
        cluster_file.of_slurm(answers.slurm("23.11"), "debugs")


@pytest.mark.parametrize(
    ("word", "names"),
    [
        ("h100", ["h100-80gb", "h100-pcie-80gb", "h100-nvl-94gb"]),
        ("nvidia_h100_80gb_hbm3", ["h100-80gb"]),
        ("NVIDIA-A100-SXM4-40GB", ["a100-40gb"]),
        ("NVIDIA-H100-PCIe", ["h100-pcie-80gb"]),
        ("nvidia_h100_nvl", ["h100-nvl-94gb"]),
        ("l40s", ["l40s-48gb"]),
        ("Tesla-T4", ["t4-16gb"]),
        ("geforce_rtx_4090", ["rtx4090-24gb"]),
        ("AMD_Instinct_MI300X_OAM", ["mi300x-192gb"]),
        ("h100-80gb", ["h100-80gb"]),
        ("nvidia_a100_1g.10gb", []),
        ("NVIDIA-H100-80GB-HBM3-MIG-1g.10gb", []),
        ("gtx1080", []),
        ("gpu", []),
    ],
)
def test_what_a_scheduler_calls_a_card(word: str, names: list[str]) -> None:
    assert gpus.named(word) == names


def test_this_machine_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "here.yaml"
    assert main.main(["cluster", "discover", "local", "-o", str(file)]) == 0
    own = load.load_cluster(str(file))
    assert own.cpus == len(os.sched_getaffinity(0))
    assert own.memory == local.learn().memory // 2**20 * 2**20
    assert own.fabric == "loopback"
    capsys.readouterr()
    assert main.main(["check", "jobs/quickstart.yaml", "--cluster", str(file), "--on", "local"]) == 0
