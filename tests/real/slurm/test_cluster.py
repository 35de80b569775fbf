"""The test cluster is what the tests of Slurm jobs take it for: several machines, accounting, failures."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tests.real.slurm import cluster, config

pytestmark = pytest.mark.slurm

ROOT = Path(__file__).parents[3]


def test_nodes_are_hosts_of_their_own(slurm_cluster: cluster.Cluster) -> None:
    assert sorted(slurm_cluster.sh("srun -N4 hostname").split()) == ["n1", "n2", "n3", "n4"]
    addresses = {slurm_cluster.sh(f"srun -N1 -w n3 getent hosts {name}") for name in slurm_cluster.names}
    assert len(addresses) == 4
    # A master address that a rank takes from the node list must be reachable from every node.
    program = "import socket; print(socket.create_connection(('n1', 6818), 5).getpeername()[0])"
    expected = slurm_cluster.network.address("n1")
    assert slurm_cluster.sh("srun", "-N4", sys.executable, "-c", program).split() == [expected] * 4


def test_shared_memory_and_processes_are_private(slurm_cluster: cluster.Cluster) -> None:
    slurm_cluster.sh("srun -N1 -w n1 touch /dev/shm/mine")
    assert slurm_cluster.node_exec("n1", "ls", "/dev/shm") == "mine"
    assert slurm_cluster.sh("srun -N1 -w n2 ls /dev/shm") == ""
    assert "slurmctld" not in slurm_cluster.node_exec("n1", "ps", "ax")


def test_the_checkout_and_its_python_are_there(slurm_cluster: cluster.Cluster) -> None:
    program = f"import pathlib; print(pathlib.Path({str(ROOT / 'pyproject.toml')!r}).exists())"
    assert slurm_cluster.sh("srun", "-N2", sys.executable, "-c", program).split() == ["True", "True"]


def test_gpus_become_visible_devices(slurm_cluster: cluster.Cluster) -> None:
    assert slurm_cluster.sh("srun -N1 --gpus-per-node=3 printenv CUDA_VISIBLE_DEVICES") == "0,1,2"


def test_accounting_keeps_the_exit_code(slurm_cluster: cluster.Cluster) -> None:
    job = slurm_cluster.sh("sbatch --parsable -N2 -o /dev/null --wrap 'exit 3'")
    assert slurm_cluster.wait_for_state(job, "COMPLETED", "FAILED") == "FAILED"
    assert slurm_cluster.sh(f"sacct -X -n -P -o NNodes,ExitCode -j {job}") == "2|3:0"


def test_crashed_and_cut_nodes_fail_their_jobs_and_come_back(
    slurm_cluster: cluster.Cluster, tmp_path: Path
) -> None:
    crashed = _sleeper(slurm_cluster, tmp_path, "n1", "n2")
    cut = _sleeper(slurm_cluster, tmp_path, "n3", "n4")
    slurm_cluster.crash("n2")
    slurm_cluster.cut("n4")
    slurm_cluster.wait_for_state(crashed, "NODE_FAIL", timeout=150)
    slurm_cluster.wait_for_state(cut, "NODE_FAIL", timeout=150)
    slurm_cluster.reset()
    assert sorted(slurm_cluster.sh("srun -N4 hostname").split()) == ["n1", "n2", "n3", "n4"]


def test_controller_down_and_back(slurm_cluster: cluster.Cluster) -> None:
    job = slurm_cluster.sh("sbatch --parsable -o /dev/null --wrap 'sleep 60'")
    slurm_cluster.wait_for_state(job, "RUNNING")
    slurm_cluster.stop_ctld()
    with pytest.raises(RuntimeError, match="Unable to contact slurm controller"):
        slurm_cluster.sh("squeue")
    assert slurm_cluster.states(job) == {"RUNNING"}
    slurm_cluster.start_ctld()
    slurm_cluster.sh("scontrol ping; for _ in $(seq 100); do squeue && exit; sleep .1; done; exit 1")
    assert slurm_cluster.sh(f"squeue -h -o %T -j {job}") == "RUNNING"


def test_reset_removes_a_job_that_ignores_signals(slurm_cluster: cluster.Cluster, tmp_path: Path) -> None:
    started = tmp_path / "started"
    task = f"trap '' TERM; touch {started}; while :; do sleep 1; done"
    slurm_cluster.sh("sbatch", "-N1", "-o", "/dev/null", f'--wrap=srun bash -c "{task}"')
    _wait_for(started)
    slurm_cluster.reset()
    assert slurm_cluster.sh("squeue -h") == ""
    assert slurm_cluster.sh("sinfo -h -p debug -o '%T %D'") == "idle 4"


def test_without_accounting(slurm_requirements: None) -> None:
    settings = config.Settings(nodes=2, accounting=False, gpus=0, extra="MaxJobCount=7")
    with cluster.Cluster(settings) as small:
        assert sorted(small.sh("srun -N2 hostname").split()) == ["n1", "n2"]
        job = small.sh("sbatch --parsable -o /dev/null --wrap true")
        small.wait_for_state(job, "COMPLETED")
        with pytest.raises(RuntimeError, match="accounting storage is disabled"):
            small.sh("sacct")
        assert "MaxJobCount             = 7" in small.sh("scontrol show config")
        folder = small.folder
    assert not folder.exists()


def test_killed_test_run_leaves_no_process(slurm_requirements: None, tmp_path: Path) -> None:
    program = textwrap.dedent("""
        import pathlib, sys
        from tests.real.slurm import cluster, config
        with cluster.Cluster(config.Settings(nodes=1)) as one:
            one.sh("sbatch -o /dev/null --wrap 'sleep 300'")
            pathlib.Path(sys.argv[1] + ".tmp").write_text(str(one.folder))
            pathlib.Path(sys.argv[1] + ".tmp").rename(sys.argv[1])
            one.sh("srun sleep 300", timeout=300)
    """)
    ready = tmp_path / "ready"
    # In a network namespace of its own: its bridge goes with it. On the machine's network its number is free
    # once it is dead, and deleting the bridge here could take that of the cluster which has the number now.
    alone = ("unshare", "--net", "--", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")
    victim = subprocess.Popen([*alone, sys.executable, "-c", program, str(ready)], cwd=ROOT)
    _wait_for(ready)
    folder = ready.read_text()
    assert len(_processes_of(folder)) >= 5  # munged, mariadbd, slurmdbd, slurmctld, slurmd
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    end = time.monotonic() + 60
    while _processes_of(folder) and time.monotonic() < end:
        time.sleep(0.05)
    assert _processes_of(folder) == []
    shutil.rmtree(folder)


def _sleeper(slurm: cluster.Cluster, folder: Path, *nodes: str) -> str:
    """A job that has started on `nodes`: Slurm says RUNNING before its tasks run."""
    job = slurm.sh(
        *(
            "sbatch",
            "--parsable",
            "--no-requeue",
            f"-N{len(nodes)}",
            f"-w{','.join(nodes)}",
            "-o",
            "/dev/null",
        ),
        f"--wrap=srun bash -c 'touch {folder}/$(hostname); sleep 300'",
    )
    for node in nodes:
        _wait_for(folder / node)
    return job


def _wait_for(path: Path, timeout: float = 120) -> None:
    end = time.monotonic() + timeout
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not come"
        time.sleep(0.05)


def _processes_of(folder: str) -> list[str]:
    """The command lines of live processes whose environment names this cluster's slurm.conf."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environ = (process / "environ").read_bytes()
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it ended while we looked
            continue
        if command and f"{folder}/".encode() in environ and process.name != str(os.getpid()):
            found.append(command)
    return found
