"""The node entry: runs once per host, under every scheduler, and starts that host's ranks.

    python node.py --hostfile FILE --run ID --folder DIR -- -m workloads.pretrain ARGS…
    python node.py … --program --names-from 0 --processes host -- torchrun train.py '--out=$RUN_DIR'

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
import math
import os
import queue
import signal
import socket
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import caches
import carried
import environment
import events
import exposition
import hang
import heartbeat
import hostfile
import inventory
import logs
import nccl
import notify
import profiling
import program
import ranks
import records
import rendezvous
import restarts
import saved
import slowness
import stacks
import supervisor
import terminal
import watch
import weights
from ending import BAD_INPUT, NOT_WRITABLE, SAVED, Failure, Outcome, Stop
from team import Team

if TYPE_CHECKING:
    import links

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
WRITING = 10.0  # seconds that the run folder may take
PASSED_ON: dict[int, int] = {signal.SIGINT: signal.SIGTERM}  # Ctrl-C: ranks need not know it


def say(message: str) -> None:
    with contextlib.suppress(OSError):  # a reader that is gone is no reason to end the run
        print(f"node: {message}", file=sys.stderr, flush=True)


def check_devices(slots: int, variables: dict[str, str]) -> None:
    """Raises Stop when the scheduler gave this host fewer GPUs than the hostfile says."""
    visible = variables.get("CUDA_VISIBLE_DEVICES", "").strip()
    # Slurm says NoDevFiles where a job asked for no GPU: its ranks run on the CPU.
    if visible in {"", "NoDevFiles"} or variables.get("DS_ACCELERATOR") == "cpu":
        return
    if len(visible.split(",")) < slots:
        raise Stop(BAD_INPUT, f"the hostfile says {slots} slots but CUDA_VISIBLE_DEVICES is {visible!r}")


def make_logs(folder: Path) -> Path:
    """The folder of the ranks' logs. Raises Stop when it cannot be written."""
    logs_folder = folder / "logs"
    try:
        logs_folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=logs_folder).close()
    except OSError as error:
        raise Stop(NOT_WRITABLE, f"the run folder {folder} cannot be written: {error.strerror}") from None
    return logs_folder


def leave_early(number: int, _frame: Any) -> None:
    # Nothing runs yet, so there is nothing to save: the job's time is over or it is not wanted any more.
    ignore_signals()
    code = SAVED if number == signal.SIGUSR2 else 128 + number
    raise Stop(code, f"{signal.Signals(number).name} came before the ranks were started")


def ignore_signals() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def kept_caches(
    args: argparse.Namespace, own: dict[str, str]
) -> contextlib.AbstractContextManager[dict[str, str]]:
    """The variables that name compile caches; none without --scratch."""
    if args.scratch is None:
        return contextlib.nullcontext({})
    names = tuple(filter(None, args.caches.split(",")))
    return caches.variables(caches.Request(args.scratch, names, args.caches_for), own, say)


def run(args: argparse.Namespace, outcome: Outcome) -> int:
    """Read what the run is, start its ranks and wait for its end. Returns its exit code, or raises Stop."""
    hosts = hostfile.read_hostfile(args.hostfile)
    index = hostfile.find_index(hosts, args.node)
    run_events = events.of(args.folder, index, args.attempt, listener(args))
    if not args.checked:
        slots = next(iter(hosts.values()))
        events.begin(run_events, len(hosts), slots, spares=args.spares, since=args.since)
    with run_events.told():
        code = hosted(args, hosts, index=index, run_events=run_events, outcome=outcome)
        run_events.tell("ended", code=code)
    return code


def listener(args: argparse.Namespace) -> notify.Notifier:
    """Who tells others of what happens. Raises Stop where it is not said whom."""
    try:
        targets = notify.targets(args.notify, environment.addresses(args.environment))
    except (ValueError, TypeError, KeyError, AttributeError):
        raise Stop(BAD_INPUT, "--notify is not JSON as notify.py describes it") from None
    return notify.Notifier(targets, args.run, say)


