"""Tries configurations of a job one after another on the run's hosts, and keeps what each took.

    python -m tune --trials FILE --folder DIR --run ID

The node entry starts one such process a host, as it starts a program of the user's own; each starts a node entry for
each trial (trial.py), whose failure is a result. Host 0 decides (halving.py), and tells the others over connections
like those of the node entries:

    {"type": "try", "trial": 3, "round": 0, "steps": 5}                        host 0 to all
    {"type": "ended", "code": 0, "late": false, "memory": false, "why": ""}    their answer
    {"type": "end", "code": 0}                                                 host 0 to all

FILE is {"steps": 5, "limit": 600, "trials": [{"name", "group", "micro", "bound", "less", "config", "words"}]}. The run
folder gets trials.jsonl, a line for each trial that ended, and trials/NAME/ of each. A process that is started again
takes up where the lines end; the trial that was cut short is tried anew. Exit codes: 0, SAVED after a signal, 1 where
nothing worked.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import halving
import hostfile
import rendezvous
import trial
from ending import BAD_INPUT, LOST, NOT_WRITABLE, SAVED, STALLED, Stop

if TYPE_CHECKING:
    from collections.abc import Sequence

    from links import Peers

RESULTS = "trials.jsonl"
LINE = "trial "  # begins a line of the log, which holds what trials.jsonl does
_KILLED = 128 + signal.SIGKILL


def say(text: str) -> None:
    with contextlib.suppress(OSError):
        print(text, flush=True)


class Tuning:
    """The trials of a run, as FILE has them, and what of them is known."""

    def __init__(self, document: dict[str, Any], folder: Path) -> None:
        self.first, self.limit = int(document["steps"]), float(document["limit"])
        self.entries: list[dict[str, Any]] = document["trials"]
        self.folder = folder
        self.trials = [
            halving.Trial(e["group"], e["micro"], e["bound"], tuple(e["less"])) for e in self.entries
        ]
        self.results: list[halving.Result] = []

    def read(self) -> None:
        """Take up what earlier attempts have found out."""
        with contextlib.suppress(OSError):
            for line in (self.folder / RESULTS).read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(ValueError, TypeError, KeyError):  # a line that was cut off
                    known = json.loads(line)
                    result = halving.Result(*(known[key] for key in halving.Result._fields))
                    if 0 <= result.trial < len(self.trials):
                        self.results.append(result)

    def order(self, chosen: halving.Next) -> trial.Order:
        entry = self.entries[chosen.trial]
        return trial.Order(
            name=f"{chosen.trial}-{chosen.steps}",
            config=entry["config"],
            words=entry["words"],
            steps=chosen.steps,
            limit=self.limit * halving.FACTOR**chosen.round,
        )

    def keep(self, chosen: halving.Next, ends: Sequence[trial.Ended], began: float) -> None:
        """Add a line for a trial that has ended. Raises Stop when it cannot be written."""
        steps, figures = trial.measured(trial.place(self.folder, self.order(chosen).name))
        seconds = halving.seconds(steps)
        result, why = judged(ends, seconds)
        self.results.append(
            halving.Result(chosen.trial, chosen.steps, result, seconds if result == halving.DONE else None)
        )
        line = {**self.results[-1]._asdict(), "name": self.entries[chosen.trial]["name"], "why": why}
        code = next((end.code for end in ends if end.code), 0)
        line |= {"code": code, "began": began, "seconds": round(time.time() - began, 3), **figures}
        text = json.dumps(line)
        try:
            with (self.folder / RESULTS).open("a", encoding="utf-8") as file:
                file.write(text + "\n")
        except OSError as error:
            raise Stop(NOT_WRITABLE, f"{RESULTS} cannot be written: {error.strerror}") from None
        say(LINE + text)

    def tell(self, chosen: halving.Next) -> None:
        """Say what is tried now, for whoever follows the run: metrics.jsonl."""
        text = f"{len(self.results) + 1}: {self.entries[chosen.trial]['name']}, {chosen.steps} steps"
        line = {"event": "trial", "step": 0, "text": text, "time": time.time()}
        with (
            contextlib.suppress(OSError),
            (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file,
        ):
            file.write(json.dumps(line) + "\n")


def judged(ends: Sequence[trial.Ended], seconds: float | None) -> tuple[str, str]:
    """One of halving.py's words for how a trial ended on all hosts, and why."""
    why = next((end.why for end in ends if end.memory), "") or next((end.why for end in ends if end.why), "")
    code = next((end.code for end in ends if end.code), 0)
    if any(end.late for end in ends):
        return halving.LATE, why
    if any(end.memory for end in ends):
        return halving.MEMORY, why
    if code == _KILLED:
        return halving.MEMORY, why or "killed, as the kernel does when a host's memory is full"
    if code == STALLED:
        return halving.HUNG, why or "no rank advanced any more"
    if code:
        return halving.FAILED, f"exit {code}: {why}" if why else f"exit {code}"
    return (halving.DONE, "") if seconds else (halving.FAILED, "it measured too few steps")


