"""Known causes of a failure: what a log says, what it means, and what to do.

Owns the table; which logs are read is `diagnosis`'s. A new cause is one entry here and one real log line in
tests/launcher/runs/test_causes.py. The order of the table is the order of the answer: the more exact comes first.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from launcher import exit_codes, units

if TYPE_CHECKING:
    from collections.abc import Iterable


class Signature(NamedTuple):
    """`pattern` finds the line that is the evidence. `fast`: it is a fault on a fast fabric only.

    `kubernetes`: the fix there, where that is something else than `fix`.
    """

    name: str
    pattern: str
    cause: str
    fix: str
    fast: bool = False
    kubernetes: str = ""


class Cause(NamedTuple):
    """A known cause with its evidence: the line that shows it, or the exit code."""

    name: str
    evidence: str
    cause: str
    fix: str


SIGNATURES = (
    Signature(
        "secret missing",
        r"secret \S+ is missing or empty: put it in |secret \S+ did not come to this host",
        "a secret that the job names is not on this host, or empty",
        "write it to the file that the message names, then submit again",
        kubernetes="create the Secret that the message names, then submit again",
    ),
    Signature(
        "GPU memory",
        r"CUDA out of memory|OutOfMemoryError: CUDA|CUDA error: out of memory|HIP out of memory",
        "a GPU ran out of memory",
        "halve batch.micro (accumulation follows from batch.global), add activation-checkpointing: true to args, or "
        "use the next preset: zero2, zero3, zero3-offload; `launcher plan JOB` estimates each",
    ),
    Signature(
        "pod memory",
        r"OOMKilled: it used more than its memory limit",
        "a pod used more memory than its limit",
        "raise kubernetes.memory, or use a preset with less offload, fewer data workers or ranks per host",
    ),
    Signature(
        "host memory",
        r"oom[-_]kill|: Out Of Memory|Out of memory: Killed process|DataLoader worker .* killed by signal: Killed",
        "the host ran out of memory and the kernel killed a process",
        "use a preset with less offload, fewer data workers or ranks per host, or request more memory with "
        "slurm.sbatch.mem; `launcher plan JOB` estimates what a host needs",
        kubernetes="use a preset with less offload, fewer data workers or ranks per host, or raise kubernetes.memory; "
        "`launcher plan JOB` estimates what a host needs",
    ),
    Signature(
        "shared memory",
        r"Bus error|bus error encountered|insufficient shared memory|/dev/shm.*No space left|"
        r"creating shared memory segment|unable to (mmap|allocate shared memory|open shared memory)",
        "/dev/shm is full or too small for the data loaders or NCCL",
        "give it more: kubernetes.shm, `--shm-size` of the container engine, or fewer data workers; on a Slurm host "
        "look for files that a dead job left in /dev/shm",
        kubernetes="raise kubernetes.shm, or use fewer data workers",
    ),
    Signature(
        "disk full",
        r"No space left on device|Disk quota exceeded|\[Errno 28\]|\[Errno 122\]|PytorchStreamWriter failed writing|"
        r"unexpected pos \d+ vs \d+|iostream error|could not be written to .* \(0\.0 GiB free\)",
        "a disk is full or a quota is exceeded; complete checkpoints are unaffected",
        "free space on the file system of the message (fewer checkpoint.keep, or another LAUNCHER_RUNS), then "
        "`launcher resume RUN`",
        kubernetes="free space on the claim kubernetes.runs (fewer checkpoint.keep), then `launcher resume RUN`",
    ),
    Signature(
        "port in use",
        r"EADDRINUSE|[Aa]ddress already in use|all ports of this run are taken",
        "another program uses the port on this run's first host",
        "submit again, or end leftover ranks of an old job on that host; leave MASTER_PORT unset",
    ),
    Signature(
        "compiler missing",
        r"Unable to JIT load the \S+ op|Ninja is required to load|unable to compile CUDA op|"
        r"command '?(g\+\+|c\+\+|gcc|nvcc|\S+/nvcc)'? (failed|not found)|"
        r"(g\+\+|c\+\+|gcc|nvcc|ninja): (command )?not found|"
        r"Failed to find C compiler|No such file or directory: '(\S*/)?(nvcc|g\+\+|c\+\+|gcc|ninja)'",
        "a DeepSpeed or Triton kernel has to be compiled here, and the compiler or ninja is missing",
        "use an image with prebuilt ops (`make image`, DS_OPS), or a preset that does not need the op",
    ),
    Signature(
        "torch and CUDA",
        r"NVIDIA driver on your system is too old|CUDA driver version is insufficient|no kernel image is available|"
        r"(PyTorch|CUDA) version mismatch! DeepSpeed ops|CUDAMismatchException|detected CUDA version .* mismatches|"
        r"Installed CUDA version \S+ does not match|undefined symbol: _ZN?K?\d*(c10|at|torch|2at)|image has CUDA .*: ",
        "the versions of torch, of DeepSpeed's ops, of CUDA and of the host's driver are incompatible",
        "use the image as it was built (`make image`; TORCH_CUDA_ARCH_LIST names the GPUs), or hosts with a newer "
        "driver",
    ),
    Signature(
        "locked memory",
        r"(ibv_reg_mr\w*|ibv_create_\w+|fi_mr_reg).*Cannot allocate memory|memlock: .* must be unlimited",
        "RDMA cannot register memory: the limit on locked memory (memlock) is too low",
        "have the administrators set memlock unlimited for slurmd (LimitMEMLOCK=infinity), not only in limits.conf",
        kubernetes="use kubernetes.memlock: capability, or have the administrators set LimitMEMLOCK=infinity for the "
        "nodes' container runtime",
    ),
    Signature(
        "fabric unavailable",
        r"[Nn]etwork \S+ not found|NET/IB : No device found|Failed to initialize NET plugin|"
        r"No such device.*NET/|NET/OFI .*(fail|error)",
        "NCCL cannot use the network of the fabric, and does not fall back to TCP",
        "check that the devices and the plugin are inside the container (`launcher env FABRIC`), and that "
        "`fabric:` of the cluster file is right",
    ),
    Signature(
        "NCCL on sockets",
        r"NCCL INFO Using network Socket|via NET/Socket",
        "NCCL USES TCP SOCKETS ALTHOUGH THE CLUSTER HAS A FAST FABRIC: expect a tenth of the bandwidth",
        "leave NCCL_NET and NCCL_IB_DISABLE unset; check that the fabric's devices are inside the container",
        fast=True,
    ),
    Signature(
        "GPU fault",
        r"uncorrectable ECC error|fallen off the bus|NVLink error|CUDA error: unspecified launch failure|\bXid\b",
        "a GPU or its NVLink failed",
        "submit again with --exclude-bad, or slurm.sbatch.exclude, and report the host",
        kubernetes="`kubectl cordon NODE` keeps new pods off that node; submit again, and report the node",
    ),
    Signature(
        "watchdog",
        r"Watchdog caught collective operation timeout|Timed out waiting \d+ms for (recv|send)|"
        r"monitoredBarrier|wait timeout after \d+ms",
        "ranks timed out in a collective that one rank did not join: it hangs, is much slower, or runs other code",
        "look at the log of the rank that is missing in the messages, first for data loading",
    ),
    Signature(
        "Pyxis missing",
        r"unrecognized option '--container|invalid option.*--container",
        "the cluster file selects Pyxis (or OCI), which this Slurm does not have",
        "use slurm.container: apptainer, charliecloud or none; `srun --help | grep container` shows what is installed",
    ),
    Signature(
        "no network to the hub",
        r"LocalEntryNotFoundError|couldn't connect to '?https://huggingface\.co|offline mode is enabled|"
        r"HF_HUB_OFFLINE|Cannot find an appropriate cached snapshot",
        "a model, tokenizer or data set is not in the cache, and this host cannot reach the Hugging Face Hub",
        "download it beforehand and name the folder (model:, args.tokenizer, args.data)",
    ),
    Signature(
        "first host",
        r"does not resolve|never came|Name or service not known",
        "hosts could not connect to the first one: a host did not start, or a name or address is not reachable",
        "look at node-N.log of the host that is named; set `interface:` of the cluster file to the network that all "
        "hosts share",
        kubernetes="`launcher status RUN` says why a pod waits; `launcher logs RUN --host HOST` of that host",
    ),
    Signature(
        "not finite",
        r"the (loss|gradient) of step \d+ is not finite",
        "training diverged; the bad step was not saved",
        "lower args.lr, use more warmup-steps, or set gradient_clipping in deepspeed; then `launcher resume RUN`",
    ),
)


def search(lines: Iterable[str], fast: bool, scheduler: str = "") -> list[Cause]:
    """The causes that `lines` show, in the table's order, each with its first line and what to do on `scheduler`.

    `fast`: the fabric is not TCP.
    """
    signatures = [s for s in SIGNATURES if fast or not s.fast]
    causes: dict[str, Cause] = {}
    for line in lines:
        for signature in signatures:
            if signature.name not in causes and re.search(signature.pattern, line):
                evidence = units.printable(line.strip()[:300])
                fix = _advice(signature.fix, signature.kubernetes, scheduler)
                causes[signature.name] = Cause(signature.name, evidence, signature.cause, fix)
    return [causes[s.name] for s in signatures if s.name in causes]


def by_exit_code(code: int | None, scheduler: str = "") -> Cause | None:
    """What the exit code alone says, and what to do on `scheduler`."""
    known = exit_codes.BY_CODE.get(code) if code else None
    if known is None:
        return None
    fix = _advice(known.advice, known.kubernetes, scheduler)
    return Cause(f"exit code {code}", f"exit code {code}", known.meaning, fix)


def _advice(anywhere: str, on_kubernetes: str, scheduler: str) -> str:
    return on_kubernetes if on_kubernetes and scheduler == "kubernetes" else anywhere