def hosted(
    args: argparse.Namespace,
    hosts: dict[str, int],
    *,
    index: int,
    run_events: events.Events,
    outcome: Outcome,
) -> int:
    """What this host gives its ranks, and their life. Returns the run's exit code, or raises Stop."""
    slots = list(hosts.values())[index]
    own, job = environment.inherited(), environment.of_job(args.environment)
    check_devices(slots, own | job)
    folder = make_logs(args.folder)
    inventory.write(args.folder, index, list(hosts)[index], args.attempt)
    with kept_caches(args, own) as cached:
        variables = carried.enter(args.code, own | cached | job, alone=args.program)
        if (active := program.chosen(program.of(args), variables)) and args.python:
            for note in [f"python {active.python}", *active.notes]:
                say(note)
        with nccl.notes(variables, args.scratch) as notes, records.folder(args.scratch) as told:
            return supervised(
                args,
                variables | told,
                hosts,
                index=index,
                notes=notes,
                folder=folder,
                outcome=outcome,
                run_events=run_events,
            )


def supervised(
    args: argparse.Namespace,
    variables: dict[str, str],
    hosts: dict[str, int],
    *,
    index: int,
    notes: nccl.Notes | None,
    folder: Path,
    outcome: Outcome,
    run_events: events.Events,
) -> int:
    """The ranks' life, from the meeting of the hosts to the run's end. Returns its exit code, or raises Stop."""
    host, slots = list(hosts.items())[index]
    peers = meet(args, hosts, index, outcome=outcome)
    run_events.tell("met")
    say(f"host {index + 1} of {len(hosts)}, {slots} slots, master {next(iter(hosts))}:{peers.port}")

    # SimpleQueue, because its put() is reentrant: fit for a signal handler.
    heard: queue.SimpleQueue[ranks.Event] = queue.SimpleQueue()
    told = Path(variables[heartbeat.VARIABLE] or os.devnull)
    try:
        weights.fetch(args, variables, peers)
        listen(heard)
        team = Team(hosts, index, peers.port, str(args.hostfile.absolute()))
        variables = variables | (notes.variables if notes else {}) | stacks.variables(told, variables)
        mine = ranks.start(args.command, variables, team, program.of(args))
        kept = logs.keep(mine, folder, args.echo, args.attempt)
    except Stop as stop:
        stop.host = stop.host or host
        peers.tell(type="failed", code=stop.code, rank=-1, host=host, why=f"{host}: {stop}")
        raise
    run_events.tell("started")
    if notes:
        notes.follow(kept, mine.numbers)
    watched = watch.Watch(mine, kept, told, heard.put, **limit(args.stall))
    slow = slowness.Watch(variables[heartbeat.VARIABLE], hosts, index, peers=peers)
    profiles = profiling.Profiles(args.folder, args.attempt, told, slots, peers=peers, index=index)
    threading.Thread(target=ranks.reap, args=(heard,), daemon=True).start()
    watched.follow()
    peers.follow(slow.before(profiles.follow(lambda node, message: heard.put(ranks.Heard(node, message)))))
    expose(args, variables, mine)
    slow.start(args.folder, run_events, say)
    code = supervisor.Supervisor(
        ranks=mine,
        peers=peers,
        host=host,
        outcome=outcome,
        events=heard,
        run_events=run_events,
        say=say,
        hang=hang.Hang(args.folder, args.attempt, watched, peers=peers, index=index, say=say),
        decision=decision(args, told),
        walltime=supervisor.Walltime(args.requeue_after, args.folder / saved.FOLDER),
    ).wait()
    watched.finish()
    slow.stop(say)
    stacks.within(WRITING, lambda: blame(args, host, told), None)
    finish(kept, notes, folder / f"nccl-{host}" if code not in (0, SAVED) else None)
    if code == 0 and index == 0:
        outcome.succeed(host)
    return code


def meet(args: argparse.Namespace, hosts: dict[str, int], index: int, *, outcome: Outcome) -> links.Peers:
    """The other hosts, once all have come. Raises Stop with ABSENT."""
    peers = rendezvous.meet(list(hosts), index, f"{args.run}/{args.attempt}", limit=args.wait, say=say)
    if index == 0:
        outcome.forget()
        peers.tell(type="go", port=peers.port)
    return peers


def listen(heard: queue.SimpleQueue[ranks.Event]) -> None:
    """Have signals heard, of which some are passed on as others."""
    for number in SIGNALS:
        signal.signal(number, lambda n, _: heard.put(ranks.Signal(PASSED_ON.get(n, n))))


def expose(args: argparse.Namespace, variables: dict[str, str], mine: ranks.Ranks) -> None:
    """Answer Prometheus, where the cluster file has a port for that."""
    source = exposition.Source(args.run, args.folder, variables[heartbeat.VARIABLE], mine.numbers.values())
    exposition.serve(args.metrics_port, source, say)


