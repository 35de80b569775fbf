"""What this machine can tell of a job before it is submitted: a command, a Python or a mirror that is not there.

Owns the look; on hosts that are not this machine the node entry looks again (docker/program.py, docker/interpreter.py).
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from launcher import entry, workloads
from launcher.deepspeed import config
from launcher.errors import Problem, shown
from launcher.files import paths
from launcher.planning import tiers, visible

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.planning.plan import Plan

_TEXTS = ("data", "ptx-data")  # options whose words are files, where they are no data sets of the hub


def problems(plan: Plan, scheduler: str) -> Iterator[Problem]:
    """What ranks would not find; nothing where they see other files than this machine's."""
    if scheduler == "local":
        yield from secrets(plan, scheduler)
        yield from _files(plan)
    if plan.runtime(scheduler) != "none":
        if _travels(plan):
            yield from _file(plan)
        if plan.runtime(scheduler) in visible.SEALED:
            yield from visible.problems(plan, scheduler)
        return
    if (mirror := tiers.folder(plan)) and (scheduler == "local" or _shared(mirror, plan)):
        yield from _unwritable(Path(mirror))
    path = os.environ.get("PATH", os.defpath)
    if plan.cluster.python and (scheduler == "local" or _shared(plan.cluster.python, plan)):
        python = entry.module("interpreter")
        try:
            path = python.resolve(plan.cluster.python, os.environ).environment(os.environ)["PATH"]
        except entry.module("ending").Stop as stop:
            yield Problem(str(stop).replace("on this host", "here"), "check it", about=("cluster", "python"))
            return
    elif scheduler == "local":
        path = f"{Path(plan.workspace.python).parent}{os.pathsep}{path}"
    if plan.job.profile.nsys and scheduler == "local" and (why := entry.module("nsys").missing(path)):
        yield Problem(why, about=("job", "profile", "nsys"))
    yield from _command(plan, scheduler, path)


def secrets(plan: Plan, scheduler: str) -> Iterator[Problem]:
    """Secrets of the job that are not in the scheduler's folder of them, as it is here."""
    own = plan.cluster.local if scheduler == "local" else plan.cluster.slurm
    folder = Path(own.secrets).expanduser()
    for secret in plan.secrets:
        file = folder / secret.name
        try:
            wrong = "" if file.stat().st_size else " is empty"
        except OSError:
            wrong = " is not there"
        if wrong:
            hint = f"write the value of {secret.variable} to it, mode 0600"
            yield Problem(
                f"secret {secret.name!r}: {file}{wrong}", hint, about=("cluster", scheduler, "secrets")
            )


def _command(plan: Plan, scheduler: str, path: str) -> Iterator[Problem]:
    words = plan.job.command
    if not words or "$" in words[0]:  # a name's value is known where it runs
        return
    word, about = words[0], ("job", "command", 0)
    if "/" not in word:
        # what hosts other than this one have on their PATH, modules and all, is not known here
        if scheduler == "local" and not shutil.which(word, path=path):
            what, hint = f"command: {shown(word)} is not on the PATH", "install it, or write its path"
            yield Problem(what, f"{hint}; `python:` of the cluster names another environment", about=about)
        return
    if scheduler == "local" or _travels(plan) or _shared(word, plan):
        yield from _file(plan)


def _files(plan: Plan) -> Iterator[Problem]:
    """What a workload of ours shall read and this machine has not, but for what another run may leave."""
    if workloads.is_script(plan.job.workload) or plan.runtime("local") != "none":
        return
    for about, path in paths.named(plan.job):
        texts = about[:3][-1] in _TEXTS and not path.startswith(("hf:", "{")) and path != "builtin"
        if (
            not (texts or path.startswith("/"))
            or about[-1] == "resume"
            or config.below(path, plan.workspace.runs)
        ):
            continue
        if not paths.is_here(Path(path)) and not paths.is_here(Path(f"{path}.idx")):  # Megatron's pair
            name = ".".join(str(key) for key in about[1:])
            yield Problem(f"{name}: {path!r} is not here", "check the path", about=about)


def _unwritable(mirror: Path) -> Iterator[Problem]:
    """A mirror's folder that cannot be made or written."""
    folder = mirror if mirror.exists() else mirror.parent
    what = f"checkpoint.mirror: {shown(str(folder))}"
    if not folder.exists():
        yield Problem(f"{what} does not exist", "make it, or name another folder", about=tiers.MIRROR)
    elif not folder.is_dir():
        yield Problem(f"{what} is no folder", "name a folder", about=tiers.MIRROR)
    elif not os.access(folder, os.W_OK | os.X_OK):
        hint = "look at its permissions, or name another folder"
        yield Problem(f"{what} cannot be written by you", hint, about=tiers.MIRROR)


def _travels(plan: Plan) -> bool:
    """Whether the command's program is in the code that the run takes along; code_files.py looked whether it is."""
    word = (plan.job.command or [""])[0]
    return plan.code is not None and "/" in word and "$" not in word and not word.startswith("/")


def _file(plan: Plan) -> Iterator[Problem]:
    word, about = (plan.job.command or [""])[0], ("job", "command", 0)
    file = Path(plan.code.root if plan.code else "", word)
    if not file.exists():
        yield Problem(f"command: {shown(word)} is not here", "check the path", about=about)
    elif file.is_dir():
        yield Problem(f"command: {shown(word)} is a folder", "name a program in it", about=about)
    elif not os.access(file, os.X_OK):
        hint = "chmod +x it, or start it by its interpreter: [python, FILE]"
        yield Problem(f"command: {shown(word)} cannot be executed", hint, about=about)


def _shared(named: str, plan: Plan) -> bool:
    """Whether a path lies on the file system of the run folders, which all hosts share.

    Of one that has no folder here but the root, such as /apps on a laptop, nothing is known.
    """
    try:
        path = Path(named).expanduser()
    except RuntimeError:  # `~name` of a user who is not here
        return False
    if not path.is_absolute():
        return False
    try:
        near = _nearest(path)
        return (
            near != Path(near.anchor)
            and near.stat().st_dev == _nearest(Path(plan.workspace.runs)).stat().st_dev
        )
    except OSError:
        return False


def _nearest(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    return next(p for p in (path, *path.parents) if p.exists())
