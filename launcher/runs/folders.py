"""Folders below the folder of runs: the next free one, and the one that an id or its first characters mean.

Owns ids: they are the folders' names. What lies in a folder is record.py's, pipelines.py's and sweeps.py's.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
from typing import TYPE_CHECKING, TypeVar

from launcher import atomic
from launcher.errors import LauncherError, RunNotFoundError, SpecError, did_you_mean
from launcher.runs import index

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

Entry = TypeVar("Entry")


def make_next(runs: Path, name: str, first: str = "") -> Path:
    """Make `runs/<first>`, or where there is one already, `runs/<name>-N` with the next number.

    Raises SpecError when the runs folder cannot be written.
    """
    numbers = itertools.count(2 if first else 1)
    names = itertools.chain([first] if first else [], (f"{name}-{number}" for number in numbers))
    try:
        runs.mkdir(parents=True, exist_ok=True)  # its FileExistsError is not that of a name that is taken
        for candidate in names:
            try:
                (runs / candidate).mkdir()
            except FileExistsError:
                continue
            return runs / candidate
    except OSError as error:
        dangling = runs.is_symlink() and not runs.exists()
        why = f"it is a link to {runs.readlink()}, which does not exist" if dangling else error.strerror
        raise SpecError(
            f"the runs folder {runs} cannot be written: {why}",
            hint="set LAUNCHER_RUNS to a folder that can, shared by all hosts",
        ) from None
    raise AssertionError("there is always a next number")


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[bool]:
    """Whether no other command has the run of `folder` in hand; none gets it until the end.

    The lock is on its plan.json, which is written once. A file system without locks keeps nobody off.
    """
    import fcntl

    try:
        descriptor = os.open(folder / "plan.json", os.O_RDWR | os.O_CLOEXEC)
    except OSError:  # what cannot be written cannot be submitted either, and whoever tries says so
        yield True
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        free = True
    except OSError as error:
        free = error.errno not in {errno.EWOULDBLOCK, errno.EACCES}
    try:
        yield free
    finally:
        os.close(descriptor)


def write_files(folder: Path, files: Mapping[str, str]) -> None:
    """Each file of `files` below `folder`, whole or not at all."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write(path, atomic.encoded(text))


def records(runs: Path, names: Mapping[str, object] | tuple[str, ...]) -> list[Path]:
    """The files called one of `names` in the folders below `runs`, in the folders' order; [] without `runs`.

    Raises SpecError when `runs` cannot be read.
    """
    try:
        folders = sorted(runs.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise SpecError(f"the runs folder {runs} cannot be read: {error.strerror}") from None
    return [path for folder in folders for name in names if _is_there(path := folder / name)]


def find(runs: Path, name: str, readers: Mapping[str, Callable[[Path], Entry]]) -> Entry:
    """What has the id `name`, or an id that only it starts with: in `runs`, else in the other folders of this user.

    An id elsewhere comes before the start of one here: `demo` is not `demo-2`. `readers`: the names of the records that
    are looked for, and how each is read. Raises RunNotFoundError.
    """
    searched = list(_searched(runs))
    for folder, matching in [(one, how) for how in (_exact, _starting) for one in searched]:
        paths = matching(folder, name, readers)
        entries, broken = _read_all(paths, readers)
        if len(entries) == 1:
            return entries[0]
        if entries:
            ids = [path.parent.name for path in paths]
            shown = ", ".join(ids[:5]) + (", …" if len(ids) > 5 else "")
            raise RunNotFoundError(f"{name!r} starts {len(ids)} ids", hint=f"name one: {shown}")
        if broken:
            raise broken[0]
    ids = [path.parent.name for path in records(runs, readers)]
    hint = did_you_mean(name, ids, most=0) or "`python -m launcher list --all` shows them"
    raise RunNotFoundError(f"no run {name!r} in {runs}", hint=hint)


def _searched(runs: Path) -> Iterator[Path]:
    yield runs
    yield from (folder for folder in index.known() if folder != runs)


def _read_all(
    paths: list[Path], readers: Mapping[str, Callable[[Path], Entry]]
) -> tuple[list[Entry], list[LauncherError]]:
    entries, broken = [], []
    for path in paths:
        try:
            entries.append(readers[path.name](path))
        except LauncherError as error:
            broken.append(error)
    return entries, broken


def _exact(runs: Path, name: str, names: Mapping[str, object]) -> list[Path]:
    if not name or "/" in name or "\0" in name or name in {".", ".."}:
        return []
    return [path for record in names if _is_there(path := runs / name / record)]


def _starting(runs: Path, name: str, names: Mapping[str, object]) -> list[Path]:
    return [path for path in records(runs, names) if path.parent.name.startswith(name)] if name else []


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long, a closed folder
        return False
