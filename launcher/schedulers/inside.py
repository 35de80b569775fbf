"""What is started beside a rank or a run folder under every scheduler: a shell, and the program that sends files.

Owns which host a shell is on, and both programs; how the host and the container are entered is each scheduler's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from launcher import ROOT
from launcher.errors import RunNotFoundError
from launcher.runs import logs

if TYPE_CHECKING:
    from launcher.runs.record import Run
    from launcher.runs.status import Selection

# The images that the launcher builds have their Python here, which is on no PATH of another one.
_PYTHON = """for python in /opt/venv/bin/python python3 python; do
  if command -v "$python" >/dev/null 2>&1; then exec "$python" "$@"; fi
done
echo "there is no Python in the image" >&2; exit 127"""


class Seat(NamedTuple):
    """A rank, and the host that it runs on."""

    rank: int
    host: str


def seat(run: Run, selection: Selection) -> Seat:
    """The rank and host that are asked for: of a host its first rank, without either rank 0.

    Raises RunNotFoundError when the run has no such rank or host, or has not started.
    """
    hosts = logs.host_names(run.folder)
    if not hosts:
        raise RunNotFoundError(
            f"{run.id} has no hosts yet", hint=f"`python -m launcher status {run.id}` says why"
        )
    if selection.host is not None:
        return Seat(logs.first_rank(run, selection.host, hosts), selection.host)
    rank = selection.rank or 0
    logs.require_rank(run, rank, len(hosts))
    return Seat(rank, hosts[rank // run.slots])


def program(folder: str, rank: int) -> list[str]:
    """Python's arguments for a shell beside `rank`. `folder`: the run folder as ranks see it, '' where they see one."""
    text = (ROOT / "docker" / "rank_shell.py").read_text(encoding="ascii")
    return ["-c", text, f"--folder={folder}", f"--rank={rank}"]


# Its text comes by stdin: as a word it would be part of an address, whose length proxies limit.
_FROM_STDIN = "import sys; exec(compile(sys.stdin.buffer.read(int(sys.argv.pop())), 'sender.py', 'exec'))"


def sender(folder: str, path: str) -> tuple[list[str], bytes]:
    """(Python's arguments for what sends files of `path` in `folder`, what it must get on stdin first)."""
    text = (ROOT / "docker" / "sender.py").read_bytes()
    return ["-c", _FROM_STDIN, folder, path, str(len(text))], text


def with_python(words: list[str]) -> list[str]:
    """`words` for whichever Python an image has."""
    return ["sh", "-c", _PYTHON, "sh", *words]
