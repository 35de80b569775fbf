"""A shell beside a rank on this machine, or in the container that has the rank.

Owns how that container is found: by the label that containers.py gives it, and by looking for the rank inside.
"""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

from launcher.errors import SubmitError, ToolMissingError
from launcher.rendering import containers
from launcher.schedulers import inside

if TYPE_CHECKING:
    from launcher.planning.plan import Plan
    from launcher.runs.record import Run
    from launcher.runs.status import Selection

_SECONDS = 60  # for an engine to look into its containers


def words(run: Run, plan: Plan, selection: Selection, terminal: bool) -> list[str]:
    """The command that becomes the shell. Raises SubmitError where no container has the rank."""
    seat, engine = inside.seat(run, selection), plan.cluster.local.container
    program = inside.program(str(run.folder), seat.rank)
    if not containers.inside(engine):
        return [plan.workspace.python, *program]
    if not shutil.which(engine):
        raise ToolMissingError(f"{engine} is not installed", hint="it was when the run was started")
    command = inside.with_python(program)
    _, listed = _called([engine, "ps", "--quiet", f"--filter=label={containers.LABEL}={run.id}"])
    for container in listed.split():
        if _called([engine, "exec", container, *command, "--probe"])[0] == 0:
            return [engine, "exec", "-i", *(["-t"] if terminal else []), container, *command]
    raise SubmitError(
        f"no container of {run.id} has rank {seat.rank}", hint="it has ended, or has not started yet"
    )


def _called(command: list[str]) -> tuple[int, str]:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise SubmitError(f"{command[0]} {command[1]} did not answer within {_SECONDS} s") from None
    return done.returncode, done.stdout
