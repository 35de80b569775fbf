"""The stacks of a running run's ranks, asked of its node entries from inside the job.

Owns the question: a file beside the records of rank 0's host, which the node entry there finds (docker/watch.py). It is
put there by a shell beside rank 0, so every scheduler that has such a shell has stacks.
"""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

from launcher.errors import PlanError, SubmitError
from launcher.runs import hangs
from launcher.runs.status import Selection
from launcher.submission import shell

if TYPE_CHECKING:
    from launcher.runs.record import Run

_SECONDS = 120  # for Slurm to start a step too; the hosts have twenty to answer
_SCRIPT = f"""told=${{LAUNCHER_HEARTBEAT:-}}
if ! [ -d "$told" ]; then echo "rank 0's host has no folder of records" >&2; exit 1; fi
rm -f "$told/answer" && : >"$told/asked" || exit 1
tries=0
while ! [ -s "$told/answer" ] && [ "$tries" -lt 450 ]; do sleep 0.1; tries=$((tries + 1)); done
echo '{shell.MARK}'; cat "$told/answer"
exit
"""


def take(run: Run) -> dict[str, Any]:
    """What `stacks/<name>/verdict.json` has: docker/hang.py. It is left in the run folder here too.

    Raises PlanError for a run that has ended, SubmitError where it does not run yet, or its node entries do not answer.
    """
    try:
        words = shell.words(run, Selection(rank=0), terminal=False)
    except shell.EndedError:
        kept = hangs.newest(run.folder)
        where = f"those taken when it hung are in {kept[0]}" if kept else "none were taken while it ran"
        raise PlanError(f"{run.id} has ended: it has no ranks to ask", hint=where) from None
    try:
        done = subprocess.run(
            words, input=_SCRIPT, capture_output=True, text=True, errors="replace", timeout=_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise SubmitError(f"{words[0]} did not answer within {_SECONDS} s") from None
    except OSError as error:
        raise SubmitError(f"{words[0]} did not start: {error.strerror}") from None
    try:
        found: dict[str, Any] = json.loads(done.stdout.rpartition(f"{shell.MARK}\n")[2])
    except ValueError:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        hint = (
            f"`python -m launcher shell {run.id}` leads to the host; an older launcher's runs have no stacks"
        )
        raise SubmitError(f"the node entry of {run.id} gave no stacks: {said}", hint=hint) from None
    hangs.keep(run.folder, found)
    return found
