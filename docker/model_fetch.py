"""Fetch a hub model into the Hugging Face cache of this host: python model_fetch.py OWNER/NAME

The node entry starts it with the ranks' Python before it starts them (weights.py), so that one process a host asks the
hub. Owns which files a model needs, what is tried again and for how long, and the words while it lasts. What the hub's
own client does stays its own: locks of the cache, files that go on where they were cut, HF_HOME, HF_ENDPOINT, HF_TOKEN,
HF_HUB_OFFLINE. What it lacks: it asks only once for the list of files, and gives up on a file after five cuts.

Exit codes: 0; BAD_INPUT where trying again is no use; NOT_STARTED where the hub did not answer often enough.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import fnmatch
import json
import os
import re
import socket
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ending import BAD_INPUT, NOT_STARTED

if TYPE_CHECKING:
    from collections.abc import Iterable

LONGEST = 60.0  # seconds between two tries
# Files that no workload reads: other frameworks' weights, and a model's second copy of its own.
_FOREIGN = (
    *("*.h5", "*.msgpack", "*.onnx", "*.ot", "*.tflite", "*.gguf", "*.mlmodel", "original/*", "onnx/*"),
    "consolidated*",  # Mistral's own copy beside that of transformers
)
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")  # not needed where there are safetensors
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
_AGAIN = (408, 429)  # of the answers from 400 to 499, those that may change


class Hopeless(Exception):
    """Why no further try would help."""


def main(words: list[str] | None = None) -> int:
    args = arguments(words)
    if Path(args.model).is_dir():
        return 0
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # lines of its own are below
    try:
        from huggingface_hub import constants
    except ImportError:
        say(f"model {args.model}: this Python has no huggingface_hub, so the ranks look for it themselves")
        return 0
    cache = Path(constants.HF_HUB_CACHE) / f"models--{args.model.replace('/', '--')}"
    try:
        if constants.HF_HUB_OFFLINE:
            _require_cached(args.model, cache)
            return 0
        return _fetch(args, cache)
    except Hopeless as reason:
        say(f"error: model {args.model}: {reason}")
        return BAD_INPUT


def arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="model_fetch.py", description="Fetch a hub model into the cache.")
    parser.add_argument("model", metavar="OWNER/NAME")
    parser.add_argument("--tries", type=int, default=10, help="in a row without a byte of progress")
    parser.add_argument(
        "--pause", type=float, default=1.0, help="seconds before the second try; then twice as long"
    )
    parser.add_argument("--news", type=float, default=30.0, help="seconds between two lines of progress")
    return parser.parse_args(words)


def say(message: str) -> None:
    with contextlib.suppress(OSError):
        print(f"node: {message}", file=sys.stderr, flush=True)


def wanted(files: Iterable[str]) -> list[str]:
    """Those of a model's files that workloads read."""
    names = list(files)
    safe = any(name.endswith(".safetensors") and "/" not in name for name in names)
    left_out = (*_FOREIGN, *(_PICKLED if safe else ()))
    return [name for name in names if not any(fnmatch.fnmatchcase(name, pattern) for pattern in left_out)]


def _fetch(args: argparse.Namespace, cache: Path) -> int:
    failures, pause, began = 0, args.pause, time.monotonic()
    while True:
        before = _size(cache)
        try:
            _once(args, cache)
            say(f"model {args.model}: ready after {time.monotonic() - began:.0f} s, in {cache}")
            return 0
        except Exception as error:
            reason = _words(error)
            if hopeless := _hopeless(error):
                raise Hopeless(hopeless) from None
        if is_whole(cache):
            say(f"model {args.model}: the hub did not answer ({reason}); the ranks use what is in {cache}")
            return 0
        if _size(cache) > before:
            failures, pause = 0, args.pause
        failures += 1
        if failures >= args.tries:
            say(f"error: model {args.model}: {failures} tries without progress: {reason}")
            return NOT_STARTED
        say(f"model {args.model}: {reason}; the next try is in {pause:.1f} s")
        time.sleep(pause)
        pause = min(LONGEST, 2 * pause)


def _once(args: argparse.Namespace, cache: Path) -> None:
    """One try at all that is missing. Raises what the hub's client raises."""
    import huggingface_hub

    info = huggingface_hub.HfApi().model_info(args.model, files_metadata=True)
    sizes = {file.rfilename: int(file.size or 0) for file in info.siblings or ()}
    names = wanted(sizes)
    total = sum(sizes[name] for name in names)
    say(f"model {args.model}: {len(names)} files, {total / 1e9:.2f} GB")
    ended = threading.Event()
    news = threading.Thread(target=_tell, args=(args, cache, total, ended), daemon=True)
    news.start()
    try:
        huggingface_hub.snapshot_download(
            args.model, revision=info.sha, allow_patterns=list(map(_plain, names))
        )
        _point_to(cache, str(info.sha))
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


def _tell(args: argparse.Namespace, cache: Path, total: int, ended: threading.Event) -> None:
    """A line every now and then: how much is there, how fast it comes and how long it takes."""
    before, since = _size(cache), time.monotonic()
    while not ended.wait(args.news):
        size, now = _size(cache), time.monotonic()
        rate = (size - before) / (now - since)
        left = f", {max(0.0, total - size) / rate:.0f} s left" if rate > 0 else ""
        say(f"model {args.model}: {size / 1e9:.2f} of {total / 1e9:.2f} GB, {rate / 1e6:.1f} MB/s{left}")
        before, since = size, now


def _size(cache: Path) -> int:
    """Bytes of all files that the cache has of the model, unfinished ones too."""
    size = 0
    with contextlib.suppress(OSError):
        for path in (cache / "blobs").iterdir():
            with contextlib.suppress(OSError):
                size += path.stat().st_size
    return size


def is_whole(cache: Path) -> bool:
    """Whether the cache has a configuration and all weights, as far as that can be seen without the hub."""
    try:
        commit = (cache / "refs" / "main").read_text(encoding="ascii").strip()
        snapshot = cache / "snapshots" / commit
        weights = [p for p in snapshot.iterdir() if p.suffix in (".safetensors", ".bin") and p.exists()]
        weights = [path for path in weights if path.name != "training_args.bin"]
        numbered = [part for path in weights if (part := re.search(r"-of-(\d+)\.", path.name))]
        if any(len(numbered) < int(part[1]) for part in numbered):  # their index may come last
            return False
        indices = list(snapshot.glob("*.index.json"))
        shards = {name for index in indices for name in json.loads(index.read_text())["weight_map"].values()}
        return (
            (snapshot / "config.json").exists() and bool(weights) and all(_there(snapshot, n) for n in shards)
        )
    except (OSError, ValueError, KeyError, AttributeError):
        return False


def _there(snapshot: Path, name: str) -> bool:
    return (snapshot / str(name)).exists()


def _require_cached(model: str, cache: Path) -> None:
    """Raise Hopeless where nothing of the model is in the cache, and the hub may not be asked."""
    if not any((cache / "snapshots").glob("*/config.json")):
        raise Hopeless(f"HF_HUB_OFFLINE is set, and it is not in the cache ({cache})")
    say(f"model {model}: HF_HUB_OFFLINE is set; the ranks use what is in {cache}")


def _hopeless(error: Exception) -> str:
    """Why trying again would not help; '' where it may."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return "the hub shows it only to who has accepted its terms: do so, and give HF_TOKEN by a secret"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "the hub has no such model, or shows it only to who has a token: HF_TOKEN by a secret"
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
