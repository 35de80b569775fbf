"""`cluster discover` and `check --live` on a real Slurm with GPUs of two types, limits and accounts."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from launcher.files import load
from tests.real.slurm import cluster, config
from tests.real.slurm.site import Site

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.slurm
H100 = "nvidia_h100_80gb_hbm3"
# Four nodes: n1 and n3 have H100, n2 and n4 L40S.
EXTRA = """\
PartitionName=l40s Nodes=n2,n4 MaxTime=30 MaxNodes=1 PreemptMode=OFF State=UP
PartitionName=gone Nodes=n3 State=DRAIN
AccountingStorageEnforce=associations
"""


@pytest.fixture(scope="module")
def two_types(slurm_requirements: None) -> Iterator[cluster.Cluster]:
    with cluster.Cluster(
        config.Settings(types=(H100, "l40s"), gpus=2, memory_mb=200_000, extra=EXTRA)
    ) as running:
        running.sh("sacctmgr -i add qos short set MaxWall=10 MaxTRESPerJob=node=1")
        yield running


@pytest.fixture
def typed_site(two_types: cluster.Cluster, tmp_path: Path) -> Iterator[Site]:
    yield Site(tmp_path, two_types)
    two_types.reset()


def test_the_file_says_what_there_is_and_a_job_runs_with_it(typed_site: Site) -> None:
    site = typed_site
    site.launcher("cluster", "discover", "slurm", "-o", "found.yaml")
    path = site.folder / "found.yaml"
    own, text = load.load_cluster(str(path)), path.read_text()
    assert (own.gpu_name, own.slots, own.cpus, own.memory) == ("h100-80gb", 2, 4, 200_000 * 2**20)
    assert (own.slurm.partition, own.slurm.account) == ("debug", "root")
    assert own.slurm.sbatch == {"gpus-per-node": f"{H100}:2"}
    for line in (
        "#   debug: 2 with 4 CPUs, 2 GPUs l40s; limits: walltime 01:00:00",
        "#   l40s: 2 with 4 CPUs, 2 GPUs l40s; limits: walltime 00:30:00, 1 hosts",
        "#   short, walltime 00:10:00, a job node=1",
        "preempt/partition_prio, mode REQUEUE; jobs are requeued by default",
        "state DRAIN",
    ):
        assert line in text, text
    assert "NOT LEARNED" not in text
    on = ("--cluster", "found.yaml")
    site.launcher("check", "job.yaml", *on, "--on", "slurm", "--set", "batch={micro: 1}")
    # GPUs are stand-ins here: the ranks of this job are processes on the CPU that write down what they were given
    words = [
        w
        for s in site.program("import os; print('seen', os.environ['SLURM_JOB_PARTITION'])\n")
        for w in ("--set", s)
    ]
    submitted = site.launcher(
        "slurm", "job.yaml", *on, *words, "--set", "cluster.interface=eth0", "--set", "nodes=1"
    )
    run = submitted.stdout.strip()
    assert site.ended(run)["state"] == "SUCCEEDED", site.all_logs(run)
    assert "seen debug" in site.launcher("logs", run).stdout
    job = site.status(run)["native_id"]
    assert site.cluster.sh(f"sacct -X -n -P -o NodeList -j {job}") in {"n1", "n3"}  # those with that type


def test_the_hosts_of_another_partition(typed_site: Site) -> None:
    out = typed_site.launcher("cluster", "discover", "slurm", "--partition", "l40s").stdout
    assert 'gpu: "l40s-48gb"' in out
    assert "sbatch:" not in out
    refused = typed_site.launcher("cluster", "discover", "slurm", "--partition", "l4", code=2)
    assert "there is no partition 'l4'" in refused.stderr


def until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + 300
    while not done():
        assert time.monotonic() < end
        time.sleep(0.2)


def test_check_live_says_when_it_would_start_and_what_keeps_it(typed_site: Site) -> None:
    site = typed_site
    site.launcher("cluster", "discover", "slurm", "-o", "found.yaml")

    def live(*settings: str, code: int = 4) -> str:
        words = [w for s in ("batch={micro: 1}", "nodes=1", *settings) for w in ("--set", s)]
        done = site.launcher(
            "check", "job.yaml", "--cluster", "found.yaml", "--live", "--on", "slurm", *words, code=code
        )
        return done.stderr if code else done.stdout

    assert "job.yaml: would start at 20" in live(code=0)
    assert "Invalid account" in live("cluster.slurm.account=nobody")
    assert "`sacctmgr show assoc user=$USER` lists your accounts" in live("cluster.slurm.account=nobody")
    assert "walltime 02:00:00 is more than the 01:00:00 of partition debug" in live("walltime=2h")
    assert "nodes 2 is more than the 1 of partition l40s" in live("nodes=2", "cluster.slurm.partition=l40s")
    assert "gone is DRAIN: no job starts there" in live("cluster.slurm.partition=gone")
    assert "secret 'hf' " in live('env={"HF_TOKEN": {"secret": "hf"}}').replace(":", " ")
    site.cluster.sh("scontrol update nodename=n1,n3 state=drain reason=burnt")
    said = live("nodes=4", "cluster.hosts=4")
    assert "2 hosts of partition debug are up, and the job wants 4" in said
    assert "burnt" in said
    assert site.cluster.sh("squeue -h") == ""
    assert not (site.folder / "runs").exists()


def test_check_live_knows_limits_of_qos_and_what_is_used_of_them(
    slurm_requirements: None, tmp_path: Path
) -> None:
    """Slurm itself takes each of these jobs, and lets it wait."""
    settings = config.Settings(nodes=2, gpus=2, extra="AccountingStorageEnforce=associations,limits\n")
    with cluster.Cluster(settings) as running:
        running.sh("sacctmgr -i add qos short set MaxWall=10 MaxTRESPerJob=node=1 GrpTRES=node=1")
        running.sh("sacctmgr -i add account lab")
        running.sh("sacctmgr -i add user root account=lab")  # slurmdbd gives root's own account limits of 0
        site = Site(tmp_path, running)
        site.launcher("cluster", "discover", "slurm", "-o", "found.yaml")
        own = ("batch={micro: 1}", "cluster.slurm.account=lab", "cluster.slurm.qos=short")

        def live(*settings: str, code: int = 4) -> str:
            words = [w for s in (*own, *settings) for w in ("--set", s)]
            on = ("--cluster", "found.yaml", "--live", "--on", "slurm")
            done = site.launcher("check", "job.yaml", *on, *words, code=code)
            return done.stderr if code else done.stdout

        assert "would start at" in live("nodes=1", "walltime=5m", code=0)
        assert "walltime 00:20:00 is more than the 00:10:00 of QOS short" in live("nodes=1", "walltime=20m")
        assert "QOS short: a job may have node 1, and this one asks for 2" in live("nodes=2", "walltime=5m")
        some = ("nodes={min: 1, max: 2}", "batch.global=16", "walltime=5m")
        assert "would start at" in live(*some, code=0), "Slurm gives a range what the limits leave"
        running.sh("sbatch -A lab --qos=short -N1-2 -t 5 -o /dev/null --wrap 'sleep 600'")
        until(lambda: running.sh("squeue -h -t R -o %i") != "")
        said = live("nodes=1", "walltime=5m")
        assert "QOS short: node 1 of 1 are used, and the job asks for 1" in said
        assert len(running.sh("squeue -h").splitlines()) == 1
        assert not (site.folder / "runs").exists()
