"""What git says of a folder: the checkout that holds it, and which files belong to it.

Owns git's command lines. What git refuses to read is an error: without its ignore rules too much would travel.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from launcher.errors import PlanError, Problem

_SECONDS = 60  # that git may take


def top(folder: Path) -> Path | None:
    """The checkout that `folder` belongs to; None where there is none, or no git. Raises PlanError as `_git` does."""
    found = _git(folder, "rev-parse", "--show-toplevel")
    # `folder` may be an ignored one of somebody else's checkout, such as that of a home folder
    if not found or _git(folder, "check-ignore", "-q", ".") is not None:
        return None
    return Path(os.fsdecode(found.rstrip(b"\n")))


def files(root: Path) -> list[str]:
    """Tracked and new files below `root`, those of submodules and of repositories inside too."""
    words = ("ls-files", "-z", "--cached", "--others", "--exclude-standard")
    listed = _git(root, *words) or b""
    made: list[str] = []
    for entry in dict.fromkeys(filter(None, map(os.fsdecode, listed.split(b"\0")))):
        path = root / entry
        if path.is_dir() and not path.is_symlink():
            inner = files(path) if (path / ".git").exists() else []
            made += [f"{entry.rstrip('/')}/{name}" for name in inner]
        else:
            made.append(entry)
    return made


def _git(folder: Path, *words: str) -> bytes | None:
    """git's answer; None where it says no, `folder` is in no checkout, or there is no git.

    Raises PlanError where git does not read a checkout that is there, with its words.
    """
    env = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}  # of a hook that started us
    # a configuration of the checkout's own must not start programs here
    command = ["git", "-c", "core.fsmonitor=false", "-C", str(folder), *words]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_SECONDS, env={**env, "LC_ALL": "C"})
    except OSError:
        return None
    except subprocess.TimeoutExpired:
        raise _unreadable(folder, f"it took more than {_SECONDS} s") from None
    # 128: it could not even look; no repository is an answer all the same
    if done.returncode == 128 and b"not a git repository" not in done.stderr:
        said = done.stderr.decode("utf-8", "replace").strip().partition("\n")[0]
        raise _unreadable(folder, said.removeprefix("fatal: "))
    return done.stdout if done.returncode == 0 else None


def _unreadable(folder: Path, why: str) -> PlanError:
    hint = "let git read it, or write `code: none` and the workload's absolute path"
    return PlanError(
        Problem(f"git does not say what belongs to {folder}: {why}", hint, about=("job", "code"))
    )
