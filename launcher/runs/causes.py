"""Known causes of a failure: what a log says, what it means, and what to do.

Owns the table; which logs are read is `diagnosis`'s. A new cause is one entry here and one real log line in
tests/launcher/runs/test_causes.py. The first entry that matches a log wins, so what is more exact stands further up.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from launcher import exit_codes

if TYPE_CHECKING:
    from collections.abc import Iterable


class Signature(NamedTuple):
    """`pattern` finds the line that is the evidence. `fast`: it is a fault on a fast fabric only."""

    name: str
    pattern: str
    cause: str
    fix: str
    fast: bool = False


class Found(NamedTuple):
    """A cause with its evidence."""

    name: str
    evidence: str
    cause: str
    fix: str


SIGNATURES = (
    Signature(
        "GPU memory",
        r"CUDA out of memory|OutOfMemoryError: CUDA|CUDA error: out of memory|HIP out of memory",
        "a GPU ran out of memory",
        "halve batch.micro (accumulation follows from batch.global), add activation-checkpointing: true to args, or "
        "use the next preset: zero2, zero3, zero3-offload; `launcher plan JOB` estimates each",
    ),
    Signature(
        "host memory",
        r"oom[-_]kill|: Out Of Memory|Out of memory: Killed process|DataLoader worker .* killed by signal: Killed",
        "the host ran out of memory and the kernel killed a process",
        "use a preset with less offload, fewer data workers or ranks per host, or ask for more with "
        "slurm.sbatch.mem; `launcher plan JOB` estimates a host's need",
    ),
    Signature(
        "shared memory",
        r"Bus error|bus error encountered|insufficient shared memory|/dev/shm.*No space left|"
        r"creating shared memory segment|unable to (mmap|allocate shared memory|open shared memory)",
        "/dev/shm is full or too small for the data loaders or NCCL",
        "give it more: kubernetes.shm, `--shm-size` of the container engine, or fewer data workers; on a Slurm host "
        "look for files that a dead job left in /dev/shm",
    ),
    Signature(
        "disk full",
        r"No space left on device|Disk quota exceeded|\[Errno 28\]|\[Errno 122\]|PytorchStreamWriter failed writing|"
        r"unexpected pos \d+ vs \d+|iostream error|could not be written to .* \(0\.0 GiB free\)",
        "a disk is full or a quota is used up; complete checkpoints are untouched",
        "free space where the message says (checkpoint.keep: fewer, or move LAUNCHER_RUNS), then `launcher resume`",
    ),
    Signature(
        "port in use",
        r"EADDRINUSE|[Aa]ddress already in use|all ports of this run are taken",
        "another program has the port of this run's first host",
        "submit again, or look for ranks of an old job on that host; do not set MASTER_PORT yourself",
    ),
    Signature(
        "compiler missing",
        r"Unable to JIT load the \S+ op|Ninja is required to load|unable to compile CUDA op|"
        r"command '?(g\+\+|c\+\+|gcc|nvcc|\S+/nvcc)'? (failed|not found)|"
        r"(g\+\+|c\+\+|gcc|nvcc|ninja): (command )?not found|"
        r"Failed to find C compiler|No such file or directory: '(\S*/)?(nvcc|g\+\+|c\+\+|gcc|ninja)'",
        "a DeepSpeed or Triton kernel is to be compiled here, and the compiler or ninja is missing",
        "use an image with prebuilt ops (`make image`, DS_OPS), or a preset that does not need the op",
    ),
    Signature(
        "torch and CUDA",
        r"NVIDIA driver on your system is too old|CUDA driver version is insufficient|no kernel image is available|"
        r"(PyTorch|CUDA) version mismatch! DeepSpeed ops|CUDAMismatchException|detected CUDA version .* mismatches|"
        r"Installed CUDA version \S+ does not match|undefined symbol: _ZN?K?\d*(c10|at|torch|2at)|image has CUDA .*: ",
        "torch, the ops, the image's CUDA and the host's driver do not fit together",
        "use the image as it was built (`make image`; TORCH_CUDA_ARCH_LIST names the GPUs), or hosts with a newer "
        "driver",
    ),
    Signature(
        "locked memory",
        r"(ibv_reg_mr\w*|ibv_create_\w+|fi_mr_reg).*Cannot allocate memory|memlock: .* must be unlimited",
        "RDMA may not pin memory: the limit on locked memory is low",
        "have the administrators set memlock unlimited for slurmd (LimitMEMLOCK=infinity), not only in limits.conf",
    ),
    Signature(
        "fabric not there",
        r"[Nn]etwork \S+ not found|NET/IB : No device found|Failed to initialize NET plugin|"
        r"No such device.*NET/|NET/OFI .*(fail|error)",
        "NCCL cannot use the network that the fabric names; it stops instead of going on over TCP",
        "look whether the devices and the plugin are inside the container (`launcher env FABRIC`), and whether "
        "`fabric:` of the cluster file is right",
    ),
    Signature(
        "NCCL on sockets",
        r"NCCL INFO Using network Socket|via NET/Socket",
        "NCCL TALKS OVER PLAIN TCP ALTHOUGH THE CLUSTER HAS A FAST FABRIC: expect a tenth of the speed",
        "do not set NCCL_NET or NCCL_IB_DISABLE yourself; look whether the fabric's devices are inside the container",
        fast=True,
    ),
    Signature(
        "GPU fault",
        r"uncorrectable ECC error|fallen off the bus|NVLink error|CUDA error: unspecified launch failure|\bXid\b",
        "a GPU or its link is broken",
        "submit again with --exclude-bad, or slurm.sbatch.exclude, and report the host",
    ),
    Signature(
        "watchdog",
        r"Watchdog caught collective operation timeout|Timed out waiting \d+ms for (recv|send)|"
        r"monitoredBarrier|wait timeout after \d+ms",
        "ranks waited for one that did not come to the same collective: it hangs, is much slower, or took another path",
        "look at the rank that is missing in the messages, first at data loading and at logs of other ranks",
    ),
    Signature(
        "Pyxis missing",
        r"unrecognized option '--container|invalid option.*--container",
        "this Slurm has no Pyxis (or no OCI support), and the cluster file asks for it",
        "use slurm.container: apptainer, charliecloud or none; `srun --help | grep container` shows what there is",
    ),
    Signature(
        "no network to the hub",
        r"LocalEntryNotFoundError|couldn't connect to '?https://huggingface\.co|offline mode is enabled|"
        r"HF_HUB_OFFLINE|Cannot find an appropriate cached snapshot",
        "a model, tokenizer or data set is not in the cache, and this host has no way to the hub",
        "download it beforehand and name the folder (model:, args.tokenizer, args.data)",
    ),
    Signature(
        "first host",
        r"does not resolve|never came|Name or service not known",
        "hosts could not meet: one was not started, or names and addresses do not reach it",
        "look at the named host's node-N.log; set `interface:` of the cluster file to the network that all hosts share",
    ),
    Signature(
        "not finite",
        r"the (loss|gradient) of step \d+ is not finite",
        "training diverged; nothing of the bad step was saved",
        "lower args.lr, more warmup-steps, or gradient_clipping in deepspeed; then `launcher resume`",
    ),
)


def search(lines: Iterable[str], fast: bool) -> list[Found]:
    """The causes that `lines` show, in the table's order, each with its first line. `fast`: the fabric is not TCP."""
    signatures = [s for s in SIGNATURES if fast or not s.fast]
    found: dict[str, Found] = {}
    for line in lines:
        for signature in signatures:
            if signature.name not in found and re.search(signature.pattern, line):
                found[signature.name] = Found(
                    signature.name, line.strip()[:300], signature.cause, signature.fix
                )
    return [found[s.name] for s in signatures if s.name in found]


def of_code(code: int | None) -> Found | None:
    """What the exit code alone says."""
    known = exit_codes.BY_CODE.get(code) if code else None
    return Found(f"exit code {code}", f"exit code {code}", known.meaning, known.advice) if known else None
