"""Plans and runs as pictures in files: a page of HTML that stands alone, PNG, SVG or PDF, by the file's suffix.

Owns the files: whole or not there, and never in place of something else; drawing.py draws.
"""

from __future__ import annotations

import html
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher import atomic, units
from launcher.errors import PlanError, Problem, RunNotFoundError, SpecError
from launcher.reports import curves, drawing, estimate, spending, tuning

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from launcher.planning.fit import Estimate
    from launcher.planning.plan import Plan
    from launcher.reports.curves import Curves
    from launcher.reports.life import Life
    from launcher.reports.spending import Use
    from launcher.reports.tuning import Row

    Runs = Sequence[tuple[Curves, Use | None, Life | None]]

# Suffix → what a file begins with that may be replaced: https://www.w3.org/TR/png-3/#5PNG-file-signature
STARTS = {".html": b"<!doctype html>", ".png": b"\x89PNG\r\n\x1a\n", ".svg": b"<?xml", ".pdf": b"%PDF-"}


def require(paths: Sequence[str]) -> None:
    """Raise what drawing into `paths` would raise whatever is drawn: SpecError, or ToolMissingError without matplotlib.

    For those who draw what is known only hours later.
    """
    for path in paths:
        _suffix(Path(path))
    drawing.require()


def draw_plan(plan: Plan, paths: Sequence[str]) -> Iterator[str]:
    """Draw the plan's memory into the files `paths`; yields those that were written.

    Raises PlanError where memory is not estimated, SpecError for a file that cannot be written, and ToolMissingError
    without matplotlib.
    """
    if plan.estimate is None:
        message = f"there is nothing to draw: the memory of workload {plan.job.workload!r} is not estimated"
        raise PlanError(Problem(message, about=("job", "workload"))).at(plan.places)
    return draw_estimate(plan.id, plan.estimate, paths)


def draw_estimate(name: str, fit: Estimate, paths: Sequence[str]) -> Iterator[str]:
    """Draw the memory of an estimate, which is called `name`; the rest as `draw_plan`."""
    machine = fit.machine
    where = f"{machine.hosts} × {machine.slots} {machine.gpu.name if machine.gpu else 'CPU ranks'}"
    title = units.printable(f"{name}: {fit.model.name} on {where}")
    text, groups = estimate.text(fit), estimate.groups(fit)
    return _written(paths, title, text, lambda: drawing.memory(title, groups))


def draw_trials(name: str, rows: Sequence[Row], paths: Sequence[str]) -> Iterator[str]:
    """Draw the step times of a tuning run's candidates; yields the files that were written.

    Raises RunNotFoundError where none was measured, and else as `draw_plan`.
    """
    times = [(row.name, row.step_seconds, row.result == tuning.BEST) for row in rows if row.step_seconds]
    if paths and not times:
        raise RunNotFoundError(f"there is nothing to draw: {name} has measured no candidate")
    title = units.printable(f"{name}: seconds of a step")
    return _written(paths, title, tuning.text(rows) if rows else "", lambda: drawing.times(title, times))


def draw_runs(runs: Runs, paths: Sequence[str]) -> Iterator[str]:
    """Draw what the runs measured and used into the files `paths`, of one run also when it did what.

    Yields those that were written.

    Raises RunNotFoundError where nothing is known that could be drawn, and else as `draw_plan`.
    """
    if not paths:
        return iter(())
    return _written(paths, *_of_runs(runs))


def page(runs: Runs, refresh: int) -> bytes:
    """The same as a page that a browser reads again every `refresh` seconds. Raises as `draw_runs`."""
    title, text, draw = _of_runs(runs)
    return _page(title, text, drawing.encoded(draw, ["svg"])["svg"].decode(), refresh)


def _of_runs(runs: Runs) -> tuple[str, str, Callable[[], Any]]:
    """Title, text and picture."""
    measured, uses = [run for run, *_ in runs], [use for _, use, _ in runs if use]
    title, names, charts = (
        " · ".join(run.name for run in measured),
        [r.name for r in measured],
        curves.charts(measured),
    )
    if not (charts or uses):
        which = (
            f"{', '.join(names)} measured no step with a loss or a speed" if names else "there is no run yet"
        )
        raise RunNotFoundError(f"there is nothing to draw: {which}")
    text = f"{curves.text(measured)}\n\n{curves.LEGEND}"
    if uses:
        text += f"\n\n{spending.text(uses)}"
    shares = [(use.name, spending.shares(use)) for use in uses]
    life = runs[0][2] if len(runs) == 1 else None
    return title, text, lambda: drawing.runs(title, names, charts, shares=shares, life=life)


def _written(paths: Sequence[str], title: str, text: str, draw: Callable[[], Any]) -> Iterator[str]:
    """Write the figure that `draw` makes into `paths`, once all of them are known to be possible."""
    suffixes = {path: _suffix(Path(path)) for path in paths}
    kinds = {"svg" if suffix == ".html" else suffix[1:] for suffix in suffixes.values()}
    pictures = drawing.encoded(draw, kinds) if kinds else {}
    for path, suffix in suffixes.items():
        page = suffix == ".html"
        _write(Path(path), _page(title, text, pictures["svg"].decode()) if page else pictures[suffix[1:]])
        yield path


def _suffix(path: Path) -> str:
    """The kind of picture. Raises SpecError for no known one, or for a file that exists and is no such picture."""
    suffix = path.suffix.lower()
    if suffix not in STARTS:
        hint = f"name a file that ends in {', '.join(STARTS)}"
        raise SpecError(f"--plot {str(path)!r}: the suffix says which kind of picture it is", hint=hint)
    if not path.parent.is_dir():
        raise SpecError(f"--plot {path}: there is no folder {path.parent}", hint="make it first")
    try:
        if path.is_file() and path.stat().st_size:
            with path.open("rb") as file:
                ours = file.read(len(STARTS[suffix])) == STARTS[suffix]
        else:
            ours = path.is_file() or not path.exists()
    except OSError as error:
        raise _unwritable(path, error) from None
    if not ours:
        message = f"--plot {path}: the file exists and is no picture"
        raise SpecError(message, hint="it is left as it is; name another one")
    return suffix


def _write(path: Path, content: bytes) -> None:
    try:
        if path.exists() and not path.is_file():  # a device or a pipe
            path.write_bytes(content)
        else:
            atomic.write(path, content)
    except OSError as error:
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: OSError) -> SpecError:
    return SpecError(f"--plot {path}: {error.strerror}", hint="name a file that can be written")


def _page(title: str, text: str, svg: str, refresh: int | None = None) -> bytes:
    """A page without scripts and without other files: the picture, and what the terminal says."""
    again = f'<meta http-equiv="refresh" content="{refresh}">' if refresh else ""
    drawing = svg[svg.index("<svg") :].replace(
        "<svg", f'<svg role="img" aria-label="{html.escape(title)}"', 1
    )
    page = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>
<meta name="viewport" content="width=device-width">{again}
<style>
body {{ font: 14px/1.5 system-ui, sans-serif; color: #222; background: #fff; margin: 2rem auto; max-width: 1100px;
  padding: 0 1rem; }}
svg {{ width: 100%; height: auto; }} pre {{ overflow-x: auto; }}
</style></head><body>
{drawing}<pre>{html.escape(text)}</pre></body></html>
"""
    return page.encode()
