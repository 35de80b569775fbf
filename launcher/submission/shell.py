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


class EndedError(SubmitError):
    """The run has no ranks any more."""


# The line before an answer to a script: a site's TaskProlog may print lines of its own where a step starts.
MARK = "launcher: the answer"


def words(run: Run, selection: Selection, terminal: bool) -> list[str]:
    """The command of a shell with the environment of the rank or host that is asked for.

    Raises EndedError for a run that has ended, SubmitError for one that does not run, RunNotFoundError without such a
    rank or host, ToolMissingError without the scheduler's program.
    """
    if selection.rank is not None:
        logs.require_rank(run, selection.rank, logs.hosts(run))
    now = schedulers.statuses([run])[0]
    if now.state != "RUNNING":
        if now.state in ENDED:
            raise EndedError(f"{run.id} has ended", hint="`rerun` runs the same once more")
        reason = f": {now.reason}" if now.reason else ""
        raise SubmitError(f"{run.id} is {now.state.lower()}{reason}", hint="a shell needs ranks that run")
    plan = rerun.plan_of(run)._replace(id=run.id)  # its own folder, not that of the plan's first run
    command = schedulers.shell(run, plan, selection, terminal)
    if not shutil.which(command[0]):
        raise ToolMissingError(
            f"{command[0]} is not on this machine's PATH", hint="run it where jobs are submitted"
        )
    return command