def lead(tuning: Tuning, host: trial.Host, peers: Peers) -> int:
    """Host 0's part. Returns the exit code; raises Stop where it cannot go on."""
    heard: queue.SimpleQueue[tuple[int, dict[str, Any]]] = queue.SimpleQueue()
    peers.follow(lambda node, message: heard.put((node, message)))
    tuning.read()
    while chosen := halving.following(tuning.trials, tuning.first, tuning.results):
        shutil.rmtree(trial.place(host.folder, tuning.order(chosen).name), ignore_errors=True)
        tuning.tell(chosen)
        began = time.time()
        peers.tell(type="try", **chosen._asdict())
        ends = [host.attempt(tuning.order(chosen))]
        while len(ends) <= len(peers.links):
            node, message = heard.get()
            if message.get("type") != "ended":
                raise Stop(LOST, f"lost {peers.hosts[node]}", peers.hosts[node])
            ends.append(trial.Ended(*(message[key] for key in trial.Ended._fields)))
        if host.stopped or any(end.code == SAVED for end in ends):
            say("stopped by a signal: the next attempt goes on with this trial")
            return SAVED
        tuning.keep(chosen, ends, began)
    best = halving.ranked(tuning.results)
    say(f"best: {tuning.entries[best[0].trial]['name']}" if best else "no configuration worked")
    return 0 if best else 1


def follow(tuning: Tuning, host: trial.Host, peers: Peers) -> int:
    """The part of every other host: what host 0 says."""
    while (message := peers.links[0].receive(None)).get("type") == "try":
        chosen = halving.Next(*(message[key] for key in halving.Next._fields))
        peers.tell(type="ended", **host.attempt(tuning.order(chosen))._asdict())
    return int(message["code"]) if message else LOST


def run(args: argparse.Namespace) -> int:
    """The exit code. Raises Stop."""
    path, index = Path(os.environ["HOSTFILE"]), int(os.environ["NODE_RANK"])
    hosts = hostfile.read_hostfile(path)
    try:
        tuning = Tuning(json.loads(args.trials.read_text(encoding="utf-8")), args.folder)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise Stop(BAD_INPUT, f"{args.trials} cannot be read: {error}") from None
    host = trial.Host(args.folder, args.run, path, index)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
        signal.signal(number, host.stop)
    trial.environment(args.folder)
    peers = rendezvous.meet(list(hosts), index, f"{args.run}/tune", limit=600.0, say=say)
    if index:
        return follow(tuning, host, peers)
    peers.tell(type="go", port=peers.port)
    code = NOT_WRITABLE
    try:
        code = lead(tuning, host, peers)
    except OSError as error:
        raise Stop(NOT_WRITABLE, f"{error.filename or args.folder}: {error.strerror}") from None
    finally:
        peers.tell(type="end", code=code)
    return code


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tune", description="Try configurations of a job.")
    parser.add_argument("--trials", type=Path, required=True, help="what to try, JSON")
    parser.add_argument("--folder", type=Path, required=True, help="the run folder")
    parser.add_argument("--run", required=True, help="the run's id: ports follow from it")
    try:
        return run(parser.parse_args())
    except Stop as stop:
        say(f"tune: error: {stop}")
        return stop.code


if __name__ == "__main__":
    sys.exit(main())
