"""Says what is in a folder and sends files of it: python sender.py FOLDER PATH

`launcher fetch` has a Python that sees the run folder read this text from stdin, in a pod or on this machine, so it
needs the standard library alone and no file beside it. A line of JSON comes out, then one for each that comes in:

    at the start            what PATH is ("folder", "file" or ""), its entries (path, size, the target of a link),
                            what is neither a file nor a link, and what stands beside PATH
    {"digest": [path, …]}   the SHA-256 of each
    {"send": [path, …]}     no line but a tar stream of these files, each called by its place in the list, and the end

Empty lines mean that it is still reading.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import sys
import tarfile
from pathlib import Path
from typing import Any, BinaryIO

BLOCK = 2**20
QUIET = 64  # blocks without a line
MOST = 40  # names of what stands beside


def say(answer: Any = None) -> None:
    """A line; an empty one without `answer`."""
    text = "" if answer is None else json.dumps(answer)
    sys.stdout.buffer.write(text.encode("ascii") + b"\n")
    sys.stdout.buffer.flush()


def found(home: Path, path: str) -> tuple[Path, dict[str, Any]]:
    """(the folder that entries are relative to, what is said at the start). What is outside of `home` is not there."""
    root, said = (home / path).resolve(), {"kind": "", "entries": [], "odd": [], "beside": []}
    with contextlib.suppress(OSError):
        said["beside"] = sorted(entry.name for entry in home.iterdir())[:MOST]
    if not root.is_relative_to(home):
        return home, said
    with contextlib.suppress(OSError):
        status = root.stat()
        if stat.S_ISREG(status.st_mode):
            return root.parent, {**said, "kind": "file", "entries": [[root.name, status.st_size, None]]}
        if stat.S_ISDIR(status.st_mode):
            entries, odd = list[Any](), list[str]()
            walk(root, root, entries, odd)
            return root, {**said, "kind": "folder", "entries": entries, "odd": odd}
    return root, said


def walk(root: Path, folder: Path, entries: list[Any], odd: list[str]) -> None:
    try:
        inside = sorted(folder.iterdir())
    except OSError:
        odd.append(str(folder.relative_to(root)))
        return
    for path in inside:
        name = str(path.relative_to(root))
        with contextlib.suppress(FileNotFoundError):  # deleted meanwhile, as old checkpoints are
            status = path.lstat()
            if stat.S_ISLNK(status.st_mode):
                entries.append([name, 0, str(path.readlink())])
            elif stat.S_ISDIR(status.st_mode):
                walk(root, path, entries, odd)
            elif stat.S_ISREG(status.st_mode):
                entries.append([name, status.st_size, None])
            else:
                odd.append(name)


def opened(path: Path) -> BinaryIO:
    # a link that has taken the file's place meanwhile is not followed
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb")


def digest(path: Path) -> str:
    """Of a file; '' where it cannot be read."""
    read, blocks = hashlib.sha256(), 0
    try:
        with opened(path) as file:
            while block := file.read(BLOCK):
                read.update(block)
                blocks += 1
                if blocks % QUIET == 0:
                    say()
    except OSError:
        return ""
    return read.hexdigest()


def send(root: Path, paths: list[str]) -> None:
    """Raises OSError for a file that cannot be read; one that is gone is left out."""
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|", bufsize=BLOCK, format=tarfile.PAX_FORMAT) as tar:
        for number, path in enumerate(paths):
            with contextlib.suppress(FileNotFoundError), opened(root / path) as file:
                status, member = os.fstat(file.fileno()), tarfile.TarInfo(str(number))
                member.size, member.mode = status.st_size, status.st_mode & 0o777
                member.mtime = status.st_mtime
                tar.addfile(member, file)
    sys.stdout.buffer.flush()


def main(folder: str, path: str) -> int:
    root, said = found(Path(folder).resolve(), path)
    say(said)
    for line in sys.stdin.buffer:
        asked = json.loads(line)
        if "send" in asked:
            send(root, asked["send"])
            break
        say({name: digest(root / name) for name in asked["digest"]})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
