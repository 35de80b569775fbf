"""The ranks of a host (docker/ranks.py, docker/logs.py): their environment and what they write."""

from __future__ import annotations

import base64
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.docker import entries

if TYPE_CHECKING:
    from collections.abc import Callable

# What DeepSpeed's launcher sets and the node entry does not: the devices stay the scheduler's (docker/ranks.py), and
# the others are by-products of importing deepspeed, the last one by way of MLflow.
LEFT_OUT = {"CUDA_VISIBLE_DEVICES", "PYTORCH_NVML_BASED_CUDA_CHECK", "_MLFLOW_TELEMETRY_SESSION_ID"}


@pytest.mark.deepspeed
def test_ranks_have_deepspeeds_environment(new_job: Callable[..., entries.Job]) -> None:
    """Against `python -m deepspeed.launcher.launch` itself, on the second of three hosts of two slots."""
    job = new_job(hosts=3, slots=2)
    dump = job.folder / "dump.py"
    dump.write_text(
        "import json, os, sys\n"
        "json.dump(dict(os.environ), open(f'{sys.argv[1]}-{os.environ[\"RANK\"]}.json', 'w'))\n"
    )
    world = base64.urlsafe_b64encode(json.dumps({host: [0, 1] for host in job.hosts}).encode()).decode()
    theirs = subprocess.Popen(
        [
            *(sys.executable, "-m", "deepspeed.launcher.launch", f"--world_info={world}", "--node_rank=1"),
            *(f"--master_addr={job.hosts[0]}", "--master_port=29400", "--no_local_rank", str(dump), "theirs"),
        ],
        cwd=job.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**entries.CLEAN, "DS_ACCELERATOR": "cpu"},
    )
    run = f"import sys; sys.argv = ['dump', 'ours']; exec(open({str(dump)!r}).read())"
    job.start_all(run, DS_ACCELERATOR="cpu")
    assert job.codes() == [0, 0, 0]
    _, error = theirs.communicate(timeout=120)
    assert theirs.returncode == 0, error.decode()

    names = ["MASTER_ADDR", "WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_SIZE", "CROSS_RANK", "CROSS_SIZE"]
    for rank in (2, 3):
        their = json.loads((job.folder / f"theirs-{rank}.json").read_text())
        our = json.loads((job.folder / f"ours-{rank}.json").read_text())
        assert {name: our[name] for name in names} == {name: their[name] for name in names}
        changed = {name for name in their if their[name] != entries.CLEAN.get(name)}
        assert changed - set(our) <= LEFT_OUT
        added = {name for name in our if our[name] != entries.CLEAN.get(name)} - changed
        ours_alone = {"LAUNCHER_HEARTBEAT", "LAUNCHER_STACKS"}
        assert added == {"LOCAL_WORLD_SIZE", "OMP_NUM_THREADS", "PYTHONPATH"} | ours_alone
        assert our["LOCAL_WORLD_SIZE"] == our["LOCAL_SIZE"]
        code, hook = our["PYTHONPATH"].split(":")
        assert (code, Path(hook).name) == (str(entries.DOCKER), "python")


@pytest.mark.deepspeed
def test_torch_takes_the_master_port_that_is_held(new_job: Callable[..., entries.Job]) -> None:
    job = new_job(hosts=2)
    job.start_all(
        "import torch\n"
        "torch.distributed.init_process_group('gloo')\n"
        "one = torch.ones(1)\n"
        "torch.distributed.all_reduce(one)\n"
        "print(one.item(), flush=True)\n"
        "torch.distributed.destroy_process_group()"
    )
    assert job.codes() == [0, 0], job.log(0)
    assert [job.log(rank) for rank in range(2)] == [b"2.0\n"] * 2


def test_one_host_needs_no_name_service(new_job: Callable[..., entries.Job]) -> None:
    job = new_job()
    job.hosts = [socket.gethostname()]
    job.start(0, "import os; print(os.environ['MASTER_ADDR'])")
    assert job.codes() == [0]
    assert job.log(0) == b"127.0.0.1\n"


# Logs.


def test_logs_keep_every_byte(new_job: Callable[..., entries.Job]) -> None:
    job = new_job(slots=2)
    data = bytes(range(256)) * 2 + b"\r50%\r100%\n\n" + b"x" * 200_000 + b"\xff no newline at the end"
    (job.folder / "data").write_bytes(data)
    job.start(0, "import os, sys; os.write(1, open('data', 'rb').read()); os.write(2, b'!')")
    assert job.codes() == [0]
    assert [job.log(rank) for rank in range(2)] == [data + b"!"] * 2
    assert job.log_head(1).startswith("--- attempt 0, host ")


@pytest.mark.parametrize(
    ("echo", "lines"),
    [
        ("0", [b"", b"a0", b"b0"]),
        ("all", [b"[0] ", b"[0] a0", b"[0] b0", b"[1] ", b"[1] a1", b"[1] b1"]),
    ],
)
def test_echo(echo: str, lines: list[bytes], new_job: Callable[..., entries.Job]) -> None:
    job = new_job(slots=2)
    job.start(0, "import os; r = os.environ['RANK']; print(f'a{r}\\n\\nb{r}', end='')", "--echo", echo)
    assert job.codes() == [0]
    assert sorted(job.path(0, "out").read_bytes().splitlines()) == lines


def test_a_line_that_comes_in_pieces_is_echoed_whole(new_job: Callable[..., entries.Job]) -> None:
    job = new_job()
    job.start(0, entries.READY + "os.write(1, b'a'); ready(); wait_for('go-on'); os.write(1, b'b\\nc')")
    job.ranks()
    entries.until(lambda: job.log(0) == b"a", "the first piece is in the log")
    job.go_on()
    assert job.codes() == [0]
    assert job.path(0, "out").read_bytes() == b"[0] ab\n[0] c\n"


def test_a_closed_stdout_does_not_change_the_exit_code(new_job: Callable[..., entries.Job]) -> None:
    job = new_job()
    job.write_hostfile()
    entry = subprocess.Popen(
        job.command(0, entries.WAIT + "; print('x' * 100000, flush=True); sys.exit(3)"),
        cwd=job.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=entries.CLEAN,
    )
    assert entry.stdout
    entry.stdout.close()
    job.entries[0] = entry
    job.go_on()
    assert job.codes() == [3]
    assert len(job.log(0)) == 100001


def test_fifty_megabytes_need_little_memory(new_job: Callable[..., entries.Job]) -> None:
    job = new_job()
    flood = "for _ in range(800): os.write(1, b'y' * 65535 + b'\\n' if _ % 2 else b'z' * 65536)\n"
    entry = job.start(0, entries.READY + flood + "ready(); wait_for('go-on')")
    job.ranks()
    status = Path(f"/proc/{entry.pid}/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0])  # kB
    job.go_on()
    assert job.codes() == [0]
    assert len(job.log(0)) == 800 * 65536
    assert peak < 64 * 1024
