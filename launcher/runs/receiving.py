"""Files of a run folder that is elsewhere, or here, into a folder of one's own: whole or not at all.

Owns what may be written: nothing outside of DEST, nothing over what is there unless it is wished. What is there already
is not sent again, so a second try continues. The other end is docker/sender.py, over any line; how files are written
is unpacking.py's.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from launcher import units
from launcher.errors import PlanError, Problem, RunNotFoundError, SpecError, SubmitError
from launcher.namedtuple import NamedTuple
from launcher.runs import unpacking

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from launcher.runs.unpacking import Line

_BLOCK = 2**20
_MOST = 12  # files that a message names


class Entry(NamedTuple):
    """A file, or with `link`, the target, a link. `path` is relative to what was asked for."""

    path: str
    size: int
    link: str | None = None


class Received(NamedTuple):
    """What `receive` did: paths, but for `bytes`. `left_out`: with the reason; `gone`: deleted while it was read."""

    written: list[str]
    same: list[str]
    left_out: list[str]
    gone: list[str]
    bytes: int


def receive(
    line: Line, dest: Path, *, path: str, force: bool, watch: Callable[[int, int, str], None]
) -> Received:
    """Bring what `path` is at the other end into `dest`: a file, or all that is in a folder.

    `watch` is told the bytes that have come, all that will, and the file. Raises RunNotFoundError where there is no
    such path, SpecError for what is in the way, PlanError without room for it, SubmitError for a line that breaks: then
    the files that had come stay.
    """
    said = _answer(line)
    entries = [Entry(str(name), int(size), link) for name, size, link in said["entries"]]
    if not said["kind"]:
        beside = ", ".join(said["beside"]) or "nothing"
        raise RunNotFoundError(f"there is no {path} in the run folder", hint=f"it holds {beside}")
    entries, left_out = _kept_inside(entries, said["odd"])
    same = _compared(line, dest, entries, force)
    missing = [entry for entry in entries if entry.path not in same]
    files = [entry for entry in missing if entry.link is None]
    progress = unpacking.Progress(watch, sum(entry.size for entry in files))
    _require_room(dest, progress.total)
    dest.mkdir(parents=True, exist_ok=True)
    _ask(line, {"send": [entry.path for entry in files]})
    written = unpacking.files(line, dest, [entry.path for entry in files], progress)
    for entry in missing:  # after the files, so that none is written through one
        if entry.link is not None:
            unpacking.link(dest / entry.path, entry.link)
            written.append(entry.path)
    gone = [entry.path for entry in files if entry.path not in set(written)]
    size = sum(entry.size for entry in files if entry.path not in gone)
    return Received(written=written, same=sorted(same), left_out=left_out, gone=gone, bytes=size)


def _answer(line: Line) -> Any:
    """The next line that says something."""
    while text := line.readline():
        if text.strip():
            with contextlib.suppress(ValueError):
                return json.loads(text)
            break
    what = text.decode("utf-8", "replace").strip()[:200] or "nothing"
    raise SubmitError(f"the run folder cannot be read: {line.finish() or f'the answer was {what}'}")


def _ask(line: Line, question: dict[str, Any]) -> None:
    line.write(json.dumps(question).encode("ascii") + b"\n")


def _kept_inside(entries: Iterable[Entry], odd: Iterable[str]) -> tuple[list[Entry], list[str]]:
    """(what may be written, what is left out and why). Raises SubmitError for a path that leads out of the folder."""
    kept, left_out = [], [f"{name}: neither a file nor a link, or closed" for name in odd]
    for entry in entries:
        parts = entry.path.split("/")
        if entry.path.startswith("/") or {"", ".", ".."} & set(parts) or "\0" in entry.path:
            raise SubmitError(
                f"the other end names {entry.path!r}, which is not below DEST: nothing was written"
            )
        if entry.link is None or _leads_inside(entry):
            kept.append(entry)
        else:
            left_out.append(f"{entry.path}: a link to {entry.link}, outside of what is fetched")
    return kept, left_out


def _leads_inside(entry: Entry) -> bool:
    """Whether a link stays inside, wherever others lead: `..` only first, and no more than there are folders above."""
    target = PurePosixPath(entry.link or "/")
    up = target.parts.count("..")
    first = all(part == ".." for part in target.parts[:up])
    return not target.is_absolute() and first and up < len(entry.path.split("/"))


def _compared(line: Line, dest: Path, entries: Sequence[Entry], force: bool) -> set[str]:
    """The paths that are here already. Raises SpecError for what is in the way, and without `force` what differs."""
    wrong, alike, same = list[Problem](), list[str](), set[str]()
    if dest.exists() and not dest.is_dir():
        raise SpecError(f"DEST {dest} is not a folder", hint="name a folder, new or not")
    for entry in entries:
        here = dest / entry.path
        if blocked := _blocked(dest, here):
            wrong.append(Problem(f"{blocked} is in the way of {entry.path}", "move it away"))
        elif entry.link is not None and here.is_symlink() and str(here.readlink()) == entry.link:
            same.add(entry.path)
        elif entry.link is None and _is_file(here) and here.stat().st_size == entry.size:
            alike.append(entry.path)
        elif os.path.lexists(here):
            wrong += _differs(here, force)
    _ask(line, {"digest": alike})
    there = _answer(line)
    for path in alike:
        if there[path] and there[path] == _digest(dest / path):
            same.add(path)
        else:
            wrong += _differs(dest / path, force)
    if wrong:
        more = [Problem(f"and {len(wrong) - _MOST} more")] if len(wrong) > _MOST else []
        raise SpecError(*wrong[:_MOST], *more)
    return same


def _blocked(dest: Path, here: Path) -> Path | None:
    """What stands between DEST and a file where a folder should be: a link may lead out of DEST."""
    between = [place for place in here.parents if dest in place.parents]
    return next((p for p in between if p.is_symlink() or (p.exists() and not p.is_dir())), None)


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _differs(here: Path, force: bool) -> list[Problem]:
    if here.is_dir() and not here.is_symlink():
        return [Problem(f"{here} is a folder here, and none in the run", "move it away")]
    return [] if force else [Problem(f"{here} is there and differs", "name another DEST; --force overwrites")]


def _digest(path: Path) -> str:
    read = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            read.update(block)
    return read.hexdigest()


def _require_room(dest: Path, size: int) -> None:
    there = next(place for place in (dest.absolute(), *dest.absolute().parents) if place.exists())
    free = shutil.disk_usage(there).free
    if size > free:
        what = f"{units.gigabytes(size)} are to come, and {there} has room for {units.gigabytes(free)}"
        raise PlanError(what, hint="name another DEST, or a smaller PATH")
