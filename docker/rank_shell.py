"""A shell with the environment of a rank that runs on this host, in the folder that the rank works in.

    python rank_shell.py --folder RUN --rank N [--probe]

The environment is read from the live process, so that a secret is on no command line and in no file. Without a terminal
the shell reads its commands from stdin. `launcher shell` hands this text to the Python of the hosts or of the image
(`python3 -c`), so it needs the standard library alone and no file beside it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import socket
import sys
from pathlib import Path

PROC = Path("/proc")


def environment_of(pid: str) -> dict[str, str]:
    """The variables that process `pid` was started with; {} where they cannot be read."""
    try:
        entries = os.fsdecode((PROC / pid / "environ").read_bytes()).split("\0")
    except OSError:
        return {}
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)


def started(pid: str) -> int:
    """When process `pid` was started, in clock ticks: a rank is older than what it has started itself."""
    try:
        return int((PROC / pid / "stat").read_bytes().rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return sys.maxsize


def _starts(variables: dict[str, str], rank: int) -> bool:
    """Whether a process without a rank is, with one process a host, the one that starts this rank."""
    try:
        return int(variables["NODE_RANK"]) == rank // int(variables["NPROC_PER_NODE"])
    except (KeyError, ValueError, ZeroDivisionError):
        return False


def find(folder: str, rank: int) -> tuple[str, dict[str, str]] | None:
    """(pid, variables) of the rank of the run in `folder` ('': of any run); None where it does not run here."""
    ranks, launchers = [], []
    for pid in (name for name in os.listdir(PROC) if name.isdecimal()):  # noqa: PTH208 - names, not paths
        variables = environment_of(pid)
        mine = "RUN_DIR" in variables and folder in ("", variables["RUN_DIR"])
        if not mine or pid == str(os.getpid()):
            continue
        if variables.get("RANK") == str(rank):
            ranks.append((started(pid), int(pid), variables))
        elif "RANK" not in variables and _starts(variables, rank):
            launchers.append((started(pid), int(pid), variables))
    if not ranks and not launchers:
        return None
    _, oldest, variables = min(ranks or launchers, key=lambda entry: entry[:2])
    return str(oldest), variables


def become_shell(pid: str, rank: int, variables: dict[str, str]) -> None:
    """Replace this process by a shell with `variables`, in the working folder of process `pid`."""
    with contextlib.suppress(OSError):
        os.chdir(PROC / pid / "cwd")
        variables["PWD"] = str(Path.cwd())
    variables["TERM"] = os.environ.get("TERM", "dumb")
    variables["PS1"] = rf"[rank {rank} on \h] \w\$ "
    # a start file would put the user's own variables over those of the rank
    bash = shutil.which("bash")
    words = [bash, "--norc", "--noprofile"] if bash else ["/bin/sh"]
    print(f"rank {rank} on {socket.gethostname()}, process {pid}", file=sys.stderr, flush=True)
    os.execve(words[0], words, variables)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", default="")
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument(
        "--probe", action="store_true", help="only say by the exit code whether the rank is here"
    )
    args = parser.parse_args()
    found = find(args.folder, args.rank)
    if found is None:
        if not args.probe:
            where = f"rank {args.rank} does not run on {socket.gethostname()}"
            print(f"{where}: it has ended, or not started yet", file=sys.stderr)
        return 1
    if not args.probe:
        become_shell(found[0], args.rank, found[1])
    return 0


if __name__ == "__main__":
    sys.exit(main())
