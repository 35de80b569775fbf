"""A shell beside a rank of a running run: the command that becomes it.

Owns which runs have one; the command is the scheduler's.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from launcher import schedulers
from launcher.errors import SubmitError, ToolMissingError
from launcher.runs import logs
from launcher.runs.status import ENDED
from launcher.submission import rerun

if TYPE_CHECKING:
    from launcher.runs.record import Run
    from launcher.runs.status import Selection


def words(run: Run, selection: Selection, terminal: bool) -> list[str]:
    """The command of a shell with the environment of the rank or host that is asked for.

    Raises SubmitError for a run that does not run, RunNotFoundError without such a rank or host, ToolMissingError
    without the scheduler's program.
    """
    if selection.rank is not None:
        logs.require_rank(run, selection.rank, run.nodes)
    now = schedulers.statuses([run])[0]
    if now.state != "RUNNING":
        ended = now.state in ENDED
        what = f"{run.id} has ended" if ended else f"{run.id} is {now.state.lower()}"
        reason = f": {now.reason}" if now.reason and not ended else ""
        hint = "`rerun` runs the same once more" if ended else "a shell needs ranks that run"
        raise SubmitError(f"{what}{reason}", hint=hint)
    plan = rerun.plan_of(run)._replace(id=run.id)  # its own folder, not that of the plan's first run
    command = schedulers.shell(run, plan, selection, terminal)
    if not shutil.which(command[0]):
        raise ToolMissingError(
            f"{command[0]} is not on this machine's PATH", hint="run it where jobs are submitted"
        )
    return command
