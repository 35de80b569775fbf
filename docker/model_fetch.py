"""Fetch from the hub into this host's cache of it: python model_fetch.py --model OWNER/NAME --tokenizer OWNER/NAME

The node entry starts it with the ranks' Python before it starts them (weights.py), so that one process a host asks the
hub. Owns what is tried again and for how long, and the words while it lasts; which files are wanted is hub_files.py's.
What the hub's own client does stays its own: locks of the cache, files that go on where they were cut, HF_HOME,
HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE. What it lacks: it asks only once for the list of files, and gives up on a file
after five cuts.

Exit codes: 0; BAD_INPUT where trying again is no use; NOT_STARTED where the hub did not answer often enough.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

import hub_files
from ending import BAD_INPUT, NOT_STARTED

LONGEST = 60.0  # seconds between two tries
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
_AGAIN = (408, 429)  # of the answers from 400 to 499, those that may change


class Hopeless(Exception):
    """Why no further try would help."""


class Wanted(NamedTuple):
    """A repository of the hub; of a tokenizer's all but the weights is wanted."""

    name: str
    weights: bool
    cache: Path

    def __str__(self) -> str:
        return f"{'model' if self.weights else 'tokenizer'} {self.name}"


def main(words: list[str] | None = None) -> int:
    args = arguments(words)
    names = {name: False for name in args.tokenizer} | {name: True for name in args.model}
    names = {name: weights for name, weights in names.items() if not Path(name).is_dir()}
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # lines of its own are below
    try:
        from huggingface_hub import constants
    except ImportError:
        say("this Python has no huggingface_hub, so the ranks ask the hub themselves: " + ", ".join(names))
        return 0
    hub = Path(constants.HF_HUB_CACHE)
    codes = [0]
    for name, weights in names.items():
        one = Wanted(name, weights, hub / f"models--{name.replace('/', '--')}")
        try:
            codes.append(_require_cached(one) if constants.HF_HUB_OFFLINE else _fetch(args, one))
        except Hopeless as reason:
            say(f"error: {one}: {reason}")
            codes.append(BAD_INPUT)
    return max(codes, key=(0, NOT_STARTED, BAD_INPUT).index)


def arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="model_fetch.py", description="Fetch models into the hub's cache.")
    parser.add_argument("--model", action="append", default=[], metavar="OWNER/NAME")
    parser.add_argument("--tokenizer", action="append", default=[], metavar="OWNER/NAME", help="no weights")
    parser.add_argument("--tries", type=int, default=10, help="in a row without a byte of progress")
    parser.add_argument(
        "--pause", type=float, default=1.0, help="seconds before the second try; then twice as long"
    )
    parser.add_argument("--news", type=float, default=30.0, help="seconds between two lines of progress")
    return parser.parse_args(words)


def say(message: str) -> None:
    with contextlib.suppress(OSError):
        print(f"node: {message}", file=sys.stderr, flush=True)


def _fetch(args: argparse.Namespace, one: Wanted) -> int:
    failures, pause, began = 0, args.pause, time.monotonic()
    while True:
        before = hub_files.size(one.cache)
        try:
            _once(args, one)
            say(f"{one}: ready after {time.monotonic() - began:.0f} s, in {one.cache}")
            return 0
        except Exception as error:
            reason = _words(error)
            if hopeless := _hopeless(error):
                raise Hopeless(hopeless) from None
        if hub_files.is_whole(one.cache, one.weights):
            say(f"{one}: the hub did not answer ({reason}); the ranks use what is in {one.cache}")
            return 0
        if hub_files.size(one.cache) > before:
            failures, pause = 0, args.pause
        failures += 1
        if failures >= args.tries:
            say(f"error: {one}: {failures} tries without progress: {reason}")
            return NOT_STARTED
        say(f"{one}: {reason}; the next try is in {pause:.1f} s")
        time.sleep(pause)
        pause = min(LONGEST, 2 * pause)


def _once(args: argparse.Namespace, one: Wanted) -> None:
    """One try at all that is missing. Raises what the hub's client raises."""
    import huggingface_hub

    info = huggingface_hub.HfApi().model_info(one.name, files_metadata=True)
    sizes = {file.rfilename: int(file.size or 0) for file in info.siblings or ()}
    names = hub_files.wanted(sizes, one.weights)
    total = sum(sizes[name] for name in names)
    say(f"{one}: {len(names)} files, {total / 1e9:.2f} GB")
    ended = threading.Event()
    news = threading.Thread(target=_tell, args=(args, one, total, ended), daemon=True)
    news.start()
    try:
        huggingface_hub.snapshot_download(
            one.name, revision=info.sha, allow_patterns=list(map(_plain, names))
        )
        _point_to(one.cache, str(info.sha))
    finally:
        ended.set()
        news.join()


def _plain(name: str) -> str:
    """A pattern that fits this name alone."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _point_to(cache: Path, commit: str) -> None:
    """Name the commit as that of the branch main, by which ranks look for it when the hub does not answer."""
    refs = cache / "refs"
    refs.mkdir(parents=True, exist_ok=True)
    half = refs / f".main.{socket.gethostname()}.{os.getpid()}"
    half.write_text(commit, encoding="ascii")
    half.replace(refs / "main")


def _tell(args: argparse.Namespace, one: Wanted, total: int, ended: threading.Event) -> None:
    """A line every now and then: how much is there, how fast it comes and how long it takes."""
    before, since = hub_files.size(one.cache), time.monotonic()
    while not ended.wait(args.news):
        size, now = hub_files.size(one.cache), time.monotonic()
        rate = (size - before) / (now - since)
        left = f", {max(0.0, total - size) / rate:.0f} s left" if rate > 0 else ""
        say(f"{one}: {size / 1e9:.2f} of {total / 1e9:.2f} GB, {rate / 1e6:.1f} MB/s{left}")
        before, since = size, now


def _require_cached(one: Wanted) -> int:
    """0; raises Hopeless where nothing of it is in the cache, and the hub may not be asked."""
    needed = ("config.json",) if one.weights else hub_files.TOKENIZER
    if not any(file for name in needed for file in (one.cache / "snapshots").glob(f"*/{name}")):
        raise Hopeless(f"HF_HUB_OFFLINE is set, and it is not in the cache ({one.cache})")
    say(f"{one}: HF_HUB_OFFLINE is set; the ranks use what is in {one.cache}")
    return 0


def _hopeless(error: Exception) -> str:
    """Why trying again would not help; '' where it may."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return "the hub shows it only to who has accepted its terms: do so, and give HF_TOKEN by a secret"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "the hub has none of this name, or shows it only to who has a token: HF_TOKEN by a secret"
    if isinstance(error, (errors.RevisionNotFoundError, errors.HFValidationError)):
        return _words(error)
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None and 400 <= status < 500 and status not in _AGAIN:
        return _words(error)
    if isinstance(error, OSError) and error.errno in _FULL:
        return f"{error.filename or 'the cache'}: {error.strerror}"
    return ""


def _words(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
