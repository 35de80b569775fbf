"""The gate: runs once per host before the node entry, in the same place, and lets it start only where ranks can run.

    python preflight.py [OPTIONS] -- THE NODE ENTRY'S OWN ARGUMENTS

Every host checks itself, then all do one short all-reduce. One table goes to the job's log. If all is well this
process becomes the node entry; else it ends with UNFIT and the culprits stand in unfit-<attempt>, `host reason` a
line. With --choose it ends in both cases, and writes the best hosts to chosen-<attempt>. It knows no workload and needs
the standard library; the all-reduce (allreduce.py) needs torch.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import math
import os
import queue
import resource
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import environment
import events
import hostfile
import node
import program
import ranks
import rendezvous
from ending import NOT_WRITABLE, UNFIT, Failure, Outcome, Stop
from team import Team

if TYPE_CHECKING:
    from collections.abc import Sequence

    from links import Message, Peers

GIB = 2**30
ALL_REDUCE = Path(__file__).with_name("allreduce.py")


@dataclass(frozen=True)
class Check:
    """What one host says of one thing."""

    name: str
    ok: bool
    finding: str
    rate: float = 0.0  # GB/s with the better of its neighbours, where that was measured


def own(args: argparse.Namespace, first: str, slots: int) -> list[Check]:
    """What a host can say about itself, in milliseconds."""
    return [
        _room("/dev/shm", Path("/dev/shm"), args.shm * slots),
        _room("scratch", args.scratch, args.disk),
        _memlock(args.memlock),
        _resolves(first),
    ]


def _room(name: str, folder: Path, wanted: float) -> Check:
    """`wanted` in GiB. A file is written, because a full quota or a read-only disk still has free blocks."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(2**20))
            file.flush()
        free = shutil.disk_usage(folder).free / GIB
    except OSError as error:
        return Check(name, False, f"{folder}: {error.strerror}")
    short = f" in {folder}, {wanted:.3g} wanted" if free < wanted else ""
    return Check(name, free >= wanted, f"{free:.3g} GiB free{short}")


def _memlock(wanted: bool) -> Check:
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    words = "unlimited" if limit == resource.RLIM_INFINITY else f"{limit // 1024} KiB"
    if wanted and limit != resource.RLIM_INFINITY:
        return Check("memlock", False, f"{words}, and RDMA pins memory: it must be unlimited")
    return Check("memlock", True, words)


def _resolves(host: str) -> Check:
    try:
        addresses = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        return Check("first host", False, f"{host} does not resolve: {error.strerror}")
    return Check("first host", True, str(addresses[0][4][0]))


def measured(
    args: argparse.Namespace, variables: dict[str, str], team: Team, python: str = ""
) -> list[Check]:
    """Start the all-reduce in this host's slots and judge what they print. Raises Stop when it cannot be started."""
    # to choose, each host is measured with its neighbours; without a floor the figures are mostly noise
    floor = math.inf if args.choose and args.floor else args.floor
    command = [str(ALL_REDUCE), "--limit", str(args.limit), "--floor", str(floor)]
    if variables.get("DS_ACCELERATOR") == "cpu" or variables.get("CUDA_VISIBLE_DEVICES") in {
        "",
        "NoDevFiles",
    }:
        # a network is measured by one process a host
        team = dataclasses.replace(team, hosts=dict.fromkeys(team.hosts, 1))
    mine = ranks.start(command, variables, team, program.Program(python=python))
    outputs: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    for process in mine.processes.values():
        threading.Thread(target=lambda p=process: outputs.put(p.stdout.read()), daemon=True).start()
    end, texts = time.monotonic() + 2 * args.limit + 60, []  # a minute for torch, on a cold file system
    with contextlib.suppress(queue.Empty):
        for _ in mine.processes:
            texts.append(outputs.get(timeout=max(0.0, end - time.monotonic())).decode("utf-8", "replace"))
    mine.kill()
    return judged([_last_line(text) for text in texts], len(mine.processes), args.floor)


def _last_line(text: str) -> dict[str, Any]:
    """The JSON line of a rank, or its last words as an error."""
    lines = text.strip().splitlines() or ["it said nothing"]
    with contextlib.suppress(ValueError):
        measurement = json.loads(lines[-1])
        if isinstance(measurement, dict):
            return measurement
    return {"error": lines[-1]}


