"""The node entry: runs once per host, under every scheduler, and starts that host's ranks.

    python node.py --hostfile FILE --run ID --folder DIR -- -m workloads.pretrain ARGS…

It checks the hostfile, finds its own place in it, meets the other hosts at the first one, and starts one process a
slot with the environment that `deepspeed.launcher.launch` gives its ranks. It needs the standard library alone: no
ssh, no MPI, no torch.

Why it does not exec DeepSpeed's own per-node launcher (0.19.8, deepspeed/launcher/launch.py): that one kills ranks 30 s
after SIGTERM and ends with 1, dies of SIGUSR2, imports torch first, and leaves the other hosts in a collective that
never ends when a rank fails.

The exit code is that of the first rank to fail on any host (128 + N for signal N), or one of ending.py's.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import logs
import ranks
import rendezvous
import supervisor
from ending import BAD_INPUT, NOT_STARTED, NOT_WRITABLE, SAVED, Failure, Outcome, Stop

# The index of this host, as each scheduler tells it.
INDEX_VARIABLES = ("SLURM_NODEID", "JOB_COMPLETION_INDEX", "LWS_WORKER_INDEX", "PET_NODE_RANK", "NODE_RANK")
# DeepSpeed's grammar (deepspeed/launcher/runner.py, _parse_hostfile), which would read `slots=8x` as 8.
_LINE = re.compile(r"(\S+)\s+slots=([1-9][0-9]{0,3})\s*(#.*)?")
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
PASSED_ON: dict[int, int] = {signal.SIGINT: signal.SIGTERM}  # Ctrl-C: ranks need not know it


def say(message: str) -> None:
    with contextlib.suppress(OSError):  # a reader that is gone is no reason to end the run
        print(f"node: {message}", file=sys.stderr, flush=True)


def read_hostfile(path: Path) -> dict[str, int]:
    """Host → slots, in order. Raises Stop where DeepSpeed would train on one host without a word."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise Stop(BAD_INPUT, f"hostfile {path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise Stop(BAD_INPUT, f"hostfile {path} is not text") from None
    hosts: dict[str, int] = {}
    for number, line in enumerate(map(str.strip, text.splitlines()), 1):
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if not match:
            raise Stop(BAD_INPUT, f"{path}:{number}: {line!r} is not `host slots=N`")
        if match[1] in hosts:
            raise Stop(BAD_INPUT, f"{path}:{number}: host {match[1]} is listed twice")
        hosts[match[1]] = int(match[2])
    if not hosts:
        raise Stop(BAD_INPUT, f"hostfile {path} names no host")
    if len(set(hosts.values())) > 1:
        raise Stop(BAD_INPUT, f"hostfile {path}: every host needs the same number of slots")
    return hosts


def find_index(hosts: dict[str, int], given: int | None) -> int:
    """This host's place in the hostfile, from 0. Raises Stop when it is unknown, too high, or another host's."""
    source, index = "--node", given
    if index is None:
        source = next((name for name in INDEX_VARIABLES if os.environ.get(name, "").isdecimal()), "")
        index = int(os.environ.get(source, "0"))
    if not source and len(hosts) > 1:
        return _own_place(hosts)
    if not 0 <= index < len(hosts):
        raise Stop(BAD_INPUT, f"{source} is {index} but the hostfile is short: it has {len(hosts)} hosts")
    named, here = list(hosts)[index], socket.gethostname()
    if _short(named) != _short(here) and not _is_mine(named):
        raise Stop(BAD_INPUT, f"the hostfile names {named} at index {index}, but this host is {here}")
    return index


def _own_place(hosts: dict[str, int]) -> int:
    """The index of the one host that is named as this one, for pods that nothing numbers, as those of an MPIJob."""
    here = _short(socket.gethostname())
    mine = [index for index, host in enumerate(hosts) if _short(host) == here]
    if len(mine) != 1:
        raise Stop(BAD_INPUT, f"{len(hosts)} hosts but no index: none of {', '.join(INDEX_VARIABLES)} is set")
    return mine[0]


def _short(host: str) -> str:
    return host.partition(".")[0].casefold()


def _is_mine(host: str) -> bool:
    """Whether `host` resolves to an address of this machine: only such an address can be bound."""
    with contextlib.suppress(OSError):
        for family, kind, proto, _, address in socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM):
            with contextlib.suppress(OSError), socket.socket(family, kind, proto) as probe:
                probe.bind(address)
                return True
    return False


