"""Plans and runs as pictures in files: a page of HTML that stands alone, or a PNG.

Owns the files: whole or not there, and never in place of something else; what is drawn is show_fit's and curves'.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from launcher.errors import PlanError, Problem, SpecError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from launcher.planning.plan import Plan
    from launcher.reports.curves import Curves

# What a file begins with that these may replace: https://www.w3.org/TR/png-3/#5PNG-file-signature
_HTML, _PNG = b"<!doctype html>", b"\x89PNG\r\n\x1a\n"


def of_plan(plan: Plan, html: str | None, png: str | None) -> Iterator[str]:
    """Draw the plan's memory into the files that are named; the paths that were written.

    Raises PlanError where memory is not estimated, SpecError for a file that cannot be written, and ToolMissingError
    for a PNG without matplotlib.
    """
    if plan.estimate is None:
        what = f"there is nothing to draw: the memory of workload {plan.job.workload!r} is not estimated"
        raise PlanError(Problem(what, about=("job", "workload"))).at(plan.places)
    from launcher.reports import estimate

    title = f"{plan.id}: {plan.estimate.model.name} on {plan.nodes} × {plan.slots} {plan.cluster.gpu or 'CPU ranks'}"
    if html:
        yield _write("--html", html, _HTML, estimate.html(plan.estimate, title).encode())
    if png:
        from launcher.reports import png as drawing

        yield _write(
            "--png", png, _PNG, drawing.stacked(title, estimate.groups(plan.estimate), estimate.NOTE)
        )


def of_runs(runs: Sequence[Curves], html: str | None, png: str | None) -> Iterator[str]:
    """Draw what the runs measured into the files that are named; the paths that were written. Raises as `of_plan`."""
    from launcher.reports import curves

    if html:
        yield _write("--html", html, _HTML, curves.html(runs).encode())
    if png:
        from launcher.reports import png as drawing

        title = " · ".join(run.name for run in runs)
        yield _write("--png", png, _PNG, drawing.lines(title, curves.drawn(runs), [r.name for r in runs]))


def _write(option: str, path: str, start: bytes, content: bytes) -> str:
    """Write `content`, unless the file is one that does not begin with `start`: that is somebody's."""
    file = Path(path)
    try:
        if file.is_file() and file.stat().st_size:
            with file.open("rb") as there:
                if there.read(len(start)) != start:
                    what = f"{option} {path}: the file is there and is no picture"
                    raise SpecError(what, hint="it stays as it is; name another one")
        file.write_bytes(content)
    except OSError as error:
        what = f"{option} {path}: {error.strerror}"
        raise SpecError(what, hint="name a file that can be written") from None
    return path
