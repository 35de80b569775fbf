"""The cache of tokens: which folder they are in, and the way from sources to a complete one.

Owns the key, what makes a folder complete, and that two jobs which start at once do the work once. What is in a folder
is said in corpus.py. Trained tokenizers are kept in .tokenizers/ beside.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import shutil
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ending import BAD_INPUT

from workloads import claims, completing, cutting, encoding, sources, text, tokenizer, tokenizing
from workloads.progress import Late, Progress
from workloads.session import Stop
from workloads.tokenizing import Work

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedTokenizerBase

    from workloads.metrics import Log

FORMAT = completing.FORMAT
COMPLETE, HELD_OUT = completing.COMPLETE, completing.HELD_OUT
VARIABLE = "DATA_CACHE"  # the environment's default, which the launcher sets
TOKENIZERS = ".tokenizers"


class Making(NamedTuple):
    """How tokens are made."""

    processes: int
    log: Log | None = None  # None where another rank tells
    minutes: float | None = None  # at most
    look: Callable[[], None] | None = None  # called at least once a second; what it raises ends the work


def place(option: str | None, run_dir: Path) -> Path:
    """The cache folder: --data-cache, else $DATA_CACHE, else data/ in the run's folder."""
    given = option or os.environ.get(VARIABLE)
    return Path(given).expanduser() if given else run_dir / "data"


def key(words: list[str], by: PreTrainedTokenizerBase) -> str:
    """The name of a corpus' folder: weights of a mixture have no part in it."""
    of, by_ids = tokenizer.fingerprint(by), encoding.of(by)
    # tokenizer.json does not say which token ends a text: Qwen2.5 and its Instruct have the same one, and other ends
    around = by_ids.begin, by_ids.end, by_ids.vocabulary, getattr(by, "split_special_tokens", False)
    return _hash(FORMAT, of, around, *map(sources.fingerprint, sources.parse(words)))


def make(words: list[str], by: PreTrainedTokenizerBase, within: Path, making: Making) -> Path:
    """The complete folder of the sources' tokens, made now where it is not there. Raises Stop for bad sources."""
    folder = within / key(words, by)
    if (folder / COMPLETE).exists():
        completing.tidy(folder)  # a process may have been killed at it
        completing.check(folder)
        return folder
    encoder = encoding.of(by)
    shards = cutting.shards(sources.parse(words), encoder.end_token)
    folder.mkdir(parents=True, exist_ok=True)
    work = Work(folder, shards, encoder)
    progress = Progress(making.log, making.minutes)

    def look() -> None:
        progress.look(work)
        if making.look is not None:
            making.look()

    try:
        tokenizing.make(work, making.processes, look)
        complete(work, words, by, look)
    except Stop as stop:
        if stop.code == BAD_INPUT and not isinstance(stop, Late):
            _remove(folder)
        raise
    finally:
        progress.close()
    if making.log is not None:
        completing.tell(folder, making.log)
    return folder


def complete(work: Work, words: list[str], by: PreTrainedTokenizerBase, look: Callable[[], None]) -> None:
    """Complete the folder whose shards are whole, or wait until another process has."""
    watch = claims.Watch()
    while not (work.folder / COMPLETE).exists():
        claim = watch.claim(work.folder / f"corpus{claims.SUFFIX}")
        if claim is None:
            tokenizing.stop_if_asked()
            look()
            time.sleep(tokenizing.LOOK / 2)
            continue
        try:
            if not (work.folder / COMPLETE).exists():
                completing.complete(work, words, by.name_or_path, functools.partial(_beat, claim, look))
        except FileNotFoundError:
            # another process that took this one for dead has completed the folder, and tidied up
            if not (work.folder / COMPLETE).exists():
                raise
        finally:
            claim.release()


def _beat(claim: claims.Claim, look: Callable[[], None]) -> None:
    claim.beat()
    look()


def _remove(folder: Path) -> None:
    """Remove what was made of bad sources, unless somebody is at work there: mended sources have another folder."""
    for path in folder.glob(f"*{claims.SUFFIX}"):
        if claims.is_gone(claims.read(path)):  # of this host's processes, which were stopped
            path.unlink(missing_ok=True)
    if not list(folder.glob(f"*{claims.SUFFIX}")):
        shutil.rmtree(folder, ignore_errors=True)


def mark_used(known: Path) -> None:
    """Set the time of the last use, which the launcher shows."""
    with contextlib.suppress(OSError):  # a cache of somebody else's
        os.utime(known)


def trained(name: str, words: list[str], within: Path, own: Path) -> str:
    """The JSON of a tokenizer bpe:SIZE for the sources: from the run's folder `own`, else the cache, else made now.

    It is then in both folders.
    """

    def texts() -> Any:
        return (piece for piece in text.pieces(words) if piece is not None)

    if (own / "tokenizer.json").exists():
        return tokenizer.trained(name, own, texts)
    kept = within / TOKENIZERS / _hash(FORMAT, name, *map(sources.fingerprint, sources.parse(words)))
    tokenizer.check_size(name)
    kept.parent.mkdir(parents=True, exist_ok=True)
    watch = claims.Watch()
    while not (kept / "tokenizer.json").exists():
        claim = watch.claim(kept.with_suffix(claims.SUFFIX))
        if claim is None:
            tokenizing.stop_if_asked()
            time.sleep(tokenizing.LOOK / 2)
            continue
        try:
            _whole_folder(kept, lambda half: tokenizer.trained(name, half, texts))
        finally:
            claim.release()
    _whole_folder(own, lambda half: shutil.copytree(kept, half, dirs_exist_ok=True))
    return tokenizer.trained(name, own, texts)


def _whole_folder(folder: Path, write: Callable[[Path], object]) -> None:
    """Write a folder under another name until it is whole; one that another process has written meanwhile stays."""
    half = folder.with_name(f".{folder.name}.{socket.gethostname()}.{os.getpid()}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        write(half)
        with contextlib.suppress(OSError):
            half.replace(folder)
    finally:
        shutil.rmtree(half, ignore_errors=True)


def _hash(*facts: Any) -> str:
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