def check_devices(slots: int) -> None:
    """Raises Stop when the scheduler gave this host fewer GPUs than the hostfile says."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").strip()
    # Slurm says NoDevFiles where a job asked for no GPU: its ranks run on the CPU.
    if visible in {"", "NoDevFiles"} or os.environ.get("DS_ACCELERATOR") == "cpu":
        return
    if len(visible.split(",")) < slots:
        raise Stop(BAD_INPUT, f"the hostfile says {slots} slots but CUDA_VISIBLE_DEVICES is {visible!r}")


def make_logs(folder: Path) -> Path:
    """The folder of the ranks' logs. Raises Stop when it cannot be written."""
    made = folder / "logs"
    try:
        made.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=made).close()
    except OSError as error:
        raise Stop(NOT_WRITABLE, f"the run folder {folder} cannot be written: {error.strerror}") from None
    return made


def leave_early(number: int, _frame: Any) -> None:
    # Nothing runs yet, so there is nothing to save: the job's time is over or it is not wanted any more.
    ignore_signals()
    code = SAVED if number == signal.SIGUSR2 else 128 + number
    raise Stop(code, f"{signal.Signals(number).name} came before the ranks were started")


def ignore_signals() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def run(args: argparse.Namespace, outcome: Outcome) -> int:
    """Start the ranks once all hosts have come and wait for the run's end. Returns its exit code, or raises Stop."""
    hosts = read_hostfile(args.hostfile)
    index = find_index(hosts, args.node)
    host, slots = list(hosts.items())[index]
    check_devices(slots)
    folder = make_logs(args.folder)
    peers = rendezvous.meet(list(hosts), index, f"{args.run}/{args.attempt}", limit=args.wait, say=say)
    if index == 0:
        outcome.forget()
        peers.tell(type="go", port=peers.port)
    say(f"host {index + 1} of {len(hosts)}, {slots} slots, master {next(iter(hosts))}:{peers.port}")

    # SimpleQueue, because its put() is reentrant: fit for a signal handler.
    events: queue.SimpleQueue[ranks.Event] = queue.SimpleQueue()
    for number in SIGNALS:
        signal.signal(number, lambda n, _: events.put(ranks.Signal(PASSED_ON.get(n, n))))
    try:
        mine = ranks.start(args.command, hosts, index, peers.port)
        copiers = logs.keep(mine, folder, args.echo, args.attempt)
    except (OSError, subprocess.SubprocessError) as error:
        peers.tell(type="failed", code=NOT_STARTED, rank=-1, host=host)
        raise Stop(NOT_STARTED, f"the ranks cannot be started: {error}") from None
    threading.Thread(target=ranks.reap, args=(events,), daemon=True).start()
    peers.follow(lambda node, message: events.put(ranks.Heard(node, message)))
    code = supervisor.Supervisor(
        ranks=mine, peers=peers, host=host, outcome=outcome, events=events, say=say
    ).wait()
    logs.finish(copiers)
    return code


def arguments(words: list[str]) -> argparse.Namespace:
    """The command line. Raises SystemExit with BAD_INPUT after a message."""
    parser = argparse.ArgumentParser(
        prog="node.py", description="Start this host's ranks of a DeepSpeed job."
    )
    parser.add_argument("--hostfile", type=Path, required=True, help="lines of `host slots=N`")
    parser.add_argument("--run", required=True, help="the run's id: ports follow from it")
    parser.add_argument("--folder", type=Path, required=True, help="the run folder")
    parser.add_argument("--node", type=int, help="this host's index, when the scheduler does not tell it")
    parser.add_argument("--attempt", default="0", help="counts restarts: part of the outcome file's name")
    parser.add_argument("--wait", type=float, default=600, help="seconds until all hosts must have come")
    parser.add_argument(
        "--echo", choices=("0", "all"), default="all", help="whose output also goes to stdout"
    )
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- and what Python runs in every rank")
    try:
        made = parser.parse_args(words)
        made.command = made.command[1:] if made.command[:1] == ["--"] else made.command
        if not made.command:
            parser.error("nothing to run: add -- and what Python runs in every rank")
    except SystemExit as end:  # argparse's own code is 2, which may be a rank's
        raise SystemExit(BAD_INPUT if end.code else 0) from None
    return made


def main() -> int:
    args = arguments(sys.argv[1:])
    outcome = Outcome(args.folder / f"outcome-{args.attempt}")
    try:
        for number in SIGNALS:
            signal.signal(number, leave_early)
        return run(args, outcome)
    except Stop as stop:
        ignore_signals()
        say(f"error: {stop}")
        outcome.write(Failure(stop.code, -1, socket.gethostname()))
        return stop.code


if __name__ == "__main__":
    sys.exit(main())
