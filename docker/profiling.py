"""Profiles of ranks that run: somebody asks the first host, which has all hosts ask their ranks.

Owns the agreement between who asks and the hosts; what a rank does is tracing.py's. In the folder of the first host's
records lie, for an ID of whoever asks, files of JSON:

    ID.ask      {"ranks": […], "steps": N, "limit": seconds, "tool": "torch" or "nsys"}: what is wished; it goes when
                it was read
    ID.said     a line for a person, of how far it is; it changes
    ID.answer   {"name", "steps", "time", "ranks": [{"rank", "host", "file", …}]}: what ranks answered, of those
                without a trace an "error"; or {"error"}

and between the hosts, once a second at most:

    {"type": "profile", "name", "first", "steps", "tool", "ranks"}    node 0 to all; without ranks: it is not wanted
    {"type": "profiled", "name", "rank", "step"}    how far a rank is; with "answer" what it answered

The run folder gets profiles/<name>/: a trace a rank, and profile.json, which is the answer.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import math
import queue
import statistics
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import heartbeat
import nsys
import stacks
import tracing

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from links import Message, Peers

FOLDER, DOCUMENT = "profiles", "profile.json"
QUESTION, SAID, ANSWER = ".ask", ".said", ".answer"
TORCH = "torch"
# tool → a rank's trace, of torch's as TensorBoard's and HTA's readers look for them
TRACES = {TORCH: "rank-{}.pt.trace.json.gz", nsys.PROGRAM: f"rank-{{}}{nsys.SUFFIX}"}
TELLS_NOTHING = "tells no steps; a program of one's own calls workloads.heartbeat(step) (jobs/own/README.md)"
_POLL, _WRITING = 1.0, 10.0
_AHEAD = 3.0  # seconds in which every host has heard: ranks that are together begin at the same step


@dataclass
class Taking:
    """What node 0 knows of the profile that is being taken. Times are of CLOCK_MONOTONIC."""

    file: Path  # of who asked, without the ending
    name: str
    wish: dict[str, Any]
    moved: float
    steps: dict[int, int] = field(default_factory=dict)
    answers: dict[int, dict[str, Any]] = field(default_factory=dict)

    @property
    def said(self) -> str:
        """How far it is, for a person."""
        ranks = self.wish["ranks"]
        return f"step {max(self.steps.values(), default='-')}, {len(self.answers)} of {len(ranks)} ranks are done"


@dataclass
class Profiles:
    """This host's part; node 0 answers who asks.

    `folder`: the run folder. `told`: that of the records. `slots`: how many ranks a host has.
    """

    folder: Path
    attempt: str
    told: Path
    slots: int
    peers: Peers
    index: int
    taking: Taking | None = None
    _name: str = ""
    _steps: dict[int, int] = field(default_factory=dict)  # of the ranks here that have not answered yet
    _heard: queue.SimpleQueue[Message] = field(default_factory=queue.SimpleQueue)

    @property
    def mine(self) -> range:
        """The ranks of this host."""
        return range(self.index * self.slots, (self.index + 1) * self.slots)

    def follow(self, other: Callable[[int, Message], None]) -> Callable[[int, Message], None]:
        """Look, in a thread, as long as there are records; returns what hears messages of other hosts.

        `other` gets those that are none of the two above.
        """

        def look() -> None:
            while self.told.is_dir():
                self.look(time.monotonic())
                time.sleep(_POLL)

        def hear(node: int, message: Message) -> None:
            if message.get("type") in {"profile", "profiled"}:
                self._heard.put(message)
            else:
                other(node, message)

        threading.Thread(target=look, daemon=True).start()
        return hear

    def look(self, now: float) -> None:
        """One look, at a time of CLOCK_MONOTONIC."""
        while not self._heard.empty():
            self._take_in(self._heard.get(), now)
        if self.index == 0:
            for file in sorted(self.told.glob(f"*{QUESTION}")):
                self._asked(file, now)
        for rank in list(self._steps):
            self._look_at(rank, now)
        if self.taking:
            self._conclude(self.taking, now)

    def _asked(self, file: Path, now: float) -> None:
        try:
            said = json.loads(file.read_text(encoding="utf-8"))
            file.unlink()
            wish = {"ranks": list(said["ranks"]), "steps": int(said["steps"]), "limit": float(said["limit"])}
            wish["tool"] = nsys.PROGRAM if said.get("tool") == nsys.PROGRAM else TORCH
        except (OSError, ValueError, KeyError, TypeError):
            return
        asker = file.with_suffix("")
        if self.taking:
            what = f"a profile is being taken already: {self.taking.said}; ask again when it is done"
            _write(asker.with_suffix(ANSWER), json.dumps({"error": what}))
            return
        name = stacks.within(_WRITING, self._unused, f"{self.attempt}-{time.time():.0f}")
        self.taking = Taking(asker, name, wish, now)
        message = {"type": "profile", "name": name, "first": self._first()}
        message |= {key: wish[key] for key in ("steps", "tool", "ranks")}
        self.peers.tell(**message)
        self._take_in(message, now)

    def _unused(self) -> str:
        names = (f"{self.attempt}-{number}" for number in itertools.count(1))
        return next(name for name in names if not (self.folder / FOLDER / name).exists())

    def _first(self) -> int:
        """The step after which ranks begin, so far ahead that all have heard; as far as the ranks here tell."""
        beats = [beat for rank in self.mine if (beat := self._beat(rank))]
        return max((beat.step + _ahead(beat) for beat in beats), default=0)

    def _beat(self, rank: int) -> heartbeat.Beat | None:
        return heartbeat.read(heartbeat.path(self.told, rank))

    def _take_in(self, message: Message, now: float) -> None:
        if message["type"] == "profile":
            self._begin(message, now)
        elif self.taking and message["name"] == self.taking.name:
            rank = message["rank"]
            self.taking.moved = now
            self.taking.steps[rank] = message["step"]
            if "answer" in message:
                self.taking.answers[rank] = message["answer"]

    def _begin(self, message: Message, now: float) -> None:
        """Give the ranks here their wish, or take it away from those that have not answered."""
        for rank in list(self._steps):
            heartbeat.path(self.told, rank).with_suffix(tracing.ASKED).unlink(missing_ok=True)
        self._name, self._steps = message["name"], {}
        for rank in [rank for rank in self.mine if rank in message["ranks"]]:
            beat = self._beat(rank)
            if beat is None or not beat.beat or beat.phase == heartbeat.OTHER:
                self._tell(rank, beat.step if beat else 0, now, {"error": TELLS_NOTHING})
                continue
            # one that counts for itself need not wait for the steps of the first host
            first = min(message["first"], beat.step + _ahead(beat) + 1)
            file = self.folder / FOLDER / self._name / TRACES[message["tool"]].format(rank)
            wish = {"name": self._name, "first": first, "file": str(file)}
            wish |= {key: message[key] for key in ("steps", "tool")}
            self._steps[rank] = beat.step
            _write(heartbeat.path(self.told, rank).with_suffix(tracing.ASKED), json.dumps(wish))
            self._tell(rank, beat.step, now)

    def _look_at(self, rank: int, now: float) -> None:
        beat, step = self._beat(rank), self._steps[rank]
        found: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):
            file = heartbeat.path(self.told, rank).with_suffix(tracing.ANSWER)
            found = json.loads(file.read_text(encoding="utf-8"))
        if found.pop("name", None) == self._name:
            del self._steps[rank]
            self._tell(rank, beat.step if beat else step, now, found)
        elif beat and beat.step != step:
            self._steps[rank] = beat.step
            self._tell(rank, beat.step, now)

    def _tell(self, rank: int, step: int, now: float, answer: dict[str, Any] | None = None) -> None:
        message = {"type": "profiled", "name": self._name, "rank": rank, "step": step}
        message |= {"answer": answer} if answer else {}
        if self.index:
            self.peers.tell(**message)
        else:
            self._take_in(message, now)

    def _conclude(self, taking: Taking, now: float) -> None:
        """Say how far it is; answer once all ranks have, or none has told anything for too long."""
        ranks, limit = taking.wish["ranks"], taking.wish["limit"]
        left = [rank for rank in ranks if rank not in taking.answers]
        if left and now - taking.moved < limit:
            _write(taking.file.with_suffix(SAID), taking.said + "\n")
            return
        if left:
            nobody = {"type": "profile", "name": taking.name, "first": 0, "steps": 0, "ranks": []}
            self.peers.tell(**nobody)
            self._begin(nobody, now)
        late = {"error": f"no step was done within {limit:g} s"}
        hosts = {rank: {"rank": rank, "host": self.peers.hosts[rank // self.slots]} for rank in ranks}
        found = [hosts[rank] | taking.answers.get(rank, late) for rank in ranks]
        trace = TRACES[taking.wish["tool"]]
        files = [one | {"file": "" if "error" in one else trace.format(one["rank"])} for one in found]
        answer = {"name": taking.name, "steps": taking.wish["steps"], "time": time.time(), "ranks": files}
        text = json.dumps(answer, indent=1) + "\n"
        if any(one["file"] for one in files):
            document = self.folder / FOLDER / taking.name / DOCUMENT
            stacks.within(_WRITING, functools.partial(_write, document, text), None)
        _write(taking.file.with_suffix(ANSWER), text)
        self.taking = None


def _ahead(beat: heartbeat.Beat) -> int:
    """Steps that a rank does in _AHEAD seconds, the one that it is in included."""
    seconds = statistics.median(beat.steps.last) if beat.steps.last else _AHEAD
    return math.ceil(_AHEAD / max(seconds, 1e-4))


def _write(file: Path, text: str) -> None:
    with contextlib.suppress(OSError):
        draft = file.with_name(f".{file.name}")
        draft.write_text(text, encoding="utf-8")
        draft.replace(file)
