"""Each known cause is found in a line that a program really wrote, and not in the lines beside it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from launcher import exit_codes
from launcher.errors import RunNotFoundError
from launcher.runs import causes, diagnosis, record
from launcher.runs import logs as runs_logs
from launcher.runs.status import Selection, Status

if TYPE_CHECKING:
    from pathlib import Path

# (cause, line, where it is from). "made here": written by the versions in pyproject.toml in a rehearsal.
LINES = [
    (
        "hang",
        "node: stalled for 602 s: 7 of 8 ranks wait in all_reduce (engine.py:2104, step 412); rank 5 on gpu03 is in "
        "data loading (text.py:88, step 412)",
        "docker/hang.py",
    ),
    (
        "secret missing",
        "secret hf-token is missing or empty: put it in ~/.secrets/hf-token, mode 0600",
        "made here: templates/shell/files.sh.j2",
    ),
    (
        "GPU memory",
        "OutOfMemoryError: CUDA out of memory. Tried to allocate 19.75 GiB. GPU 0 has a total capacity of 22.03 GiB of "
        "which 19.51 GiB is free.",
        "https://github.com/deepspeedai/DeepSpeed-MII/issues/530",
    ),
    (
        "host memory",
        "slurmstepd: error: Detected 1 oom_kill event in StepId=440575.0. Some of the step tasks have been OOM Killed.",
        "https://github.com/chrisknewman/tusas/issues/149",
    ),
    (
        "host memory",
        "srun: error: Orion-01-01: task 4: Out Of Memory",
        "https://github.com/hafs-community/HAFS/issues/101",
    ),
    (
        "shared memory",
        "srun: error: Orion-18-69: task 289: Bus error",
        "https://github.com/hafs-community/HAFS/issues/101",
    ),
    (
        "shared memory",
        "ERROR: Unexpected bus error encountered in worker. This might be caused by insufficient shared memory (shm).",
        "torch/utils/data/_utils/signal_handling.py and torch/csrc/DataLoader.cpp",
    ),
    ("disk full", "OSError: [Errno 28] No space left on device", "made here"),
    (
        "disk full",
        "RuntimeError: [enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534",
        "made here: torch.save on a full disk",
    ),
    (
        "disk full",
        "pretrain: error: checkpoint step-00000020 could not be written to /r/checkpoints (0.0 GiB free): [Errno 5]",
        "made here: docker/workloads/checkpoints.py",
    ),
    (
        "port in use",
        "torch.distributed.DistNetworkError: The server socket has failed to listen on any local network address. "
        "port: 29999, useIpv6: false, code: -98, name: EADDRINUSE, message: address already in use",
        "made here",
    ),
    (
        "digest of an image",
        "pyxis:     [ERROR] Invalid image reference: docker://registry.example.com#team/train@sha256:0123456789abcdef",
        "https://github.com/NVIDIA/enroot/blob/v3.5.0/src/docker.sh",
    ),
    (
        "no programs from this disk",
        "ImportError: /tmp/deepspeed-cache-1000/0/fused_adam.so: failed to map segment from shared object",
        "made here: a tmpfs that is mounted noexec",
    ),
    (
        "compiler missing",
        "RuntimeError: Unable to JIT load the deepspeed_shm_comm op due to ninja not being installed.",
        "made here; deepspeed/ops/op_builder/builder.py",
    ),
    (
        "compiler missing",
        "op_builder.builder.MissingCUDAException: CUDA_HOME does not exist, unable to compile CUDA op(s)",
        "deepspeed/ops/op_builder/builder.py",
    ),
    (
        "torch and CUDA",
        "RuntimeError: PyTorch version mismatch! DeepSpeed ops were compiled and installed with a different version "
        "than what is being used at runtime.",
        "deepspeed/ops/op_builder/builder.py",
    ),
    (
        "torch and CUDA",
        "RuntimeError: The NVIDIA driver on your system is too old (found version 11040).",
        "https://github.com/lllyasviel/Fooocus/issues/1313",
    ),
    (
        "locked memory",
        "misc/ibvwrap.cc:278 NCCL WARN Call to ibv_reg_mr_iova2 failed with error Cannot allocate memory",
        "https://github.com/NVIDIA/nccl-tests/issues/206",
    ),
    (
        "NCCL on sockets",
        "gpt-dev-ppt:65959:67395 [1] NCCL INFO Using network Socket",
        "https://github.com/ParCIS/Chimera/issues/2",
    ),
    (
        "fabric unavailable",
        "gpu01:924:1152 [5] NCCL INFO NET/IB : No device found.",
        "https://github.com/NVIDIA/nccl/issues/952",
    ),
    (
        "watchdog",
        "[rank0]:[E321 02:07:08.408271257 ProcessGroupNCCL.cpp:607] [Rank 0] Watchdog caught collective operation "
        "timeout: WorkNCCL(SeqNum=1580, OpType=ALLREDUCE, NumelIn=466119168, NumelOut=466119168, "
        "Timeout(ms)=600000) ran for 600060 milliseconds before timing out.",
        "https://github.com/hiyouga/LlamaFactory/issues/7396",
    ),
    (
        "evicted",
        "node: the node ended the pod (Evicted): The node was low on resource: ephemeral-storage.",
        "made here: launcher/schedulers/kubernetes/ends.py, with the words of the kubelet's eviction_manager.go",
    ),
    (
        "pod memory",
        "node: OOMKilled: it used more than its memory limit of 600Mi, kubernetes.memory of the cluster file",
        "made here: launcher/schedulers/kubernetes/ends.py",
    ),
    ("Pyxis missing", "srun: unrecognized option '--container-image=ubuntu'", "made here: srun 24.11"),
    (
        "GPU fault",
        "RuntimeError: CUDA error: uncorrectable ECC error encountered",
        "https://github.com/jade-hpc-gpu/jade-hpc-gpu.github.io/issues/194",
    ),
    (
        "GPU fault",
        "RuntimeError: CUDA error: uncorrectable NVLink error detected during the execution",
        "https://github.com/MIC-DKFZ/nnUNet/issues/1519",
    ),
    (
        "no network to the hub",
        "huggingface_hub.errors.LocalEntryNotFoundError: An error happened while trying to locate the file on the Hub "
        "and we cannot find the requested files in the local cache.",
        "https://github.com/Stability-AI/stablediffusion/issues/412",
    ),
    (
        "no network to the hub",
        "OSError: We couldn't connect to 'https://huggingface.co' to load the files, and couldn't find them in the "
        "cached files.",
        "made here: transformers without a network",
    ),
    (
        "first host",
        "node: error: n3 never came within 600 s",
        "made here: docker/rendezvous.py",
    ),
    (
        "not finite",
        "pretrain: error: the loss of step 7 is not finite. Nothing of it was saved",
        "made here: docker/workloads/pretrain.py",
    ),
]


@pytest.mark.parametrize(("name", "line", "source"), LINES)
def test_a_real_line_shows_its_cause(name: str, line: str, source: str) -> None:
    found = causes.search(["step 1/16, loss 5.5, 1,000 tokens/s", f"[3] {line}"], fast=True)
    assert [f.name for f in found] == [name], source
    assert found[0].evidence == f"[3] {line}"[:300]
    assert found[0].fix


ELSEWHERE = ("LAUNCHER_RUNS", "job.log", "node-N.log", "slurm", "--shm-size")


@pytest.mark.parametrize(
    ("name", "line", "source"), [entry for entry in LINES if entry[0] != "Pyxis missing"]
)
def test_advice_on_kubernetes_is_what_kubernetes_has(name: str, line: str, source: str) -> None:
    (cause,) = causes.search([line], fast=True, scheduler="kubernetes")
    assert not [word for word in ELSEWHERE if word in cause.fix]


@pytest.mark.parametrize("code", exit_codes.BY_CODE)
def test_advice_for_an_exit_code_on_kubernetes_is_what_kubernetes_has(code: int) -> None:
    cause = causes.by_exit_code(code, "kubernetes")
    assert cause
    assert not [word for word in ELSEWHERE if word in cause.fix]


def test_every_cause_of_the_table_is_tested() -> None:
    assert {s.name for s in causes.SIGNATURES} == {name for name, _, _ in LINES}


def test_sockets_are_no_fault_where_the_fabric_is_tcp() -> None:
    assert causes.search(["h:1:2 [0] NCCL INFO Using network Socket"], fast=False) == []


@pytest.fixture
def failed(tmp_path: Path) -> record.Run:
    """A run of two hosts that rank 1 ended in its second attempt."""
    logs = tmp_path / "logs"
    logs.mkdir()
    (tmp_path / "hostfile-7-1").write_text("n1 slots=1\nn2 slots=1\n")
    (tmp_path / "outcome-7-1").write_text("137 1 n2 1.0\n")
    (logs / "job.log").write_text("job 7, attempt 0, on n[1-2]\nOSError: [Errno 28] No space left on device\n"
                                  "job 7, attempt 1, on n[1-2]\nrank 1 on n2 ended with 137\n")  # fmt: skip
    (logs / "rank-0.log").write_text("--- attempt 7-1, host n1, pid 5\nConnection closed by peer\n")
    (logs / "rank-1.log").write_text(
        "--- attempt 7-0, host n2, pid 5\nCUDA out of memory\n--- attempt 7-1, host n2\nstep 3\n"
    )
    return record.Run("r-1", "slurm", "7", tmp_path, 0.0, 2, 1, {})


def test_the_exit_code_speaks_where_no_log_does(failed: record.Run) -> None:
    text = "\n".join(diagnosis.report(failed, Status("FAILED", exit_code=137)))
    assert "rank 1 on n2, exit code 137" in text
    assert "the host ran out of memory" in text
    assert "disk" not in text, "that was an earlier attempt"
    assert "GPU ran out" not in text, "that was an earlier attempt"


def test_where_all_ranks_stop_alike_the_one_that_says_why_is_shown(failed: record.Run) -> None:
    """Rank 0 prints the message, and any rank may end before it."""
    logs = failed.folder / "logs"
    (logs / "rank-1.log").write_text("--- attempt 0, host n1, pid 7\n")
    (logs / "rank-0.log").write_text("--- attempt 0, host n1, pid 6\nfinetune: error: --data a.csv\n")
    text = "\n".join(diagnosis.report(failed, Status("FAILED", exit_code=64)))
    assert "first failure  rank 1" in text
    assert f"last lines of {logs / 'rank-0.log'}:\n  --- attempt 0, host n1, pid 6\n  finetune: error" in text
    (logs / "rank-1.log").write_text("--- attempt 0, host n1, pid 7\nmine\n")
    assert f"last lines of {logs / 'rank-1.log'}" in "\n".join(
        diagnosis.report(failed, Status("FAILED", exit_code=64))
    )


def test_the_host_log_says_more_than_the_exit_code(failed: record.Run) -> None:
    (failed.folder / "logs" / "node-1.log").write_text(
        "slurmstepd: error: Detected 1 oom_kill event in StepId=7.0. Some of the step tasks have been OOM Killed.\n"
    )
    (found,) = diagnosis.explain(failed, Status("FAILED", exit_code=137))
    assert (found.name, found.evidence[:30]) == ("host memory", "slurmstepd: error: Detected 1 ")


def test_a_fast_fabric_on_sockets_is_told_even_while_it_runs(failed: record.Run) -> None:
    cluster = {"gpu": "h100-80gb", "fabric": "infiniband"}
    (failed.folder / "plan.json").write_text(json.dumps({"cluster": cluster}))
    with (failed.folder / "logs" / "rank-0.log").open("a") as log:
        log.write("n1:5:6 [0] NCCL INFO Using network Socket\n")
    warning, evidence, fix = diagnosis.report(failed, Status("RUNNING"))
    assert warning.startswith("WARNING: NCCL USES TCP SOCKETS")
    assert evidence == "  evidence: n1:5:6 [0] NCCL INFO Using network Socket"
    assert fix.startswith("  fix: ")


# Files that were torn, or that somebody else wrote


@pytest.mark.parametrize(
    "text",
    [b"", b"\n", b"137", b"137 1 n2", b"x 1 n2 1.0", b"137 1 n2 1.0 more", b"\xff 1 n2 1.0", b"9" * 5000 + b" 1 n2 1.0",
     b"137 " + b"9" * 5000 + b" n2 1.0", "١ 1 n2 1.0".encode(), b"137 -2 n2 1.0", b"0 1 n2 1.0"],
)  # fmt: skip
def test_an_outcome_that_is_none(text: bytes, failed: record.Run) -> None:
    (failed.folder / "outcome-7-1").write_bytes(text)
    assert runs_logs.failure(failed.folder) is None
    assert isinstance(diagnosis.report(failed, Status("FAILED", exit_code=1)), list)


def test_an_outcome_is_read(failed: record.Run) -> None:
    assert runs_logs.failure(failed.folder) == (137, 1, "n2")
    (failed.folder / "outcome-7-1").write_bytes(b"70 -1 n\xe9 1.0\n")
    assert runs_logs.failure(failed.folder) == (70, -1, "n\ufffd")


@pytest.mark.parametrize(
    ("text", "code"),
    [(b"0\n", 0), (b"137", 137), (b"", None), (b"-1", None), (b"1 2", None), (b"9" * 5000, None), (b"\xff", None),
     ("٣".encode(), None), (b"1_0", None)],
)  # fmt: skip
def test_an_exit_code(text: bytes, code: int | None, tmp_path: Path) -> None:
    (tmp_path / "exit_code").write_bytes(text)
    assert runs_logs.exit_code(tmp_path) == code


def test_a_hostfile_that_is_not_utf_8(failed: record.Run) -> None:
    (failed.folder / "hostfile-7-1").write_bytes(b"n1 slots=1\nn\xe9 slots=1\n\x1b[31m\n")
    assert runs_logs.host_names(failed.folder) == ["n1", "n\ufffd", "\\x1b[31m"]
    with pytest.raises(RunNotFoundError, match="has no host 'n3'"):
        list(runs_logs.lines(failed, Selection(host="n3"), lambda: "FAILED"))


def test_logs_of_any_bytes_can_be_printed(failed: record.Run) -> None:
    (failed.folder / "logs" / "rank-1.log").write_bytes(b"\xff\x1b[31m\x00 CUDA out of memory \x07\n")
    lines = diagnosis.report(failed, Status("FAILED", exit_code=137))
    assert any("CUDA out of memory" in line for line in lines)
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize(
    "text", ["", "[" * 100_000, '{"cluster": 5}', '{"cluster": {"gpu": 1, "fabric": []}}']
)
def test_a_plan_that_is_torn(text: str, failed: record.Run) -> None:
    (failed.folder / "plan.json").write_text(text)
    assert not diagnosis.is_fast(failed.folder)
