"""Which outcomes are findings, and which findings are one and the same.

Owns the contract that is held: exit codes, one clear message and no traceback, nothing half-written, output that a
program can read, no hang, no memory without end, nothing outside the folder.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, NamedTuple

import yaml

from tests.fuzz import sandbox

if TYPE_CHECKING:
    from tests.fuzz.commands import Input
    from tests.fuzz.sandbox import Outcome

CODES = {0, 1, 2, 3, 4, 5, 6, 130}
LOOKING = {
    "plan",
    "check",
    "hostfile",
    "env",
    "schema",
    "status",
    "logs",
    "list",
    "report",
    "doctor",
    "diff",
    "compare",
}
LAUNCHES = {"local", "slurm", "kubernetes", "k8s"}
_FRAME = re.compile(
    r'File "[^"]*?/((?:launcher|docker|tests)/[^"]+\.py)"(?:, line \d+|), line (\d+) in (\w+|<\w+>)|'
    r'File "[^"]*?/((?:launcher|docker)/[^"]+\.py)", line (\d+), in (\S+)'
)
_INSIDE = re.compile(r"<class '|NoneType| object at 0x|errors\.pydantic|pydantic_core|site-packages")
_CACHES = (".cache/", ".config/", "state/")  # matplotlib's, and the launcher's own index
_LONG = 20_000  # characters of stderr: a message that repeats its input


class Finding(NamedTuple):
    """What was wrong. Two findings of one `key` have one cause."""

    key: str
    detail: str


def judge(given: Input, outcome: Outcome) -> Finding | None:
    """The worst that is wrong with `outcome`, or None."""
    return (
        _ended(given, outcome) or _reached(given, outcome) or _left(given, outcome) or _said(given, outcome)
    )


def _ended(given: Input, outcome: Outcome) -> Finding | None:
    told = "\n".join(outcome.trespasses)
    if "sandbox: " in told:
        return Finding(f"sandbox {told[-200:]}", told)
    if outcome.code < 0 or outcome.seconds > sandbox.SECONDS:
        return Finding(f"hang or signal {outcome.code} in {_where(told, first=True)}", told)
    if "MemoryError" in told:
        return Finding(f"MemoryError in {_where(told, first=True)}", _tail(told))
    if outcome.memory > sandbox.MEMORY:
        return Finding(f"memory in {_verb(given)}", f"{outcome.memory / 2**20:.0f} MiB above the start")
    if "raised" in outcome.trespasses or outcome.code == 70 or "Traceback (most recent" in outcome.err:
        return _raised(given, told or outcome.err, outcome.code)
    if outcome.code not in CODES:
        return Finding(f"exit {outcome.code}", f"streams {given.streams}\n{_tail(outcome.err)}")
    if outcome.code == 1 and _verb(given) != "diff" and "--wait" not in given.words:
        return Finding(f"exit 1 of {_verb(given)}", _tail(outcome.err))
    return None


def _raised(given: Input, text: str, code: int) -> Finding:
    names = re.findall(r"^([\w.]+(?:Error|Exception|Warning|Interrupt))(?::|$)", text, re.MULTILINE)
    name = names[-1] if names else "?"
    if name in {"OSError", "BrokenPipeError"} and given.streams[1] != "file":
        return Finding(f"stderr that cannot be written: exit {code}", _tail(text))
    where = _where(text, first=name == "RecursionError")
    return Finding(f"{name}, exit {code}, in {where}", _tail(text))


def _reached(given: Input, outcome: Outcome) -> Finding | None:
    """What it tried to touch that is not its own."""
    rehearsed = {"--dry-run", "-o", "--server-dry-run"} & set(given.words)
    for line in outcome.trespasses:
        what = line.split(" ")[0]
        if what not in {"kill", "start", "outside", "submit"}:
            continue
        if what in {"kill", "start"} or (what == "outside" and "/nope" not in line):
            return Finding(
                f"{' '.join(line.split(' ')[:2]) if what != 'kill' else 'kill'} by {_verb(given)}", line
            )
        if what == "submit" and (
            rehearsed or _verb(given) not in {*LAUNCHES, "tune", "prove", "resume", "rerun", "cancel"}
        ):
            return Finding(f"submits although it is a rehearsal: {_verb(given)}", line)
    return None


def _left(given: Input, outcome: Outcome) -> Finding | None:
    """What stands in the folder that should not."""
    drafts = [name for name in outcome.left if name.endswith((".draft", ".tmp"))]
    if drafts:
        return Finding(f"half-written by {_verb(given)}", f"{drafts}")
    asked = {
        word
        for option, word in zip(given.words, given.words[1:], strict=False)
        if option in {"--html", "--png"}
    }
    if _verb(given) in LOOKING:
        # what the hosts of a run said is added to its lock.json by who looks at it
        stray = [
            name
            for name in outcome.left
            if name not in asked and not name.startswith(_CACHES) and not name.endswith("/lock.json")
        ]
    else:
        stray = (
            [] if outcome.code in {0, 1, 130} or _verb(given) in {"cancel", "resume"} else list(outcome.left)
        )
    return (
        Finding(f"left behind by {_verb(given)} that ended with {outcome.code}", f"{stray[:5]}")
        if stray
        else None
    )


def _said(given: Input, outcome: Outcome) -> Finding | None:
    """What a person or a program reads."""
    heard = given.streams[1] == "file"
    if heard and outcome.code not in {0, 1} and not outcome.err.strip():
        return Finding(f"exit {outcome.code} of {_verb(given)} without a word", "")
    if (inside := _INSIDE.search(outcome.err)) and not any(_INSIDE.search(word) for word in given.words):
        return Finding(f"Python's words to a user of {_verb(given)}: {inside[0]}", _tail(outcome.err))
    if len(outcome.err) > _LONG:
        return Finding(f"a message of {_verb(given)} as long as its input", f"{len(outcome.err)} characters")
    if outcome.code == 0 and given.streams[0] == "file" and not {"-h", "--help"} & set(given.words):
        return _readable(given, outcome)
    return None


def _readable(given: Input, outcome: Outcome) -> Finding | None:
    """Whether a program can read what was written for it."""
    try:
        if "--json" in given.words:
            json.loads(outcome.out, parse_constant=_refuse)
        elif (
            _verb(given) in {"kubernetes", "k8s"}
            and "--dry-run" in given.words
            and len(outcome.out) < 200_000
        ):
            list(yaml.load_all(outcome.out, getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
    except (ValueError, yaml.YAMLError) as error:
        return Finding(f"{_verb(given)} writes what cannot be read: {str(error)[:60]}", str(error)[:500])
    return None


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


def _verb(given: Input) -> str:
    return given.words[0][:20] if given.words else "nothing"


def _where(text: str, first: bool) -> str:
    """file:function, the launcher's own deepest frame, or (`first`) those it went in by."""
    frames = [(m[1] or m[4], m[3] or m[6]) for m in _FRAME.finditer(text)]
    own = [f"{path}:{name}" for path, name in frames if path.startswith(("launcher/", "docker/"))]
    if text.find("most recent call first") >= 0:
        own.reverse()
    inner = [place for place in own if not place.startswith("launcher/cli/")] or own
    if not inner:
        return "?"
    return " > ".join(dict.fromkeys(inner[:3])) if first else inner[-1]


def _tail(text: str) -> str:
    lines = [line if len(line) < 300 else f"{line[:300]}…" for line in text.strip().splitlines()]
    return "\n".join(lines[-16:])
