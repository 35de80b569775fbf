"""A rank's life: start-up, signals, agreement between the ranks, exit codes.

Training itself is the workload's, checkpoints are in checkpoints.py. Nothing heavy is imported before the signal
handlers stand, so that a signal during start-up is not lost.

Exit codes: 0 when the work is done, one of docker/exit_codes.json when it ends otherwise; any other is a crash with a
traceback.
"""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import signal
import socket
import sys
import time
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import heartbeat
from ending import BAD_INPUT, NO_CHECKPOINT, SAVED

from workloads import imports, options

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from types import FrameType

    import torch

T = TypeVar("T")
_signals: list[int] = []
troubles: list[
    str
] = []  # that this rank has found, and all must end by together: they do after the step, as at a signal
at_end = contextlib.ExitStack()  # closed when this rank leaves: the interpreter's own end never comes
at_common_end = contextlib.ExitStack()  # closed before, where the ranks leave together
before_leaving: list[
    Callable[[int], None]
] = []  # called then, with its code, where the work is done or saved


class Stop(Exception):
    """The run ends here: rank 0 prints the message as one line and every rank exits with the code.

    Raise it on all ranks alike, or inside `Session.first` or `Session.together`, which make it so. `leaves`: the rank
    whose fault it is, which ends before the others, so that the run's first failure is its own.
    """

    def __init__(self, message: str, code: int = BAD_INPUT, leaves: int | None = None) -> None:
        super().__init__(message, code, leaves)
        self.message, self.code, self.leaves = message, code, leaves


@dataclass(frozen=True)
class Session:
    """This rank's place among the ranks, its device and the run's folder."""

    rank: int
    world_size: int
    device: torch.device
    run_dir: Path

    def agree(self, value: torch.Tensor | float = 0.0) -> tuple[float, bool]:
        """The mean of a scalar over all ranks, and whether any rank is asked to stop: one all-reduce."""
        return self.agreeing(value)()

    def agreeing(self, value: torch.Tensor | float) -> Callable[[], tuple[float, bool]]:
        """Begin to `agree`, and return what waits for the answer: it travels while the rank goes on."""
        import torch

        pair = torch.tensor([0.0, float(bool(_signals or troubles))], device=self.device)
        pair[0] = value
        sent = torch.distributed.all_reduce(pair, async_op=True)

        def answer() -> tuple[float, bool]:
            sent.wait()
            total, stop = pair.tolist()
            return total / self.world_size, stop > 0

        return answer

    def first(self, work: Callable[[], T]) -> T:
        """Do work on rank 0 and return its result on every rank; what it raises stops every rank.

        An OSError is told in one line: it is the file system's, and names the file.
        """
        from torch import distributed

        box: list[Any] = [None, None]
        if self.rank == 0:
            try:
                box[0] = work()
            except Stop as stop:
                box[1] = stop
            except OSError as error:
                box[1] = Stop(str(error), NO_CHECKPOINT)
            except Exception as error:
                traceback.print_exc()
                box[1] = Stop(f"{type(error).__name__}: {error}", 1)
        distributed.broadcast_object_list(box, src=0)
        if box[1] is not None:
            raise box[1]
        result: T = box[0]
        return result

    def together(self, work: Callable[[], T]) -> T:
        """Do work on every rank and return this rank's result; a Stop of one rank stops every rank."""
        from torch import distributed

        result, stop = None, None
        try:
            result = work()
        except Stop as raised:
            stop = raised
        stops: list[Stop | None] = [None] * self.world_size
        distributed.all_gather_object(stops, stop)
        for raised_anywhere in filter(None, stops):
            raise raised_anywhere
        return result  # type: ignore[return-value]

    def rehearse(self, args: argparse.Namespace, step: int, attempt: int) -> None:
        """Be slow or die at this step if the job ordered it (options.rehearsal)."""
        if args.delay_rank in (None, self.rank):
            time.sleep(args.step_delay)
        if step == args.fail_at_step and self.rank == args.fail_rank and attempt <= args.fail_attempts:
            print(
                f"rehearsal: rank {self.rank} fails at step {step} with exit code {args.fail_code}",
                flush=True,
            )
            os._exit(args.fail_code)
        if self.rank == args.fail_rank:
            for at, name in args.interrupt[attempt - 1 : attempt]:
                if at == step:
                    _interrupt(step, name)

    def peak_memory(self) -> int:
        """The most bytes this rank has used: the accelerator's allocated memory, resident memory on CPU."""
        from deepspeed.accelerator import get_accelerator

        if self.device.type == "cpu":
            return _peak_resident()
        return int(get_accelerator().max_memory_allocated())


def run(
    parser: argparse.ArgumentParser,
    program: Callable[[argparse.Namespace, Session], int],
    words: list[str] | None = None,
) -> None:
    """Run a workload's program on this rank and exit with the code it returns or its Stop carries."""
    _listen()
    heartbeat.mine().phase(heartbeat.START)
    name = parser.prog.split(".")[-1]
    orderly = True
    try:
        args = options.parse(parser, words)
        code = program(args, _start(Path(args.run_dir)))
    except Stop as stop:
        code = stop.code
        if os.environ["RANK"] == "0":
            print(f"{name}: error: {stop.message}", file=sys.stderr, flush=True)
        if stop.leaves is not None:
            orderly = False
            if os.environ["RANK"] != str(stop.leaves):
                _linger()
    except SystemExit:
        raise
    except BaseException as error:
        code, orderly = 1, False
        if _lost_peer(error):
            print(
                f"rank {os.environ['RANK']}: another rank is gone, its own message says why",
                file=sys.stderr,
                flush=True,
            )
            _linger()
        else:
            traceback.print_exc()
    _leave(code, orderly)


