"""The mirror of a run's checkpoints, in a bucket or a folder elsewhere: `python -m workloads.mirror`, for mirroring.py.

Owns what lies at `<address>/<run>/`: one folder a tag with the files of the checkpoint, and the marker complete.json,
which is written last, once every file is there with the size that it lists. Until then `incoming.json` has the same
content: what a killed upload left is gone on with only if it is of that very checkpoint. A folder without marker is
nothing. Every file is compared with its digest before it is sent, and after it came back.

    push ADDRESS FOLDER TAG --keep K    upload a complete checkpoint, then delete all but the newest K there
    pull ADDRESS FOLDER --above STEP    write and delete a probe, and fetch the newest that is above the step
    list ADDRESS                        say what is there
    verify ADDRESS TAG                  read each byte of a complete checkpoint
    fetch ADDRESS FOLDER TAG            fetch one, and what builds its model again

The first two claim the folder for their run: owner.json says whose it is (mirror_owner.py). The others only read.

Lines of JSON on stdout tell how it goes, the last of them how it ended. Credentials come from the environment alone, as
s3fs and gcsfs read it; they are in no message.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import shutil
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workloads import checkpoint_folder, digests, mirror_files, mirror_owner
from workloads.mirror_files import steadily

if TYPE_CHECKING:
    from collections.abc import Callable

    from workloads.mirror_files import Mirror

INCOMING, PROBE, RESTORING = "incoming.json", ".probe", ".restoring"
PASSED_OVER = "passed-over"  # of a checkpoint that came with other bytes, and why
AT_ONCE = 4  # files


class Gone(Exception):
    """The checkpoint that was to be uploaded is not there any more, or not as it was written."""


def push(mirror: Mirror, path: Path, keep: int) -> int:
    """Upload a complete checkpoint, or what is missing of it, and delete old ones; returns the bytes that were sent.

    Raises Gone, or what the mirror's file system raises.
    """
    tag = path.name
    try:
        marker = checkpoint_folder.marker(path)
        content = (path / checkpoint_folder.MARKER).read_bytes()
    except (OSError, ValueError) as error:
        raise Gone(str(error)) from error
    sizes, there, sent = marker["files"], mirror.files(tag), 0
    if checkpoint_folder.MARKER not in there or mirror.read(f"{tag}/{checkpoint_folder.MARKER}") != content:
        if there and not (INCOMING in there and mirror.read(f"{tag}/{INCOMING}") == content):
            mirror.remove(tag)  # of another attempt, which came this far
            there = {}
        mirror.write(f"{tag}/{INCOMING}", content)
        missing = [name for name, size in sizes.items() if there.get(name) != size]
        known = marker.get(digests.KIND, {})
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for _ in pool.map(lambda name: _send(mirror, path, name, known.get(name)), missing):
                pass
        there, sent = mirror.files(tag), sum(sizes[name] for name in missing)
        for name, size in sizes.items():
            if there.get(name) != size:
                raise OSError(f"{name} has {there.get(name, 'no')} bytes at the mirror instead of {size}")
        mirror.delete([f"{tag}/{PASSED_OVER}"])
        mirror.write(f"{tag}/{checkpoint_folder.MARKER}", content)
    mirror.delete([f"{tag}/{INCOMING}"])
    _describe(mirror, path.parent / checkpoint_folder.MODEL)
    prune(mirror, keep)
    return sent


def _describe(mirror: Mirror, folder: Path) -> None:
    """Upload what builds the model of a run again, unless it is there: small files, without which none is exported."""
    found = (file for file in sorted(folder.rglob("*")) if file.is_file())
    known = {str(file.relative_to(folder)): digests.of(file) for file in found}
    record = {
        "files": {name: file.size for name, file in known.items()},
        digests.KIND: {name: file.digest for name, file in known.items()},
    }
    content = json.dumps(record).encode()
    marker = f"{folder.name}/{checkpoint_folder.MARKER}"
    there = checkpoint_folder.MARKER in mirror.files(folder.name)
    if not known or (there and mirror.read(marker) == content):
        return
    for name in known:
        mirror.write(f"{folder.name}/{name}", (folder / name).read_bytes())
    mirror.write(marker, content)


def _send(mirror: Mirror, path: Path, name: str, digest: str | None) -> None:
    try:
        if digest and digests.of(path / name).digest != digest:
            raise Gone(f"{name} has other bytes than were written")
        steadily(lambda: mirror.system.put_file(str(path / name), f"{mirror.base}/{path.name}/{name}"))
    except FileNotFoundError as error:
        if not (path / name).exists():
            raise Gone(f"{name} is missing") from error
        raise


def prune(mirror: Mirror, keep: int) -> None:
    """Delete all but the newest `keep` complete checkpoints, and what is not whole and older than these.

    One that was passed over as damaged does not count: else each new one would go, and what came before it.
    """
    files = mirror.files()
    complete = [tag for tag in mirror.complete() if f"{tag}/{PASSED_OVER}" not in files]
    there = {name.split("/")[0] for name in files}
    newest = checkpoint_folder.step_of(complete[0]) if complete else -1
    for tag in there - set(complete[:keep]):
        if 0 <= checkpoint_folder.step_of(tag) <= newest:
            mirror.remove(tag)


def probe(mirror: Mirror) -> None:
    """Write, read and delete a small file. Raises what the file system does."""
    content = os.urandom(16).hex().encode()
    mirror.write(PROBE, content)
    if mirror.read(PROBE) != content:
        raise OSError("a file that was just written there holds something else")
    mirror.delete([PROBE])


def pull(mirror: Mirror, folder: Path, above: int, say: Callable[[str], None]) -> str | None:
    """Fetch the newest sound checkpoint above a step into `folder`; returns its tag, or None where there is none.

    `say` is given lines for people, and '' for each file that is there. What an earlier attempt fetched of it is not
    fetched again. Raises OSError where there is no room.
    """
    for tag in mirror.complete():
        if checkpoint_folder.step_of(tag) <= above:
            break
        try:
            fetch(mirror, folder, tag, say)
        except ValueError as error:
            say(f"checkpoint {tag} of the mirror is passed over: {error}")
            with contextlib.suppress(OSError):  # a mirror that is only read, say
                mirror.write(f"{tag}/{PASSED_OVER}", str(error).encode())
            continue
        shutil.rmtree(folder / RESTORING, ignore_errors=True)
        return tag
    return None


def fetch(mirror: Mirror, folder: Path, name: str, say: Callable[[str], None]) -> None:
    """Fetch what has a marker into `folder`. Raises ValueError where it is not whole, or comes with other bytes."""
    half = folder / RESTORING / name
    half.mkdir(parents=True, exist_ok=True)
    try:
        (half / checkpoint_folder.MARKER).write_bytes(mirror.read(f"{name}/{checkpoint_folder.MARKER}"))
        _fetch(mirror, half, checkpoint_folder.marker(half), say)
    except FileNotFoundError as error:
        raise ValueError(f"{name} is not there, or its upload was not finished") from error
    except ValueError:
        shutil.rmtree(half, ignore_errors=True)
        raise
    shutil.rmtree(folder / name, ignore_errors=True)  # a broken one
    half.rename(folder / name)


def damage(mirror: Mirror, tag: str, say: Callable[[str], None]) -> list[str]:
    """What is wrong with a checkpoint at the mirror, a sentence each, after each byte of it was read."""
    try:
        marker = checkpoint_folder.parsed(mirror.read(f"{tag}/{checkpoint_folder.MARKER}"))
    except FileNotFoundError:
        return ["its upload was not finished"]
    except ValueError as error:
        return [str(error)]
    there, known, reasons = mirror.files(tag), marker.get(digests.KIND, {}), []
    for name, size in marker["files"].items():
        say("")
        if there.get(name) != size:
            reasons.append(f"{name} has {there.get(name, 'no')} bytes instead of {size}")
        elif name in known and steadily(lambda name=name: _digest(mirror, f"{tag}/{name}")) != known[name]:  # type: ignore[misc]
            reasons.append(f"{name} has other bytes than were written")
    return reasons


def _digest(mirror: Mirror, name: str) -> str:
    with mirror.system.open(f"{mirror.base}/{name}", "rb") as file:
        return digests.of_stream(file).digest


def _fetch(mirror: Mirror, half: Path, marker: dict[str, Any], say: Callable[[str], None]) -> None:
    """The files of a marker. Raises ValueError for one that comes with other bytes twice."""
    sizes, known = marker["files"], marker.get(digests.KIND, {})
    needed, free = sum(sizes.values()), shutil.disk_usage(half).free
    if needed > free:
        raise OSError(f"{half} has {free / 2**30:.1f} GiB free, and {half.name} needs {needed / 2**30:.1f}")
    say(f"checkpoint {half.name} is fetched from the mirror: {needed / 2**30:.2f} GiB")

    def right(name: str) -> bool:
        with contextlib.suppress(OSError):
            found = digests.of(half / name)
            return bool(found.size == sizes[name] and found.digest == known.get(name, found.digest))
        return False

    def get(name: str) -> None:
        source = f"{mirror.base}/{half.name}/{name}"
        (half / name).parent.mkdir(parents=True, exist_ok=True)
        for left in (2, 1, 0):
            if right(name):
                return say("")
            try:
                if left:
                    steadily(lambda: mirror.system.get_file(source, str(half / name)))
            except FileNotFoundError:
                raise ValueError(f"{name} is missing") from None
        raise ValueError(f"{name} has other bytes than were written")

    with ThreadPoolExecutor(AT_ONCE) as pool:
        for _ in pool.map(get, sizes):
            pass


def run(words: list[str]) -> dict[str, Any]:
    """Do what the command line says; returns what the last line tells."""
    parser = argparse.ArgumentParser(prog="python -m workloads.mirror", allow_abbrev=False)
    parser.add_argument("what", choices=("push", "pull", "list", "verify", "fetch"))
    parser.add_argument("address")
    parser.add_argument("--folder", type=Path, default=Path(), help="checkpoints/ of the run")
    parser.add_argument("--tag", default="")
    parser.add_argument("--run", required=True, help="its name at the mirror")
    parser.add_argument("--identity", default="", help="of the run, as its folder knows it")
    parser.add_argument("--owner", default="", help="who runs it, and from where")
    parser.add_argument("--keep", type=int, default=1)
    parser.add_argument("--above", type=int, default=-1)
    parser.add_argument("--parent", type=int, default=0, help="the process without which this one has no use")
    args = parser.parse_args(words)
    began = time.monotonic()
    try:
        if args.parent:
            _follow(args.parent)
        mirror = mirror_files.at(args.address, args.run)
        ended = _do(mirror, args)
        tags = mirror.complete()
    except Gone as error:
        return {"gone": str(error)}
    except mirror_owner.ForeignError as error:
        return {"foreign": str(error), "failed": str(error), "lasting": True}
    except Exception as error:  # of any backend
        return {"failed": mirror_files.reason(error), "lasting": mirror_files.lasting(error)}
    return {"bytes": 0, **ended, "seconds": time.monotonic() - began, "tags": tags}


def _do(mirror: Mirror, args: argparse.Namespace) -> dict[str, Any]:
    """What is done, as the last line tells it."""

    def say(text: str) -> None:
        _tell(say=text)

    if args.what == "list":
        there = {name.split("/")[0] for name in mirror.files()} - set(mirror.complete())
        return {"done": None, "unfinished": sorted(t for t in there if checkpoint_folder.step_of(t) >= 0)}
    if args.what == "verify":
        return {"done": args.tag, "damage": damage(mirror, args.tag, say)}
    if args.what == "fetch":
        try:
            fetch(mirror, args.folder, args.tag, say)
        except ValueError as error:
            return {"damaged": str(error)}
        with contextlib.suppress(ValueError):  # of an older launcher
            fetch(mirror, args.folder, checkpoint_folder.MODEL, say)
        shutil.rmtree(args.folder / RESTORING, ignore_errors=True)
        return {"done": args.tag}
    if args.what == "pull":
        probe(mirror)
    identity = mirror_owner.claim(mirror, args.identity, args.owner)
    if args.what == "push":
        sent = push(mirror, args.folder / args.tag, args.keep)
        return {"done": args.tag, "bytes": sent, "identity": identity}
    return {"done": pull(mirror, args.folder, args.above, say), "identity": identity}


def _follow(parent: int) -> None:
    """End with the rank that started this process, and not by the signals that a scheduler sends to all."""
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    os.nice(10)  # training goes first
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)


def _tell(**line: Any) -> None:
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    _tell(**run(sys.argv[1:]))