def judged(measurements: list[dict[str, Any]], slots: int, floor: float) -> list[Check]:
    """Checks of driver, prebuilt ops and bandwidth, from what the host's ranks said."""
    checks: list[Check] = []
    if absent := sorted({f["absent"] for f in measurements if f.get("absent")}):
        return [Check("all-reduce", True, f"not measured: this Python has no {absent[0]}")]
    drivers = sorted({f["driver"] for f in measurements if f.get("driver")})
    if any("driver" in f for f in measurements):
        checks.append(Check("driver", not drivers, "; ".join(drivers) or "ok"))
    ops = {name: why for f in measurements for name, why in f.get("ops", {}).items()}
    words = "; ".join(f"{name}: {why}" for name, why in ops.items())
    checks.append(Check("prebuilt ops", not ops, words or "ok"))
    errors = sorted({f["error"] for f in measurements if f.get("error")})
    if len(measurements) < slots or errors or drivers:
        checks.append(Check("all-reduce", False, (errors or ["no end within the time limit"])[0]))
        return checks
    whole = min(f["gb_per_s"] for f in measurements)
    alone = min(f.get("pair_gb_per_s", whole) for f in measurements)
    slow = f", below the floor of {floor:.3g}" if whole < floor else ""
    pairs = f", {alone:.3g} with a neighbour" if whole < floor else ""
    rate = min(f.get("pair_gb_per_s", 0.0) for f in measurements)
    checks.append(Check("all-reduce", max(whole, alone) >= floor, f"{whole:.3g} GB/s{slow}{pairs}", rate))
    return checks


def gather(peers: Peers, index: int, mine: list[Check], limit: float) -> dict[str, list[Check]]:
    """On host 0: every host's checks by its name; a host that does not answer fails. On others: {}."""
    message = [[c.name, c.ok, c.finding, c.rate] for c in mine]
    if index:
        peers.links[0].send(type="checks", checks=message)
        return {}
    end = time.monotonic() + limit
    checks_of = {peers.hosts[0]: mine}
    for other in range(1, len(peers.hosts)):
        answer: Message = peers.links[other].receive(max(0.1, end - time.monotonic()))
        rows = [Check(str(n), bool(ok), str(f), float(r)) for n, ok, f, r in answer.get("checks", [])]
        checks_of[peers.hosts[other]] = rows or [Check("answer", False, "it went away during preflight")]
    return checks_of


def agree(peers: Peers, index: int, value: Any) -> Any:
    """Host 0's value on every host. Raises Stop when host 0 is gone."""
    if not index:
        peers.tell(type="agree", value=value)
        return value
    answer = peers.links[0].receive(None)
    if answer.get("type") != "agree":
        raise Stop(UNFIT, f"{peers.hosts[0]}, the first host, went away during preflight")
    return answer["value"]


def culprits(checks_of: dict[str, list[Check]]) -> dict[str, str]:
    """Host → why. A failed all-reduce accuses a host only where nothing else accuses one: one host fails it for all."""
    bad = {host: [c for c in checks if not c.ok] for host, checks in checks_of.items()}
    sure = {host: [c for c in checks if c.name != "all-reduce"] for host, checks in bad.items()}
    chosen = sure if any(sure.values()) else bad
    return {host: f"{checks[0].name}: {checks[0].finding}" for host, checks in chosen.items() if checks}


# Below this share of the fastest host's rate a host is a spare rather than one that trains.
_SLOW = 0.9


def most(counts: Sequence[int], hosts: int) -> int:
    """How many of so many hosts train: the most of `counts`; all where none is asked for."""
    return max((count for count in counts if count <= hosts), default=hosts)


def choose(checks_of: dict[str, list[Check]], count: int) -> list[str]:
    """The `count` hosts that train, in the order given: none that is slower than another one that is left.

    The first host comes last: it runs the batch script, so any other may be lost without an end of the job.
    """
    rates = {host: max((c.rate for c in checks), default=0.0) for host, checks in checks_of.items()}
    fast, hosts = _SLOW * max(rates.values()), list(checks_of)
    best = sorted(hosts, key=lambda host: (rates[host] < fast, host == hosts[0]))[:count]
    return [host for host in hosts if host in best]


