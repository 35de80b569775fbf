"""The checkpoints of a run at its mirror: those that are there alone, read, and brought to this machine.

What is there by the last look of the run's ranks is checkpoints.py's. Here the mirror itself is asked, by the program
that uploads too (docker/workloads/mirror.py); credentials are this process's environment.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher import ROOT, entry
from launcher.errors import LauncherError, PlanError, RunNotFoundError, ToolMissingError
from launcher.runs import checkpoints, record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from launcher.runs.checkpoints import Mirror, Saved
    from launcher.runs.record import Run


def alone(run: Run, found: Sequence[Saved]) -> list[Saved]:
    """Those that the mirror has and the run's folder, which has `found`, has not, by the ranks' last look."""
    there, kept = checkpoints.mirror(run), entry.module("workloads.checkpoint_folder")
    here = {saved.tag for saved in found}
    return [
        checkpoints.Saved(
            run=run.id,
            tag=tag,
            folder=run.folder / kept.FOLDER / tag,
            state="complete",
            step=kept.step_of(tag),
            bytes=0,
            written=0.0,
            mirrored=True,
            alone=True,
        )
        for tag in (there.tags if there else ())
        if tag not in here and kept.step_of(tag) >= 0
    ]


def verify(run: Run, saved: Saved, reading: Callable[[str], None]) -> Saved:
    """The same after each byte at the mirror was read. Raises PlanError where it cannot be read."""
    reading(f"{saved.tag} at the mirror")
    reasons = _ask(run, "verify", f"--tag={saved.tag}")["damage"]
    return saved._replace(state="damaged", reason="; ".join(reasons)) if reasons else saved


@contextlib.contextmanager
def nearest(
    run: Run, step: int | None, beside: Path, say: Callable[[str], None]
) -> Iterator[tuple[str, Path]]:
    """(tag, folder) of the complete checkpoint of a step, or the newest: the run folder's, else the mirror's.

    The mirror's is fetched to a new folder in `beside`, compared with its digests, and removed when the context ends.
    Raises RunNotFoundError where there is none, PlanError where the mirror cannot be read.
    """
    try:
        saved = checkpoints.choose(run, step)
    except RunNotFoundError:
        if checkpoints.mirror(run) is None:
            raise
    else:
        yield saved.tag, saved.folder
        return
    tag = _choose(run, step)
    with tempfile.TemporaryDirectory(prefix=".from-mirror-", dir=beside) as folder:
        _ask(run, "fetch", f"--folder={folder}", f"--tag={tag}", say=say)
        yield tag, Path(folder) / tag


def _choose(run: Run, step: int | None) -> str:
    """The tag that the mirror has of a step, or of the newest. Raises RunNotFoundError."""
    kept, told = entry.module("workloads.checkpoint_folder"), _ask(run, "list")
    for tag in told["tags"]:
        if step in (None, kept.step_of(tag)):
            return str(tag)
    half = [tag for tag in told["unfinished"] if step in (None, kept.step_of(tag))]
    which = "complete checkpoint" if step is None else f"complete checkpoint of step {step}"
    raise RunNotFoundError(
        f"{run.id} has no {which} in {run.folder} or at the mirror {_mirror(run).address}"
        + (f", where the upload of {', '.join(half)} was not finished" if half else ""),
        hint=f"there are those of steps {', '.join(str(kept.step_of(tag)) for tag in told['tags'])}"
        if told["tags"]
        else "the run uploads what it has when it is started again: `python -m launcher resume RUN`",
    )


def _mirror(run: Run) -> Mirror:
    there = checkpoints.mirror(run)
    assert there is not None
    return there


def _ask(run: Run, *words: str, say: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """What mirror.py tells at its end. Raises PlanError for what failed, and ToolMissingError without a package."""
    address = _mirror(run).address
    package = entry.module("workloads.keeping").PACKAGES.get(address.partition("://")[0])
    needed = [name for name in ("fsspec", "xxhash", package) if name]
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        what = f"reading the mirror {address} needs {', '.join(missing)}"
        raise ToolMissingError(what, hint=f"`pip install {' '.join(missing)}`, or run it where they are")
    what, *more = words
    process = subprocess.Popen(
        [sys.executable, "-m", "workloads.mirror", what, address, f"--run={run.folder.name}", *more],
        env={**os.environ, "PYTHONPATH": str(ROOT / "docker")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    told: dict[str, Any] = {}
    assert process.stdout is not None
    for line in process.stdout:
        with contextlib.suppress(ValueError):
            told = json.loads(line)
            if text := told.get("say"):
                say(text)
    code = process.wait()
    if "done" in told:
        return told
    if "damaged" in told:
        hint = f"`python -m launcher checkpoints {run.id}` lists others, for --step"
        raise PlanError(f"what is at the mirror {address} is damaged: {told['damaged']}", hint=hint)
    cause = told.get("failed") or f"its process ended with {code}"
    if told.get("lasting"):
        raise PlanError(f"the mirror {address} cannot be read: {cause}", hint=_credentials(run))
    raise PlanError(f"the mirror {address} does not answer: {cause}", hint="try again later")


def _credentials(run: Run) -> str:
    """What to do where a mirror refuses: the job's secrets are not this process's."""
    with contextlib.suppress(LauncherError, KeyError, TypeError, AttributeError):
        secrets = [str(one["variable"]) for one in record.read_json(run.folder / "plan.json")["secrets"]]
        if secrets:
            return f"this shell needs credentials too: the job's are in {', '.join(secrets)}"
    return "this shell needs credentials that may read there, in the variables that s3fs or gcsfs reads"
