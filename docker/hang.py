"""What happens when no rank of the run advances any more: stacks of all hosts at once, a verdict, and the end.

Owns the agreement between the hosts. Every host tells node 0 when its ranks are quiet, and when they are not; once all
are, or somebody asks for the stacks, node 0 tells all to take them, and says what they show. Of a program that never
told a step, nothing is ended that does not show ranks which wait for others, unless the job sets a limit of its own: a
server may be silent for as long as nobody asks.

    {"type": "quiet", "state": "moves" | "quiet" | "done"}    a host to node 0, at each change
    {"type": "dump", "name": "0-1"}                           node 0 to all
    {"type": "dumped", "name": "0-1", "ranks": […]}           their answer

The run folder gets stacks/<attempt>-<number>/: rank-N.txt as it was taken, and verdict.json. What a file system that
does not answer could hold up is done in threads, and not waited for.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import flight
import heartbeat
import rank_shell
import stacks
import verdict
import watch
from ranks import Stalled

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from links import Message, Peers

PATIENCE = 20.0  # seconds that hosts have to answer
_WRITING, _READING = 10.0, 2.0
_LONGEST = 50_000  # bytes of a host's answer: links.py reads lines of 64 KiB
_FITS = (
    (6, 25),
    (3, 20),
    (1, 15),
    (1, 5),
    (0, 0),
)  # (threads, frames) of each rank, until the answer is short enough


@dataclass
class Hang:
    """This host's part in it; node 0 has the answers of all.

    `folder`: the run folder.
    """

    folder: Path
    attempt: str
    watched: watch.Watch
    peers: Peers
    index: int
    say: Callable[[str], None]
    states: dict[int, str] = field(default_factory=dict)
    answers: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    name: str = ""  # of what is being taken; '' when nothing is
    missed: bool = False  # whether a stall was found meanwhile
    _came: threading.Condition = field(default_factory=threading.Condition)

    def mark(self, node: int, state: str) -> None:
        """How the ranks of a host are."""
        if self.index:
            self.peers.tell(type="quiet", state=state)
            return
        self.states[node] = state
        self._look()

    def _look(self) -> None:
        known = [self.states.get(index, "moves") for index in range(len(self.peers.hosts))]
        if "moves" not in known and "quiet" in known:
            self.ask("stall")

    def ask(self, cause: str) -> None:
        """Have all hosts take their stacks; `cause` is "stall" or "asked". Node 0's alone."""
        if self.index:
            return
        with self._came:
            if self.name:
                self.missed |= cause == "stall"
                return
            self.name = stacks.within(_READING, self._unused, f"{self.attempt}-{time.time():.0f}")
            self.answers.clear()
        self.peers.tell(type="dump", name=self.name)
        threading.Thread(target=self._gather, args=(self.name, cause), daemon=True).start()

    def heard(self, node: int, message: Message) -> None:
        """A message of the three above."""
        if message["type"] == "quiet":
            self.mark(node, str(message.get("state")))
        elif message["type"] == "dump":
            threading.Thread(target=self._answer, args=(str(message.get("name")),), daemon=True).start()
        elif message.get("name") == self.name and isinstance(message.get("ranks"), list):
            with self._came:
                self.answers[node] = message["ranks"]
                self._came.notify()

    def _unused(self) -> str:
        names = (f"{self.attempt}-{number}" for number in itertools.count(1))
        return next(name for name in names if not (self.folder / "stacks" / name).exists())

    def _answer(self, name: str) -> None:
        self.peers.tell(type="dumped", name=name, ranks=self._take(name))

    def _gather(self, name: str, cause: str) -> None:
        ends = False
        try:
            ends = self._conclude(name, cause)
        except Exception as error:  # whatever it is, the next stall must be looked at
            self.say(f"what the ranks are in could not be told: {error!r}")
        with self._came:
            again, self.missed, self.name = self.missed and not ends, False, ""
        if again:
            self._look()

    def _conclude(self, name: str, cause: str) -> bool:
        """Gather the answers and say what they show; returns whether that ends the run."""
        own = self._take(name)
        with self._came:
            self.answers[0] = own
            self._came.wait_for(lambda: len(self.answers) == len(self.peers.hosts), PATIENCE)
            answers = dict(self.answers)
        records = [record for node in sorted(answers) for record in answers[node]]
        found = verdict.judge([_stack(record) for record in records])
        absent = [host for node, host in enumerate(self.peers.hosts) if node not in answers]
        text = found.text + (f"; no answer from {', '.join(absent)}" if absent else "")
        said = {"name": name, "cause": cause, "verdict": text, "rank": found.rank, "host": found.host}
        said |= {"of_host": found.of_host, "time": time.time()}
        said |= {"silent": round(self.watched.silence, 1), "limit": round(self.watched.limit, 1)}
        self._leave(name, {**said, "absent": absent, "ranks": records})
        if found.of_host and found.host:
            stacks.within(_WRITING, lambda: self._blame(found), None)
        if cause == "asked" or "moves" in self.states.values():  # a rank may have woken up meanwhile
            return False
        told = found.waits or any(record["step"] is not None for record in records)
        ends = told or self.watched.wish is not None
        self.say(f"{'stalled' if ends else 'silent'} for {self.watched.silence:.0f} s: {text}")
        if ends:
            self.watched.put(Stalled(found.rank, found.host, found.of_host, text))
        return ends

    def _take(self, name: str) -> list[dict[str, Any]]:
        """What this host's ranks are in, and the same in the run folder."""
        ranks = self.watched.ranks
        numbers = {pid: ranks.numbers[pid] for pid in ranks.alive}
        if ranks.start_ranks:
            started = {one: rank for pid in numbers for rank, one in stacks.ranks_below(pid).items()}
            numbers = started or numbers
        nothing: dict[int, Path] = {}
        began, recorded = time.time(), stacks.within(_READING, lambda: _asked(numbers), nothing)
        taken = stacks.take(numbers, self.watched.folder)
        stacks.within(_WRITING, lambda: self._keep(name, taken, numbers), None)
        stacks.within(_WRITING, lambda: flight.keep(recorded, began, self.folder / "stacks" / name), None)
        host = self.peers.hosts[self.index]
        full = [_record(numbers[pid], host, one, self.watched.folder) for pid, one in taken.items()]
        for threads, frames in _FITS:
            cut = [{**r, "threads": [t[:frames] for t in r["threads"][:threads]]} for r in full]
            if len(json.dumps(cut)) < _LONGEST:
                return cut
        return []

    def _keep(self, name: str, taken: dict[int, stacks.Taken], numbers: dict[int, int]) -> None:
        with contextlib.suppress(OSError):
            folder = self.folder / "stacks" / name
            folder.mkdir(parents=True, exist_ok=True)
            for pid, one in taken.items():
                kernel = f"state {one.state or '-'}, in the kernel {one.wchan or '-'}"
                text = f"process {one.pid} ({one.program}), {kernel}\n{one.why}\n{one.text}"
                (folder / f"rank-{numbers[pid]}.txt").write_text(text, encoding="utf-8")

    def _blame(self, found: verdict.Verdict) -> None:
        """Name a host that is at fault, as preflight does: the script puts it on the list of bad hosts."""
        with contextlib.suppress(OSError):
            text = f"{found.host} stalled: {found.text}\n"
            (self.folder / f"unfit-{self.attempt}").write_text(text, encoding="utf-8")

    def _leave(self, name: str, document: dict[str, Any]) -> None:
        """verdict.json, in the run folder and where `launcher stacks` waits for it."""
        text = json.dumps(document, indent=1) + "\n"

        def write(file: Path) -> None:
            with contextlib.suppress(OSError):
                file.parent.mkdir(parents=True, exist_ok=True)
                draft = file.with_name(f".{file.name}")
                draft.write_text(text, encoding="utf-8")
                draft.replace(file)

        write(self.watched.folder / watch.ANSWER)
        stacks.within(_WRITING, lambda: write(self.folder / "stacks" / name / "verdict.json"), None)


def _asked(numbers: dict[int, int]) -> dict[int, Path]:
    return flight.ask({rank: rank_shell.environment_of(str(pid)) for pid, rank in numbers.items()})


def _record(rank: int, host: str, taken: stacks.Taken, told: Path) -> dict[str, Any]:
    """A rank as it travels between hosts, and as verdict.json has it."""
    beat = heartbeat.read(heartbeat.path(told, rank))
    threads = stacks.with_source(verdict.parse(taken.text))
    inside = beat is not None and beat.phase in {heartbeat.FIRST, heartbeat.STEP, None}
    return {
        "rank": rank,
        "host": host,
        "step": beat.step + inside if beat else None,
        "phase": beat.phase if beat else None,
        **{key: value for key, value in asdict(taken).items() if key != "text"},
        "threads": [[list(frame) for frame in frames] for frames in threads],
    }


def _stack(record: dict[str, Any]) -> verdict.Stack:
    threads = tuple(tuple(verdict.Frame(*frame) for frame in frames) for frames in record["threads"])
    keys = ("rank", "host", "step", "state", "wchan", "program")
    return verdict.Stack(**{key: record[key] for key in keys}, threads=threads)
