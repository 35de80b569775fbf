"""What the ranks of this host are in right now: the Python stacks of their threads, and what the kernel says of them.

Owns the signal that makes a Python write its stacks down, and the folder that they lie in. Only a process that has
on_signal.py's handler gets the signal: any other would die of it. Where there is none (`python -I`, `-E`, `-S`, another
program) py-spy is asked, if the image has it and the kernel lets it. Of a rank that is a shell's script, or started by
another program, the process below it that does the work is looked at.
"""

from __future__ import annotations

import contextlib
import json
import linecache
import os
import shutil
import signal
import subprocess
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import processes
import rank_shell

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    import verdict

T = TypeVar("T")
VARIABLE = "LAUNCHER_STACKS"
NUMBER = signal.SIGRTMIN + 7  # glibc keeps the first two, other tools take the next or the last ones
_PATIENCE = 3.0  # seconds for a process to write its stacks, which takes it some milliseconds
_SPY = 10.0
_NOT_SAID = (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError)
_READING = 2.0  # for lines of source, which may lie on a file system that does not answer


@dataclass(frozen=True)
class Taken:
    """A process: its state, the kernel's function that it waits in, its stacks as text, `why` there are none.

    `program`: its name.
    """

    pid: int
    state: str = ""
    wchan: str = ""
    program: str = ""
    text: str = ""
    why: str = ""


def variables(folder: Path, inherited: Mapping[str, str]) -> dict[str, str]:
    """What makes the ranks' Pythons listen; their stacks lie below `folder`. {} where it cannot be written."""
    try:
        hook, stacks = folder / "python", folder / "stacks"
        hook.mkdir()
        stacks.mkdir()
        shutil.copyfile(Path(__file__).with_name("on_signal.py"), hook / "sitecustomize.py")
    except OSError:
        return {}
    path = os.pathsep.join(filter(None, (str(hook), inherited.get("PYTHONPATH", ""))))
    return {VARIABLE: f"{NUMBER}:{stacks}", "PYTHONPATH": path}


def ranks_below(pid: int) -> dict[int, int]:
    """rank → its process, of ranks that `pid` has started itself: the oldest process that has the rank's number."""
    oldest: dict[int, tuple[int, int]] = {}
    for one in processes.below(pid):
        rank = rank_shell.environment_of(str(one)).get("RANK", "")
        if rank.isdecimal():
            found = (rank_shell.started(str(one)), one)
            oldest[int(rank)] = min(found, oldest.get(int(rank), found))
    return {rank: one for rank, (_, one) in oldest.items()}


def take(pids: Iterable[int], folder: Path) -> dict[int, Taken]:
    """Pid → what it is in, or what works for it. All processes are asked at once; `folder` as in `variables`."""
    folder = folder / "stacks"
    before: dict[int, int] = {}
    at_work = {pid: _at_work(pid, folder) for pid in pids}
    states = {one: processes.state(one) for one in at_work.values()}
    for one in states:
        if _listens(one, folder):
            before[one] = _size(folder / str(one))
            processes.kill(one, NUMBER)
    _wait({folder / str(one): size for one, size in before.items()})
    return {pid: _seen(one, states[one], folder, before.get(one)) for pid, one in at_work.items()}


def _listens(pid: int, folder: Path) -> bool:
    return processes.catches(pid, NUMBER) and processes.has_open(pid, str(folder / str(pid)))


def _at_work(pid: int, folder: Path) -> int:
    """`pid`, unless it is no Python that listens but has started one: of several that which has computed most.

    Of other programs it is what they wait for the end of.
    """
    if found := list(_listening(pid, folder)):
        return max(found, key=processes.seconds)
    while processes.waits_in(pid) == "do_wait" and len(children := list(processes.children(pid))) == 1:
        (pid,) = children
    return pid


def _listening(pid: int, folder: Path) -> Iterator[int]:
    """`pid` if it listens, else the first on each way down the tree that do."""
    if _listens(pid, folder):
        yield pid
        return
    for child in processes.children(pid):
        yield from _listening(child, folder)


def _seen(pid: int, state: str, folder: Path, before: int | None) -> Taken:
    now = processes.state(pid)
    # a process that reads a file is in D for a moment; one that hangs there is so for the whole time
    now = now if now == state or now != "D" else "S"
    taken = Taken(pid, now, processes.waits_in(pid), program=processes.name(pid))
    if before is not None:
        with contextlib.suppress(OSError), (folder / str(pid)).open("rb") as file:
            file.seek(before)
            taken = replace(taken, text=file.read(2**20).decode("utf-8", "replace"))
        return taken if taken.text else replace(taken, why="it did not answer the signal")
    spied = _spied(pid) if taken.state not in {"T", "D", ""} else ""
    why = "" if spied else "it is no Python that was started with site, and py-spy is not here or not allowed"
    return replace(taken, text=spied, why=why)


def _wait(sizes: dict[Path, int]) -> None:
    """Until every file has grown and stands still, at most _PATIENCE seconds."""
    end, last = time.monotonic() + _PATIENCE, dict[Path, int]()
    while time.monotonic() < end:
        time.sleep(0.05)
        now = {file: _size(file) for file in sizes}
        if now == last and all(now[file] > size for file, size in sizes.items()):
            return
        last = now


def size(folder: Path, pid: int) -> int:
    """Bytes of stacks that the process has written so far; `folder` as in `variables`."""
    return _size(folder / "stacks" / str(pid))


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _spied(pid: int) -> str:
    """py-spy's stacks in faulthandler's form; '' without it, or where ptrace(2) is forbidden.

    It stops the process for the native frames, and tells those of Python alone where it cannot.
    """
    if not (spy := shutil.which("py-spy")):
        return ""
    for way in ("--native", "--nonblocking"):  # which it takes apart only
        words = [spy, "dump", "--json", way, "--pid", str(pid)]
        with contextlib.suppress(*_NOT_SAID):
            said = subprocess.run(
                words, capture_output=True, timeout=_SPY, check=True, stdin=subprocess.DEVNULL
            )
            threads: list[Any] = json.loads(said.stdout)
            return "\n".join(map(_as_faulthandler, sorted(threads, key=_is_main)))
    return ""


def _is_main(thread: dict[str, Any]) -> bool:
    return bool(thread.get("thread_name") == "MainThread")


def _as_faulthandler(thread: dict[str, Any]) -> str:
    """Its stack, with native frames in a form that verdict.py passes over: what a rank does is said by its Python."""
    head = f"Thread {thread['thread_id']:#x} (most recent call first):\n"
    return head + "".join(
        f'  Native "{frame["filename"]}" in {frame["name"]}\n'
        if frame.get("module")
        else f'  File "{frame["filename"]}", line {frame["line"]} in {frame["name"]}\n'
        for frame in thread["frames"]
    )


def with_source(threads: tuple[tuple[verdict.Frame, ...], ...]) -> tuple[tuple[verdict.Frame, ...], ...]:
    """`threads` with the line of source that each innermost frame stands at, where it can be read."""

    def read() -> tuple[tuple[verdict.Frame, ...], ...]:
        return tuple(
            (frames[0]._replace(text=linecache.getline(frames[0].file, frames[0].line).strip()), *frames[1:])
            for frames in threads
        )

    return within(_READING, read, threads)


def within(seconds: float, work: Callable[[], T], otherwise: T) -> T:
    """What `work` returns, or `otherwise` where that takes longer: a file system may not answer at all."""
    done: list[T] = []
    thread = threading.Thread(target=lambda: done.append(work()), daemon=True)
    thread.start()
    thread.join(seconds)
    return done[0] if done else otherwise
