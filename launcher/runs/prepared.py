"""Prepared texts: the folders of a data cache, read with the standard library alone, and their removal.

Owns what of a folder is believed, which is nothing that others could not have written by mistake; the folder is written
by docker/workloads/corpus.py:

    <cache>/<key>/NNNNN.bin, NNNNN.idx   a pair a shard, Megatron's layout
                  held-out, …            what else the workload keeps of it
                  corpus.json            the last file, of a text that is whole; its time is that of the last use
                  *.claim, *.reader      of who writes it, and who reads it (claims.py)
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from launcher.errors import PlanError, RunNotFoundError, SpecError, did_you_mean
from launcher.namedtuple import NamedTuple
from launcher.runs import claims

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

FACTS = "corpus.json"
_REMOVED = ".removed"  # ends the name of a folder whose removal was cut short
_KEY = re.compile(rf"[0-9a-f]{{16}}(?:{re.escape(_REMOVED)})?")
# also half files of processes that were killed, which start with a dot
_OWN = re.compile(r"[.]?[0-9]{5}[.].*|[.]?held-out.*|[.]?corpus[.].*|[.].*[.](?:json|npz|bin|idx).*")
_MOST = 2**24  # bytes of a corpus.json


class Prepared(NamedTuple):
    """A folder of a cache. `bytes`: on disk; `text_bytes`: of the text; `last_used`: Unix time; None: not known."""

    key: str
    folder: Path
    state: Literal["finished", "unfinished", "in use", "half removed"]
    bytes: int
    last_used: float
    sources: tuple[str, ...] = ()
    tokenizer: str = ""
    tokens: int | None = None
    documents: int | None = None
    text_bytes: int | None = None
    facts: dict[str, Any] | None = None  # corpus.json as it is


def listed(caches: Iterable[Path]) -> list[Prepared]:
    """The prepared texts of these caches, the last used first. A cache that is not there has none.

    Raises SpecError for a cache that cannot be read.
    """
    texts = [_read(folder) for cache in dict.fromkeys(caches) for folder in _folders(cache)]
    return sorted(texts, key=lambda text: text.last_used, reverse=True)


def find(caches: Sequence[Path], key: str) -> Prepared:
    """The text whose key is `key` or alone starts with it.

    Raises SpecError for a word that is no key, and RunNotFoundError where none or several match.
    """
    if not re.fullmatch(rf"[0-9a-f]{{1,16}}(?:{re.escape(_REMOVED)})?", key):
        hint = "`python -m launcher data list` shows the keys: 16 digits, or the first of them"
        raise SpecError(f"{key!r} is no key of a prepared text", hint=hint)
    folders = [folder for cache in dict.fromkeys(caches) for folder in _folders(cache)]
    matching = [f for f in folders if f.name == key] or [f for f in folders if f.name.startswith(key)]
    if len(matching) == 1:
        return _read(matching[0])
    if matching:
        places = ", ".join(map(str, matching[:5])) + (", …" if len(matching) > 5 else "")
        hint = f"write more digits, or name the cache with --cache: {places}"
        raise RunNotFoundError(f"{key!r} starts {len(matching)} prepared texts", hint=hint)
    hint = did_you_mean(key, {f.name for f in folders}, most=0) or "`python -m launcher data list` shows them"
    where = ", ".join(map(str, caches[:5])) or "no cache"
    raise RunNotFoundError(f"no prepared text {key!r} in {where}", hint=hint)


def remove(text: Prepared) -> None:
    """Remove the folder of a text, following no link.

    Raises PlanError for one that a run writes or reads, and SpecError for a folder with something else in it, or that
    may not be removed.
    """
    foreign = sorted(entry.name for entry in _entries(text.folder) if _is_foreign(entry))
    if foreign:
        what = f"{text.folder} is no prepared text alone: it holds {', '.join(foreign[:5])}"
        raise SpecError(what, hint="move that away first, or remove the folder by hand")
    gone = text.folder.with_name(text.key.removesuffix(_REMOVED) + _REMOVED)
    try:
        _require_unused(text.folder, text.key)
        if text.folder != gone:
            shutil.rmtree(gone, ignore_errors=True)
            text.folder.rename(gone)  # so that nobody ever meets half of it under its key
        try:
            _require_unused(gone, text.key)
        except PlanError:  # somebody came between
            gone.rename(text.folder)
            raise
        shutil.rmtree(gone)
    except OSError as error:
        raise SpecError(f"{error.filename or text.folder} cannot be removed: {error.strerror}") from None


def _require_unused(folder: Path, key: str) -> None:
    if claim := claims.held(folder):
        what = f"{key} is in use: a run {'reads' if claim.suffix == '.reader' else 'writes'} it ({claim})"
        raise PlanError(what, hint="cancel its run, or wait until it has ended")


def _folders(cache: Path) -> Iterator[Path]:
    """The folders that are called like a key; no links, and nothing behind a link instead of a cache."""
    try:
        entries = sorted(os.scandir(cache), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise SpecError(f"the cache {cache} cannot be read: {error.strerror}") from None
    for entry in entries:
        if _KEY.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
            yield Path(entry.path)


def _read(folder: Path) -> Prepared:
    size, newest = 0, 0.0
    for entry in _entries(folder):
        with contextlib.suppress(OSError):
            status = entry.stat(follow_symlinks=False)
            size += status.st_size
            newest = max(newest, status.st_mtime)
    facts, used = _facts(folder / FACTS)
    text = Prepared(
        key=folder.name,
        folder=folder,
        state=_state(folder, facts is not None),
        bytes=size,
        last_used=used or newest,
    )
    if facts is None:
        return text
    sources = facts.get("sources")
    return text._replace(
        sources=tuple(map(str, sources)) if isinstance(sources, list) else (),
        tokenizer=str(facts.get("tokenizer") or ""),
        tokens=_count(facts.get("tokens")),
        documents=_count(facts.get("documents")),
        text_bytes=_count(facts.get("bytes")),
        facts=facts,
    )


def _state(folder: Path, whole: bool) -> Literal["finished", "unfinished", "in use", "half removed"]:
    if folder.name.endswith(_REMOVED):
        return "half removed"
    if claims.held(folder):
        return "in use"
    return "finished" if whole else "unfinished"


def _facts(path: Path) -> tuple[dict[str, Any] | None, float | None]:
    """(corpus.json, its time), or (None, None) where it is not a file of ours."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            facts = json.loads(file.read(_MOST)) if stat.S_ISREG(status.st_mode) else None
    except (OSError, ValueError, RecursionError):
        return None, None
    return (facts, status.st_mtime) if isinstance(facts, dict) else (None, None)


def _count(value: object) -> int | None:
    if isinstance(value, float) and math.isfinite(value):
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63 else None


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        return list(os.scandir(folder))
    except OSError:
        return []


def _is_foreign(entry: os.DirEntry[str]) -> bool:
    """Whether it is nothing that a workload puts there: a link, a folder, or a file of another name."""
    return not _OWN.fullmatch(entry.name) or not entry.is_file(follow_symlinks=False)
