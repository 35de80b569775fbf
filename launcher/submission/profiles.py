"""Profiles of a running run's ranks, asked of its node entries from inside the job, as stacks.py asks for stacks.

Owns the question, the wait and the way of traces to this machine's run folder; who answers is docker/profiling.py.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
import threading
import uuid
from typing import TYPE_CHECKING, Any, NamedTuple

from launcher import atomic, units
from launcher.errors import PlanError, Problem, SubmitError
from launcher.runs import logs, profiles
from launcher.runs.status import Selection
from launcher.schedulers import child
from launcher.submission import rerun, shell

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from launcher.runs.record import Run

NSYS = "nsys"
_SPARE = 180.0  # seconds beside the limit, for Slurm to start a step and for hosts to hear
_BLOCK = 2**20
_LONGEST = 4096  # characters of a line
_BEFORE = 1000  # lines of a site's own, before a trace
_MOST = 2**28  # characters of an answer: of ten thousands of ranks
_SCRIPT = """told=${{LAUNCHER_HEARTBEAT:-}}
if ! [ -d "$told" ]; then echo "rank 0's host has no folder of records" >&2; exit 1; fi
id=$told/{id}
printf '%s' '{wish}' >"$id.draft" && mv "$id.draft" "$id.ask" || exit 1
tries=0 last=
while [ -d "$told" ] && ! [ -s "$id.answer" ]; do
  now=$(cat "$id.said" 2>/dev/null)
  if [ "$now" != "$last" ]; then last=$now; printf '%s\\n' "$now"; fi
  tries=$((tries + 1))
  if [ -z "$last" ] && [ "$tries" -gt 240 ]; then
    rm -f "$id.ask"; echo "it does not answer; an older launcher's runs have no profiles" >&2; exit 1
  fi
  sleep 0.25
done
if ! [ -d "$told" ]; then echo "the run ended before" >&2; exit 1; fi
echo '{mark}'; cat "$id.answer"; rm -f "$id.answer" "$id.said"
exit
"""


class Wish(NamedTuple):
    """`limit`: seconds without a step after which it is given up. `tool`: torch or nsys."""

    ranks: tuple[int, ...]
    steps: int
    limit: float
    tool: str = "torch"


def take(run: Run, wish: Wish, told: Callable[[str], None]) -> dict[str, Any]:
    """What `profiles/<name>/profile.json` has: docker/profiling.py. The traces lie beside it in the run folder here.

    `told` gets a line whenever the profile is further. A rank without a trace has an `error`.
    Raises RunNotFoundError for a rank that there is not, PlanError for a run that has ended, one whose ranks cannot be
    profiled or are not under nsys, or is profiled already, SubmitError where it does not run yet, or its node entries
    do not answer.
    """
    for rank in wish.ranks:
        logs.require_rank(run, rank, logs.hosts(run))
    try:
        words = shell.words(run, Selection(rank=0), terminal=False)
    except shell.EndedError:
        raise PlanError(f"{run.id} has ended: it has no ranks to profile", hint=_earlier(run)) from None
    if wish.tool == NSYS and not rerun.plan_of(run).job.profile.nsys:
        what = f"{run.id} was not started under nsys, which attaches to no process that runs"
        hint = (
            "submit it with --set profile.nsys=true; `profile` without --tool nsys takes torch's profiler now"
        )
        raise PlanError(what, hint=hint)
    script = _SCRIPT.format(
        id=f"profile-{uuid.uuid4().hex}", wish=json.dumps(wish._asdict()), mark=shell.MARK
    )
    found = _answer(run, words, script, limit=wish.limit + _SPARE, told=told)
    if "error" in found:
        raise PlanError(f"{run.id}: {found['error']}")
    if all("error" in rank for rank in found["ranks"]):
        raise PlanError(*(Problem(problem(run, rank)) for rank in found["ranks"]))
    folder = profiles.keep(run.folder, found)
    for rank in found["ranks"]:
        if "error" not in rank and not (folder / rank["file"]).exists():
            told(f"the trace of rank {rank['rank']} comes from {rank['host']}")
            _fetch(run, rank, folder)
    return found


def problem(run: Run, rank: dict[str, Any]) -> str:
    """Why a rank has no trace."""
    return f"{run.id}: rank {rank['rank']} on {rank['host']}: {units.printable(rank['error'])}"


def _earlier(run: Run) -> str:
    kept = profiles.newest(run.folder)
    return f"those taken while it ran are in {kept}" if kept else "none were taken while it ran"


def _answer(
    run: Run, words: list[str], script: str, *, limit: float, told: Callable[[str], None]
) -> dict[str, Any]:
    """What the node entry answers to `script`, which the shell `words` runs; `limit`: seconds between two lines."""
    with tempfile.TemporaryFile() as complaints:
        try:
            asking = subprocess.Popen(
                words,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=complaints,
                encoding="utf-8",
                errors="replace",
            )
        except OSError as error:
            raise SubmitError(f"{words[0]} did not start: {error.strerror}") from None
        with asking, contextlib.ExitStack() as last:
            last.callback(asking.kill)
            assert asking.stdin
            assert asking.stdout
            with contextlib.suppress(BrokenPipeError):
                asking.stdin.write(script)
                asking.stdin.close()
            answer = _read(asking, limit, told)
        complaints.seek(0)
        said = complaints.read().decode("utf-8", "replace").strip().splitlines()
    try:
        return profiles.checked(json.loads(answer))
    except (ValueError, RecursionError):
        why = said[-1] if said else "it said nothing"
        hint = f"`python -m launcher status {run.id}` says how it is"
        raise SubmitError(f"the node entry of {run.id} gave no profile: {why}", hint=hint) from None


def _read(asking: subprocess.Popen[str], limit: float, told: Callable[[str], None]) -> str:
    """The document after the mark; lines before it are `told`. Ends `asking` where none came within `limit`."""
    assert asking.stdout
    while True:
        patience = threading.Timer(limit, asking.kill)
        patience.daemon = True
        patience.start()
        line = asking.stdout.readline(_LONGEST)
        ends = not line or line.strip() == shell.MARK
        answer = asking.stdout.read(_MOST) if line and ends else ""
        patience.cancel()
        if ends:
            return answer
        if line.strip():
            told(units.printable(line.strip()))


def _fetch(run: Run, rank: dict[str, Any], folder: Path) -> None:
    """Bring a trace from a run folder that is not this machine's. What went wrong is the rank's `error`."""
    words = shell.words(run, Selection(rank=rank["rank"]), terminal=False)
    script = f'echo "{shell.MARK}"; exec cat "$RUN_DIR/{profiles.FOLDER}/{folder.name}/{rank["file"]}"\n'
    left = rank["bytes"]  # no more is taken
    try:
        whole = folder / rank["file"]
        with child.Child(words) as line, atomic.draft(whole) as draft, atomic.create(draft) as file:
            line.write(script.encode())
            for _ in range(_BEFORE):
                if line.readline(_LONGEST).strip() == shell.MARK.encode():
                    break
            while left and (block := line.read(min(left, _BLOCK))):
                file.write(block)
                left -= len(block)
            if left:
                raise SubmitError(line.finish() or "it was cut")
    except SubmitError as error:
        rank["error"] = f"its trace did not arrive: {error.problems[0].message}"