def run_apart(parser: argparse.ArgumentParser, program: Callable[[argparse.Namespace], int]) -> None:
    """Like `run` for a program whose ranks never talk to each other: without torch, and no Session."""
    _listen()
    heartbeat.mine().phase(heartbeat.OTHER)
    try:
        code = program(options.parse(parser))
    except Stop as stop:
        code = stop.code
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"{parser.prog.split('.')[-1]}: error: {stop.message}", file=sys.stderr, flush=True)
    sys.exit(code)


def asked_to_stop() -> str | None:
    """The name of the signal this rank got, if any."""
    return signal.Signals(_signals[0]).name if _signals else None


def give_back_memory() -> None:
    """Return to the kernel what was freed until now and the steps will not need: weights before they were flattened."""
    import ctypes  # not for the launcher, which reads options alone

    with contextlib.suppress(AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)


def _listen() -> None:
    # SIGUSR2, not SIGUSR1: NCCL may catch that one. A scheduler may start ranks with it ignored.
    for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _note)
    os.register_at_fork(after_in_child=_forget)


def _interrupt(step: int, name: str, patience: float = 60.0) -> None:
    """Die, or have the node entry, which is this process's parent, pass a signal on, and wait until it is here."""
    print(f"rehearsal: {name} at step {step}", flush=True)
    number = signal.Signals[f"SIG{name}"]
    if number == signal.SIGKILL:
        os.kill(os.getpid(), number)
    os.kill(os.getppid(), number)
    end = time.monotonic() + patience
    while not _signals and time.monotonic() < end:
        time.sleep(0.01)


def _note(number: int, _frame: FrameType | None) -> None:
    if number == signal.SIGINT and signal.SIGINT in _signals:
        os._exit(128 + signal.SIGINT)  # the second Ctrl-C
    _signals.append(number)


def _forget() -> None:
    # a forked child (a compiler, a data loader) cannot save anything: the signal to save must not kill it either
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _start(run_dir: Path) -> Session:
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1", "LOCAL_SIZE": "1"}
    if "MASTER_ADDR" not in os.environ:  # started by hand, as one rank
        os.environ.update(alone, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(_free_port()))
    be_quiet()
    imports.transformers()
    imports.deepspeed()
    import deepspeed
    import torch
    from deepspeed.accelerator import get_accelerator

    torch.set_num_threads(_threads())
    accelerator = get_accelerator()
    local_rank = int(os.environ["LOCAL_RANK"])
    if accelerator.device_name() != "cpu":
        accelerator.set_device(local_rank)
    else:
        _keep_freed_memory()
        if not prebuilt("deepspeed_shm_comm"):
            # init_distributed would compile it for a minute, and needs ninja and g++ for that; only tensor-parallel
            # inference within a host uses it (deepspeed/comm/torch.py, build_shm_op)
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)
    run_dir.mkdir(parents=True, exist_ok=True)
    return Session(
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
        device=torch.device(accelerator.device_name(local_rank)),
        run_dir=run_dir,
    )


def prebuilt(op: str) -> bool:
    """Whether the installed DeepSpeed was built with this op, so that using it compiles nothing."""
    from deepspeed.git_version_info import installed_ops

    return bool(installed_ops.get(op, False))


def be_quiet() -> None:
    # torch deprecates the collectives DeepSpeed calls: thousands of lines otherwise
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module="torch|deepspeed")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    logging.getLogger("DeepSpeed").addFilter(_worth_telling)


def _worth_telling(record: logging.LogRecord) -> bool:
    first = os.environ["RANK"] == "0" and "Setting accelerator to CPU" not in record.getMessage()
    return first or record.levelno >= logging.ERROR


def _threads() -> int:
    if os.environ.get("OMP_NUM_THREADS", "").isdigit():
        return max(1, int(os.environ["OMP_NUM_THREADS"]))
    neighbours = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("LOCAL_SIZE", "1")))
    return max(1, len(os.sched_getaffinity(0)) // neighbours)


def _peak_resident() -> int:
    # getrusage's figure outlives exec: it begins with what the process that started this one had (getrusage(2))
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _keep_freed_memory() -> None:
    """Have glibc reuse the memory of tensors that were freed, which each step allocates again.

    By default it goes back to the kernel, and every step pays for its pages anew: 6% of a step of a model of 2 million
    parameters. A limit that the environment sets holds (mallopt(3)).
    """
    import ctypes

    limits = {"MALLOC_TRIM_THRESHOLD_": (-1, 2**31 - 1), "MALLOC_MMAP_THRESHOLD_": (-3, 32 << 20)}
    with contextlib.suppress(AttributeError):  # another C library
        for name, (parameter, size) in limits.items():
            if name not in os.environ:
                ctypes.CDLL(None).mallopt(parameter, size)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _lost_peer(error: BaseException) -> bool:
    """Whether a collective failed because another rank is gone (gloo's words; NCCL waits instead)."""
    return any(words in str(error) for words in ("Connection closed by peer", "Connection reset by peer"))


def _linger(seconds: float = 10.0) -> None:
    """Let the rank that went first be seen first: its exit code and its words say why, this rank's do not."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and signal.SIGTERM not in _signals:
        time.sleep(0.1)


def _leave(code: int, orderly: bool) -> None:
    """Exit for good: the interpreter's own end can hang on, or be aborted by, threads of the backends."""
    from torch import distributed

    if orderly:
        at_common_end.close()
    heartbeat.mine().phase(heartbeat.END)
    if code in (os.EX_OK, SAVED):
        for work in before_leaving:
            work(code)
    at_end.close()
    if orderly and distributed.is_initialized():
        with contextlib.suppress(RuntimeError):  # another rank is gone already
            distributed.barrier()  # rank 0 holds the rendezvous: it must not be the first to go
            distributed.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
