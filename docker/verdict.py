"""One sentence of what ranks hang in: "3 of 4 ranks wait in all_reduce (engine.py:2104, step 412); rank 1 on b …".

Owns the words, which are frames.json: the first entry that fits a frame says what a rank does. `file` and `function`
are searched in a frame, `text` in the line of source that the innermost frame stands at: what is called there is native
code, as time.sleep is. Everything is pure: parsed stacks go in. Of an entry's `kind`, `collective` is a wait for other
ranks; a rank that does anything else is whom they wait for.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

_TABLE = json.loads(Path(__file__).with_name("frames.json").read_text(encoding="ascii"))
_FRAME = re.compile(r'^  File "(.*)", line (\d+|\?\?\?) in (.*)$')
_LIBRARY = re.compile(
    r"/(site|dist)-packages/|/lib/python3[^/]*/|^<frozen|workloads/session\.py$|/torch/|/deepspeed/comm/"
)
_PLUMBING = re.compile(
    r"/torch/|/deepspeed/comm/|/lib/python3[^/]*/[^/]+\.py$|^<frozen|deepspeed/utils/nvtx\.py$"
)
_COLLECTIVE, _STOPPED, _KERNEL, _UNSEEN = "collective", "stopped", "kernel", "unseen"
_MOST = 4  # groups that are named


class Frame(NamedTuple):
    file: str
    line: int
    function: str
    text: str = ""  # of the source, where it could be read

    @property
    def place(self) -> str:
        return f"{self.file.rpartition('/')[2]}:{self.line}"


@dataclass(frozen=True)
class Stack:
    """What a rank is in. `state` is the kernel's letter for it, `wchan` the kernel's function that it waits in.

    `step`: the one that it is in. `threads`: the frames of each thread, innermost first; the main thread comes first.
    `program`: the name of its process.
    """

    rank: int
    host: str
    step: int | None = None
    state: str = ""
    wchan: str = ""
    threads: tuple[tuple[Frame, ...], ...] = ()
    program: str = ""


class Doing(NamedTuple):
    """What a rank does: kind, words for one and for several ranks, and where."""

    kind: str
    one: str
    many: str
    place: str = ""


@dataclass(frozen=True)
class Verdict:
    """`text`: the sentence. `rank` and `host`: whom the others wait for, -1 and '' when it is nobody in particular.

    `waits`: whether a rank waits for others.

    `of_host`: the host is to blame and not the program: a process that was stopped, a file system or device.
    """

    text: str
    rank: int = -1
    host: str = ""
    of_host: bool = False
    waits: bool = False


def parse(text: str) -> tuple[tuple[Frame, ...], ...]:
    """The threads of a dump by faulthandler, the main thread first: faulthandler writes it last."""
    threads: list[list[Frame]] = []
    for line in text.splitlines():
        if "(most recent call first)" in line:
            threads.append([])
        elif (match := _FRAME.match(line)) and threads:
            threads[-1].append(Frame(match[1], int(match[2]) if match[2].isdecimal() else 0, match[3]))
    return tuple(tuple(frames) for frames in reversed(threads) if frames)


def doing(stack: Stack) -> Doing:
    """What a rank does."""
    if stack.state == "T":
        return Doing(_STOPPED, "is stopped (SIGSTOP)", "are stopped (SIGSTOP)")
    place = _own(stack.threads[0]).place if stack.threads else ""
    if stack.state == "D":
        where = f" ({stack.wchan})" if stack.wchan else ""
        words = f"hangs in the kernel{where}: a file system or a device does not answer"
        return Doing(_KERNEL, words, words.replace("hangs", "hang", 1), place)
    if not stack.threads:
        where = (
            f", the kernel has it in {stack.wchan}" if stack.wchan else ", it computes" * (stack.state == "R")
        )
        named = f" ({stack.program})" if stack.program else ""
        words = f"no Python stack{named}{where}"
        return Doing(_UNSEEN, f"shows {words}", f"show {words}")
    main, *others = (_known(frames) for frames in stack.threads)
    # the backward pass runs in threads of its own, and what it waits for is there
    if main is None and any("_engine_run_backward" in frame.function for frame in stack.threads[0]):
        main = next((found for found in others if found and found.kind == _COLLECTIVE), None)
    if main:
        return main
    function = _own(stack.threads[0]).function
    return Doing("own", f"is in {function}", f"are in {function}", place)


def _known(frames: tuple[Frame, ...]) -> Doing | None:
    for entry in _TABLE:
        for index, frame in enumerate(frames):
            text = re.search(entry["text"], frame.text) if "text" in entry and index == 0 else None
            if ("text" in entry and not text) or not re.search(entry.get("file", ""), frame.file):
                continue
            if not re.search(entry.get("function", ""), frame.function):
                continue
            match = text[1] if text and text.groups() else ""
            one, many = (words.format(function=frame.function, match=match) for words in entry["words"])
            return Doing(entry["kind"], one, many, _caller(frames[index:], entry["kind"]).place)
    return None


def _caller(frames: tuple[Frame, ...], kind: str) -> Frame:
    """Who called it: of a collective DeepSpeed or the program, of anything else the program."""
    hidden = _PLUMBING if kind == _COLLECTIVE else _LIBRARY
    return next((frame for frame in frames if not hidden.search(frame.file)), frames[0])


def _own(frames: tuple[Frame, ...]) -> Frame:
    return next((frame for frame in frames if not _LIBRARY.search(frame.file)), frames[0])


def judge(stacks: list[Stack]) -> Verdict:
    """What the run hangs in."""
    groups: dict[tuple[Doing, int | None], list[Stack]] = defaultdict(list)
    for stack in stacks:
        groups[doing(stack), stack.step].append(stack)
    if not groups:
        return Verdict("no rank could be looked at")
    waiting = {key: group for key, group in groups.items() if key[0].kind == _COLLECTIVE}
    others = {key: group for key, group in groups.items() if key[0].kind != _COLLECTIVE}
    order = [*sorted(waiting.items(), key=_size), *sorted(others.items(), key=_size)]
    text = "; ".join(_words(key, group, len(stacks)) for key, group in order[:_MOST])
    if len(order) > _MOST:
        text += f"; {sum(len(group) for _, group in order[_MOST:])} ranks are elsewhere"
    culprits = _culprits(waiting, others)
    if len(waiting) > 1 and not others:
        text = f"ranks are in different collectives: {text}"
    elif len(groups) == 1 and waiting and len(stacks) > 1:
        text += ": the network or a GPU does not answer"
    if not culprits:
        return Verdict(text, waits=bool(waiting))
    (what, _), group = min(culprits.items(), key=lambda entry: len(entry[1]))
    one, whole = group[0], len(group) == len(stacks) > 1
    if whole and len({stack.host for stack in group}) > 1:
        return Verdict(text, waits=bool(waiting))
    rank = -1 if whole else one.rank
    of_host = _of_host(what) and not (what.kind == _KERNEL and _shared(stacks))
    return Verdict(text, rank, one.host, of_host=of_host, waits=bool(waiting))


Groups = dict[tuple[Doing, int | None], list[Stack]]


def _culprits(waiting: Groups, others: Groups) -> Groups:
    """Whom the others wait for: a host at fault first, then who is in no collective, then who is in another one."""
    of_host = {key: group for key, group in others.items() if _of_host(key[0])}
    return of_host or (others if waiting or len(others) == 1 else _odd(others)) or _odd(waiting)


def _of_host(what: Doing) -> bool:
    return what.kind in {_STOPPED, _KERNEL}


def _shared(stacks: list[Stack]) -> bool:
    """Whether the kernel holds ranks of several hosts: they wait for what hosts share, as a network file system is.

    The name of what they wait in tells no more: it is folio_wait_bit_common on NFS and on a local disk.
    """
    return len({stack.host for stack in stacks if stack.state == "D"}) > 1


def _size(entry: tuple[tuple[Doing, int | None], list[Stack]]) -> tuple[int, int]:
    return -len(entry[1]), entry[1][0].rank


def _odd(groups: Groups) -> Groups:
    """Those that are fewer than any others; none where that is nobody."""
    sizes = sorted(len(group) for group in groups.values())
    if len(sizes) < 2 or sizes[0] == sizes[1]:
        return {}
    return {key: group for key, group in groups.items() if len(group) == sizes[0]}


def _words(key: tuple[Doing, int | None], group: list[Stack], all_: int) -> str:
    what, step = key
    where = ", ".join(filter(None, (what.place, "" if step is None else f"step {step}")))
    where = f" ({where})" if where else ""
    if len(group) == 1:
        return f"rank {group[0].rank} on {group[0].host} {what.one}{where}"
    if len(group) == all_:
        return f"all {all_} ranks {what.many}{where}"
    if what.kind == _COLLECTIVE:
        return f"{len(group)} of {all_} ranks {what.many}{where}"
    named = ", ".join(f"{s.rank} on {s.host}" for s in group[:_MOST]) + (
        " and others" if len(group) > _MOST else ""
    )
    return f"ranks {named} {what.many}{where}"
