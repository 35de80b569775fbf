"""Whom a run tells that it started, ended, failed, stalled, diverged or has a slow rank: a webhook or a command.

Owns what is told (once per cause, over all attempts, as events.jsonl remembers them) and its delivery, in a thread of
the first host's node entry, with limits of time. Nothing that goes wrong here reaches the run: it is one line in the
job's log, without the address, which may be a secret. A webhook gets a POST, a command the same on its standard input:

    {"event": "failure", "run": "llama-7b-574556", "attempt": "36-0", "time": 1795654181.6,
     "text": "llama-7b-574556: rank 5 on gpu03 ended with 139", "details": {"code": 139, "rank": 5, "host": "gpu03"}}

`text` is what chat programs such as Slack and Mattermost show of such a message.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import environment
from ending import NOT_CURED, NOT_FINITE, SAVED, TOLD, Failure

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

VARIABLE = environment.NOTIFY  # and a number: where an address that is a secret comes from
KINDS = ("start", "end", "failure", "stall", "divergence", "slow")
TRIES, PAUSE = 3, 2.0  # of a webhook, seconds between two
ANSWER, COMMAND = 10.0, 30.0  # seconds that a webhook, a command may take
LAST = 10.0  # seconds that the end of the run waits for what is not delivered yet

Line = dict[str, Any]


@dataclass(frozen=True)
class Target:
    """Who is told of which KINDS: the webhook at `url`, or a program, by its words."""

    on: tuple[str, ...]
    url: str = ""
    command: tuple[str, ...] = ()


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--notify", default="[]", metavar="JSON", help="whom to tell what: notify.py")


def targets(text: str, variables: Mapping[str, str]) -> list[Target]:
    """Those of `--notify`: [{"on": [...], "url": … or "variable": … or "command": [...]}]. Raises ValueError."""
    return [
        Target(
            on=tuple(given["on"]),
            url=given.get("url") or variables.get(given.get("variable", ""), ""),
            command=tuple(given.get("command", ())),
        )
        for given in json.loads(text)
    ]


def kind(line: Line) -> str | None:
    """Which of KINDS an event of events.py is; None for what nobody is told, as that a run was cancelled."""
    code = line.get("code")
    if code in TOLD:
        return None
    if line["event"] == "ended":
        return "end" if code == 0 else None if code == SAVED else "failure"
    if line["event"] == "failed":
        return "divergence" if code == NOT_FINITE else "failure"
    return {"started": "start", "stalled": "stall", "slow": "slow"}.get(line["event"])


def cause(line: Line) -> tuple[Any, ...]:
    """What makes two events the same to whoever is told; that a run ended is no news after why it failed."""
    what = kind(line)
    if what in ("failure", "divergence"):
        return "failure", line.get("code")
    return what, line.get("rank"), line.get("host")


def message(line: Line, run: str) -> Line:
    """What is sent."""
    details = {key: value for key, value in line.items() if key not in ("event", "time", "attempt")}
    return {
        "event": kind(line),
        "run": run,
        "attempt": line["attempt"],
        "time": line["time"],
        "text": f"{run}: {_words(line)}",
        "details": details,
    }


def _words(line: Line) -> str:
    if line["event"] == "failed":
        return str(Failure(int(line["code"]), int(line["rank"]), str(line["host"])))
    if line["event"] == "slow":
        return f"rank {line['rank']} on {line['host']} needs {line['ratio']} times as long as its peers"
    words = {"started": "its ranks were started", "stalled": "no rank advances"}
    return words.get(line["event"]) or ("succeeded" if line["code"] == 0 else f"ended with {line['code']}")


class Notifier:
    """Delivers what a run's events are to `targets`; `start` it before the first one."""

    def __init__(self, targets: Iterable[Target], run: str, say: Callable[[str], None]) -> None:
        self._targets, self._run, self._say = list(targets), run, say
        self._waiting: queue.SimpleQueue[Line | None] = queue.SimpleQueue()
        self._told: set[tuple[Any, ...]] = set()
        self._thread: threading.Thread | None = None

    def start(self, path: Path) -> None:
        """Begin to deliver; what is in `path`, of earlier attempts, has been told."""
        if not self._targets:
            return
        with contextlib.suppress(OSError):
            for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
                with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
                    self._told.add(cause(json.loads(text)))
        self._thread = threading.Thread(target=self._deliver, daemon=True)
        self._thread.start()

    def event(self, line: Line) -> None:
        """Tell of an event, if that is news to anybody."""
        if self._thread and kind(line) and not self._is_known(line):
            self._told.add(cause(line))
            self._waiting.put(line)

    def _is_known(self, line: Line) -> bool:
        """Whether it was told. What a restart would not cure ends with a code of its own, after why it failed."""
        if line["event"] == "ended" and line.get("code") == NOT_CURED:
            return any(what == "failure" for what, *_ in self._told)
        return cause(line) in self._told

    def finish(self) -> None:
        """Wait for what is not delivered yet, LAST seconds at most."""
        if self._thread:
            self._waiting.put(None)
            self._thread.join(LAST)

    def _deliver(self) -> None:
        while line := self._waiting.get():
            for number, target in enumerate(self._targets):
                if kind(line) in target.on:
                    problem = _send(target, json.dumps(message(line, self._run)).encode())
                    if problem:
                        what = "command" if target.command else "webhook"
                        self._say(f"notify: {what} {number + 1} could not be told of {kind(line)}: {problem}")


def _send(target: Target, body: bytes) -> str:
    """Why it could not be delivered, without the address; empty if it was."""
    if target.command:
        return _command(target.command, body)
    problem = ""
    for attempt in range(TRIES):
        time.sleep(PAUSE * bool(attempt))
        problem = _post(target.url, body)
        if not problem:
            break
    return problem


def _post(url: str, body: bytes) -> str:
    if not url.strip().startswith(("http://", "https://")):  # urllib would open files, too
        return "its address does not begin with http:// or https://"
    try:
        asked = urllib.request.Request(url.strip(), body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(asked, timeout=ANSWER):
            return ""
    except urllib.error.HTTPError as error:
        return f"HTTP {error.code}"
    except urllib.error.URLError as error:
        return getattr(error.reason, "strerror", None) or type(error.reason).__name__
    except Exception as error:  # whatever an address of any kind leads to
        return type(error).__name__


def _command(words: tuple[str, ...], body: bytes) -> str:
    # its exit code is unknown: ranks.reap takes that of every child
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment.inherited(),
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error)
    try:
        process.communicate(body, timeout=COMMAND)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        return f"it took more than {COMMAND:.0f} s"
    except OSError:  # it ended without reading
        pass
    return ""
