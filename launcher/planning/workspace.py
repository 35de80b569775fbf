"""What this machine tells a plan: paths, interpreter, and the tag of the image that holds docker/ as it is here.

Owns the look at the machine, so that everything after it can be pure.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from launcher import ROOT, __version__
from launcher.deepspeed import versions
from launcher.errors import SpecError, shown
from launcher.planning import interpreter
from launcher.planning.plan import Workspace

if TYPE_CHECKING:
    from launcher.planning.plan import Plan


def here() -> Workspace:
    """The Workspace of this machine. Runs go to $LAUNCHER_RUNS, or to ./runs."""
    return Workspace(str(ROOT), str(runs()), sys.executable, *revisions(), user=_user())


def runs() -> Path:
    """The absolute folder of run folders. Raises SpecError for `~name` of a user who is not here."""
    named = os.environ.get("LAUNCHER_RUNS") or "runs"
    try:
        return Path(named).expanduser().absolute()
    except RuntimeError:
        raise SpecError(f"LAUNCHER_RUNS {shown(named)} names a user who is not here") from None


def _user() -> str:
    """This process's user, as the machine knows it: variables may name another."""
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's user may have no name
        return str(os.getuid())


def deepspeed_note(plan: Plan) -> str:
    """What to say where the interpreter's DeepSpeed is another minor version than the job's keys are checked against.

    Read off the name of its folder in the environment; '' where there is none, or the files say a version.
    """
    if plan.cluster.deepspeed_version or plan.image_facts:
        return ""
    python = interpreter.of(plan)
    installed = sorted(Path(python).parent.parent.glob("lib/python3*/*-packages/deepspeed-*.dist-info"))
    version = installed[0].name.removeprefix("deepspeed-").removesuffix(".dist-info") if installed else ""
    if not versions.note(version):
        return ""
    checked = f"keys are checked against {versions.ours().version}"
    return (
        f"{python} has DeepSpeed {version}, and {checked}: for runs without a container write "
        f"`deepspeed_version: {version}` into the cluster file"
    )


def revisions() -> tuple[str, str]:
    """(the git hash of docker/, as `make image` tags it, the commit); (the version, '') without a git checkout.

    Uncommitted changes are in no image, and so not in the tag.
    """
    try:
        words = ["git", "-C", str(ROOT), "rev-parse", "HEAD:docker", "HEAD"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return __version__, ""
    if done.returncode:
        return __version__, ""
    tag, commit = done.stdout.split()
    return tag[:12], commit[:12]
