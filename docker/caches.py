"""Compile caches that no other user can write to, kept for the next run.

Owns where they are, who has them and how long they are kept:

    <scratch>/deepspeed-cache-<uid>/     this user's alone (0700, no link), or it is not used
        home/                            HOME, where the image's own is a folder that everyone shares
        <torch>-<digest>/                one a kind: image or interpreter, versions, GPU type, processor
            0/TRITON_CACHE_DIR/ …  1/…   a node entry has one of them, as long as it lives
            0.lock  1.lock               locked by it; the time of the file is when the folder was last used

torch and Triton load native code from there, and Inductor unpickles: whoever can write there runs code as this user.
No two node entries share a folder, so a lock file in it is of a process that was killed, and torch, which would wait
for it for ever (https://github.com/deepspeedai/DeepSpeed/issues/3356), never meets one.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import os
import platform
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from ending import BAD_INPUT, Stop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KEPT = 30 * 24 * 3600.0  # seconds since the last use
# What docker/Dockerfile sets, and what is below it when the host's /tmp is mounted: a folder that everyone shares.
IMAGE_HOME, IMAGE_CACHE = "/tmp", "/tmp/cache"


@dataclass(frozen=True)
class Request:
    """Folders below `scratch` for the variables `names`; `made_for` is what the launcher knows of their kind."""

    scratch: Path
    names: tuple[str, ...]
    made_for: str


@contextlib.contextmanager
def variables(request: Request, own: dict[str, str], say: Callable[[str], None]) -> Iterator[dict[str, str]]:
    """Variables for the ranks: each of the request's names with a folder, and what in `own` is in a shared place.

    The folders are this process's until the end of the context. Raises Stop when scratch cannot be written.
    """
    with contextlib.ExitStack() as held:
        try:
            request.scratch.mkdir(parents=True, exist_ok=True)
            try:
                base, folder = _kept(request, held)
            except OSError as error:
                temporary = tempfile.TemporaryDirectory(
                    prefix=_name("-"), dir=request.scratch, ignore_cleanup_errors=True
                )
                base = folder = Path(held.enter_context(temporary))
                say(f"{error}: no compile cache is kept; this run's is {folder}")
            places = {name: str(folder / name) for name in request.names}
            for path in places.values():
                Path(path).mkdir(mode=0o700, exist_ok=True)
            home = base / "home"
            home.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise Stop(BAD_INPUT, f"scratch {request.scratch} cannot be written: {error.strerror}") from None
        yield _moved(own, home) | places


def _kept(request: Request, held: contextlib.ExitStack) -> tuple[Path, Path]:
    """(this user's folder, the folder that this process has in it). Raises OSError when they cannot be trusted."""
    base = request.scratch / _name()
    root = enter(str(base), None, held)
    enter("home", root, held)
    kind = _kind(request.made_for)
    inside = enter(kind, root, held)
    _prune(base)
    slot = _take(inside, held)
    mine = enter(slot, inside, held)
    for name in request.names:
        enter(name, mine, held)
    folder = base / kind / slot
    for left in folder.glob("TORCH_EXTENSIONS_DIR/*/lock"):
        left.unlink()
    return base, folder


def _name(end: str = "") -> str:
    return f"deepspeed-cache-{os.geteuid()}{end}"


def enter(name: str, parent: int | None, held: contextlib.ExitStack) -> int:
    """A descriptor of a folder, made when it is not there. Raises OSError for a link, and for one that others enter."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=parent)
    try:
        folder = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    except NotADirectoryError:
        raise OSError(f"{name} is a link or a file") from None
    held.callback(os.close, folder)
    status = os.fstat(folder)
    if status.st_uid != os.geteuid():
        raise OSError(f"{name} belongs to user {status.st_uid}")
    if status.st_mode & 0o077:
        raise OSError(f"{name} can be opened by others (mode {status.st_mode & 0o777:03o})")
    return folder


def _take(kind: int, held: contextlib.ExitStack) -> str:
    """The first folder's name that no other process has; locked until `held` ends. Raises OSError without locks."""
    for number in itertools.count():
        with contextlib.suppress(BlockingIOError, FileNotFoundError):
            name = f"{number}.lock"
            lock = os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600, dir_fd=kind)
            with contextlib.ExitStack() as closing:
                closing.callback(os.close, lock)
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # one that was pruned between the two calls is no lock any more
                if os.fstat(lock).st_ino == os.stat(name, dir_fd=kind).st_ino:
                    os.utime(lock)
                    held.push(closing.pop_all())
                    return str(number)
    raise AssertionError("numbers do not end")


def _prune(base: Path) -> None:
    """Remove what was not used for KEPT seconds, and is not in use."""
    for lock in base.glob("*/*.lock"):
        with contextlib.suppress(OSError):
            if time.time() - lock.stat().st_mtime > KEPT:
                descriptor = os.open(lock, os.O_RDWR | os.O_NOFOLLOW)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
                    lock.unlink()
                finally:
                    os.close(descriptor)


def _kind(made_for: str) -> str:
    """A name for caches that fit each other: torch keeps compiled code by an extension's name alone."""
    versions = {name: _version(name) for name in ("torch", "deepspeed", "triton")}
    facts = (made_for, sys.executable, sys.version, platform.machine(), versions, _processor(), _gpus())
    return f"{versions['torch']}-{hashlib.sha256(repr(facts).encode()).hexdigest()[:12]}"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"


def _processor() -> list[str]:
    """What DeepSpeed's `-march=native` depends on, of the first processor."""
    with contextlib.suppress(OSError):
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
        return [line for line in first.splitlines() if line.startswith(("model name", "flags", "Features"))]
    return []


def _gpus() -> list[str]:
    models: set[str] = set()
    for path in Path("/proc/driver/nvidia/gpus").glob("*/information"):
        with contextlib.suppress(OSError):
            models.update(line for line in path.read_text().splitlines() if line.startswith("Model:"))
    return sorted(models)


def _moved(own: dict[str, str], home: Path) -> dict[str, str]:
    """HOME and caches of the image's ENV, in `home` instead of a folder that everyone shares."""
    moved = {
        name: value.replace(IMAGE_CACHE, f"{home}/.cache", 1)
        for name, value in own.items()
        if value == IMAGE_CACHE or value.startswith(f"{IMAGE_CACHE}/")
    }
    return moved | ({"HOME": str(home)} if own.get("HOME") == IMAGE_HOME else {})