def table(checks_of: dict[str, list[Check]], seconds: float) -> str:
    """One row a host; where a host failed, a mark."""
    names = list(dict.fromkeys(c.name for checks in checks_of.values() for c in checks))
    rows = [["host", *names]]
    for host, checks in checks_of.items():
        cells = {c.name: c.finding if c.ok else f"FAILED {c.finding}" for c in checks}
        rows.append([host, *(cells.get(name, "-") for name in names)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip() for row in rows]  # noqa: B905
    return "\n".join([f"preflight, {seconds:.1f} s", *(f"  {line}" for line in lines)])


def report(folder: Path, attempt: str, text: str, bad: dict[str, str]) -> None:
    print(text, flush=True)
    with contextlib.suppress(OSError):
        with (folder / "logs" / "job.log").open("a", encoding="utf-8") as log:
            log.write(
                f"{text}\n" + "".join(f"preflight: {host} failed: {why}\n" for host, why in bad.items())
            )
        lines = "".join(f"{host} {why}\n" for host, why in bad.items())
        (folder / f"unfit-{attempt}").write_text(lines, encoding="utf-8") if bad else None


def leave(path: Path, hosts: list[str]) -> None:
    """Write the hosts that were chosen, a line each. Raises Stop when that cannot be."""
    try:
        path.write_text("".join(f"{host}\n" for host in hosts), encoding="utf-8")
    except OSError as error:
        raise Stop(NOT_WRITABLE, f"{path} cannot be written: {error.strerror}") from None


def check(args: argparse.Namespace, entry: argparse.Namespace) -> None:
    """Returns when every host is fit. Raises Stop when one is not, or never came."""
    hosts = hostfile.read_hostfile(entry.hostfile)
    index = hostfile.find_index(hosts, entry.node)
    run_events = events.of(entry.folder, index, entry.attempt, node.listener(entry))
    count, slots = most(args.choose, len(hosts)), next(iter(hosts.values()))
    events.begin(run_events, count, slots, spares=len(hosts) - count, since=entry.since)
    with run_events.told():
        checked(args, entry, hosts, index=index, run_events=run_events)


def checked(
    args: argparse.Namespace,
    entry: argparse.Namespace,
    hosts: dict[str, int],
    *,
    index: int,
    run_events: events.Events,
) -> None:
    """Meet the other hosts and check them all. Raises Stop when one is not fit, or never came."""
    began = time.monotonic()
    inherited, job = environment.inherited(), environment.of_job(entry.environment)
    node.make_logs(entry.folder)
    peers = rendezvous.meet(
        list(hosts), index, f"{entry.run}/{entry.attempt}/preflight", limit=entry.wait, say=node.say
    )
    if index == 0:
        Outcome(
            entry.folder / f"outcome-{entry.attempt}"
        ).forget()  # Kubernetes starts pods again under one number
        peers.tell(type="go", port=peers.port)
    run_events.tell("preflight")
    mine = own(
        args, next(iter(hosts)), list(hosts.values())[index]
    )  # now: a pod's name is known once it has come
    checks_of = gather(peers, index, mine, 30)
    if agree(peers, index, not culprits(checks_of)):
        with node.kept_caches(entry, inherited) as cached:
            team = Team(hosts, index, peers.port)
            mine += measured(args, inherited | cached | job, team, entry.python)
        checks_of = gather(peers, index, mine, 2 * args.limit + 90)
    bad: dict[str, str] = agree(peers, index, culprits(checks_of))
    if index == 0:
        report(entry.folder, entry.attempt, table(checks_of, time.monotonic() - began), bad)
        if args.choose and not bad:
            count = most(args.choose, len(hosts))
            leave(entry.folder / f"chosen-{entry.attempt}", choose(checks_of, count))
    for link in peers.links.values():
        link.socket.close()
    if peers.reserved:
        peers.reserved.close()
    if bad:
        host, why = next(iter(bad.items()))
        more = f" (and {len(bad) - 1} more hosts)" if len(bad) > 1 else ""
        Outcome(entry.folder / f"outcome-{entry.attempt}").write(Failure(UNFIT, -1, host))
        raise Stop(UNFIT, f"{host} is not fit for this job: {why}{more}")


def arguments(words: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="preflight.py", description="Check the hosts, then become the node entry."
    )
    parser.add_argument("--scratch", type=Path, default=Path("/tmp"), help="the folder of the compile caches")
    parser.add_argument("--disk", type=float, default=1.0, help="GiB that must be free there")
    parser.add_argument("--shm", type=float, default=0.0625, help="GiB a slot that must be free in /dev/shm")
    parser.add_argument("--memlock", action="store_true", help="locked memory must be unlimited")
    parser.add_argument("--floor", type=float, default=0.0, help="bus bandwidth that must be reached, GB/s")
    parser.add_argument("--limit", type=float, default=30.0, help="seconds that a collective may take")
    parser.add_argument(
        "--choose",
        type=int,
        action="append",
        default=[],
        help="so many of the hosts, the best, and end: chosen-<attempt>; of several numbers the most that there are",
    )
    parser.add_argument("entry", nargs=argparse.REMAINDER, help="-- and the node entry's arguments")
    args = parser.parse_args(words)
    return args, args.entry[1:] if args.entry[:1] == ["--"] else args.entry


def main() -> int:
    args, words = arguments(sys.argv[1:])
    entry = node.arguments(words)
    try:
        for number in node.SIGNALS:
            signal.signal(number, node.leave_early)
        check(args, entry)
    except Stop as stop:
        node.ignore_signals()
        node.say(f"error: {stop}")
        Outcome(entry.folder / f"outcome-{entry.attempt}").write(Failure(stop.code, -1, socket.gethostname()))
        return stop.code
    if args.choose:
        return 0
    program = Path(__file__).with_name("node.py")
    os.execv(sys.executable, [sys.executable, str(program), "--checked", *words])
    raise AssertionError("execv does not return")


if __name__ == "__main__":
    sys.exit(main())