def decision(args: argparse.Namespace, told: Path) -> restarts.Decision:
    """Node 0's, whether the run is started again."""
    return restarts.Decision(args.folder, told, args.attempt, by_code=args.restarts_by_code, say=say)


def blame(args: argparse.Namespace, host: str, told: Path) -> None:
    """Put this host on the attempt's list of unfit ones, where a rank has found that it is at fault."""
    with contextlib.suppress(OSError, ValueError):
        why = (told / heartbeat.BLAME).read_text(encoding="utf-8").partition("\n")[0]
        with (args.folder / f"unfit-{args.attempt}").open("a", encoding="utf-8") as file:
            file.write(f"{host} {why}\n")


def finish(kept: dict[int, logs.Log], notes: nccl.Notes | None, evidence: Path | None) -> None:
    """Close the ranks' logs, with all that is left to be written."""
    logs.finish(kept.values())
    if notes:
        notes.finish(evidence)
    for log in kept.values():
        log.close()


def limit(stall: str) -> dict[str, Any]:
    """What `--stall` means to Watch; a run at whose breakpoint() somebody thinks is never stalled."""
    judges = stall != "off" and not os.environ.get(terminal.VARIABLE)
    return {"judges": judges, "wish": None if stall in {"auto", "off"} else float(stall)}


def stall(text: str) -> str:
    """Raises ValueError for what is neither a word nor a number of seconds."""
    if text not in {"auto", "off"} and not 0 < float(text) < math.inf:
        raise ValueError
    return text


def arguments(words: list[str]) -> argparse.Namespace:
    """The command line. Raises SystemExit with BAD_INPUT after a message."""
    parser = argparse.ArgumentParser(
        prog="node.py", description="Start this host's ranks of a DeepSpeed job."
    )
    parser.add_argument("--hostfile", type=Path, required=True, help="lines of `host slots=N`")
    parser.add_argument("--run", required=True, help="the run's id: ports follow from it")
    parser.add_argument("--folder", type=lambda p: Path(p).absolute(), required=True, help="the run folder")
    parser.add_argument("--code", type=lambda p: Path(p).absolute(), help="where ranks start: carried.py")
    parser.add_argument("--environment", type=Path, help="the job's variables: environment.py")
    parser.add_argument("--scratch", type=Path, help="a folder on this host's own disk, for compile caches")
    parser.add_argument("--caches", default="", help="the variables that name them, with commas")
    parser.add_argument("--caches-for", default="", help="image and GPU type: each has caches of its own")
    parser.add_argument("--node", type=int, help="this host's index, when the scheduler does not tell it")
    parser.add_argument("--attempt", default="0", help="counts restarts: part of the outcome file's name")
    parser.add_argument("--checked", action="store_true", help="preflight was here, and told the start")
    parser.add_argument(
        "--spares", type=int, default=0, help="hosts of the run beside these, which stay idle"
    )
    parser.add_argument("--since", type=float, help="Unix time at which an attempt inside the job began")
    parser.add_argument("--wait", type=float, default=600, help="seconds until all hosts must have come")
    parser.add_argument(
        "--echo", choices=("0", "all"), default="all", help="whose output also goes to stdout"
    )
    parser.add_argument(
        "--requeue-after", type=float, help="seconds after SIGUSR2 at which ranks that go on are put back"
    )
    parser.add_argument(
        "--stall", type=stall, default="auto", help="seconds without progress that end it, or auto, or off"
    )
    parser.add_argument(
        "--restarts-by-code",
        action="store_true",
        help="end with another code where a restart would not help",
    )
    program.add_options(parser)
    weights.add_options(parser)
    notify.add_options(parser)
    exposition.add_options(parser)
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- and what Python runs in every rank")
    try:
        args = parser.parse_args(words)
        args.command = args.command[1:] if args.command[:1] == ["--"] else args.command
        if not args.command:
            parser.error("nothing to run: add -- and what Python runs in every rank")
    except SystemExit as end:  # argparse's own code is 2, which may be a rank's
        raise SystemExit(BAD_INPUT if end.code else 0) from None
    return args


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
        failure = Failure(stop.code, -1, stop.host or socket.gethostname())
        outcome.write(failure)
        with contextlib.suppress(Stop):
            if hostfile.find_index(hostfile.read_hostfile(args.hostfile), args.node) == 0:
                return decision(args, Path(os.devnull)).code(failure, wanted=True)
        return stop.code


if __name__ == "__main__":
    sys.exit(main())
