"""The curves of runs: summed up, for programs, and as a page that stands alone."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.cli import main
from launcher.errors import RunNotFoundError
from launcher.reports import charts, curves

if TYPE_CHECKING:
    from pathlib import Path


def write(folder: Path, steps: int, **more: float) -> Path:
    """A run folder with metrics: the loss falls from 5, step 3 comes twice, and the last line is cut off."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "metrics.jsonl").open("w") as file:
        for step in [1, 2, 3, *range(3, steps + 1)]:
            line = {
                "step": step,
                "loss": 5 / step,
                "lr": 1e-3,
                "tokens_per_second": 1000.0 + step,
                "grad_norm": None,
            }
            file.write(json.dumps({**line, "memory_bytes": 10**9, "time": 100.0 + step, **more}) + "\n")
        file.write(json.dumps({"event": "eval", "step": steps, "loss": 0.75, "time": 0}) + "\n")
        file.write('{"step": 99, "lo')
    return folder


def test_a_summary_counts_each_step_once(tmp_path: Path) -> None:
    run = curves.read("a", write(tmp_path / "a", 6))
    assert [step["step"] for step in run.steps] == [1, 2, 3, 4, 5, 6]
    found = curves.summary(run)
    assert found["loss_first"] == 5
    assert found["loss_last"] == pytest.approx(sum(5 / n for n in range(1, 7)) / 6)
    assert (found["eval_loss"], found["tokens_per_second"], found["seconds"]) == (0.75, 1003.5, 5)
    assert found["reward_first"] is None


def test_a_run_without_steps(tmp_path: Path) -> None:
    with pytest.raises(RunNotFoundError, match="a has no steps in"):
        curves.read("a", tmp_path)


def test_the_page_is_whole_and_needs_nothing_else(tmp_path: Path) -> None:
    runs = [
        curves.read(n, write(tmp_path / n, 500, **m)) for n, m in (("a<b>&", {}), ("two", {"reward": 1.0}))
    ]
    text = curves.html(runs)
    assert "a<b>" not in text
    assert not re.search(r"(src|href)=|<script|@import|url\(", text)
    titles = [title for key, title in curves.FIGURES.items() if key in ("loss", "lr", "reward")]
    for title in titles:
        assert f"<h2>{title}</h2>" in text
    assert "Norm of the gradient" not in text  # no run measured it
    for drawing in re.findall(r"<svg.*?</svg>", text, flags=re.S):
        tree = ElementTree.fromstring(drawing)
        lines = tree.findall("polyline")
        assert len(lines) == 2
        for place in re.findall(r"[\d.]+,[\d.]+", drawing):
            x, y = map(float, place.split(","))
            assert charts.LEFT <= x <= charts.WIDTH - charts.RIGHT
            assert charts.TOP <= y <= charts.HEIGHT - charts.BOTTOM


@given(st.floats(-1e9, 1e9), st.floats(-1e9, 1e9))
def test_ticks_hold_what_is_drawn(one: float, other: float) -> None:
    low, high = sorted((one, other))
    found = charts.ticks(low, high)
    span = found[-1] - found[0]
    assert span > 0
    assert 2 <= len(found) <= 8
    assert found[0] <= low + span * 1e-6
    assert found[-1] >= high - span * 1e-6


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=900))
def test_thinned_lines_keep_their_ends_and_their_range(values: list[float]) -> None:
    points = [(float(n), value) for n, value in enumerate(values)]
    made = charts.thinned(points, 50)
    assert len(made) <= 50 or len(points) <= 50
    assert (made[0], made[-1]) == (points[0], points[-1])
    assert min(values) - 1e-9 <= min(y for _, y in made) <= max(y for _, y in made) <= max(values) + 1e-9
    assert math.isfinite(sum(y for _, y in made))


def test_the_verb(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAUNCHER_RUNS", str(tmp_path))
    one, two = write(tmp_path / "one", 6), write(tmp_path / "two", 12)
    page = tmp_path / "page.html"
    assert main.main(["report", str(one), str(two), "--html", str(page)]) == 0
    out, err = capsys.readouterr()
    head, first, second = out.splitlines()
    assert head.split()[:2] == ["RUN", "STEPS"]
    assert first.split()[:3] == ["one", "6", "5.0000"]
    assert second.split()[:2] == ["two", "12"]
    assert str(page) in err
    assert page.read_text().startswith("<!doctype html>")
    assert main.main(["report", str(one), "--json"]) == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert record["points"]["loss"][0] == [1, 5.0]
    assert main.main(["report", "nothing"]) == 5
    assert "nothing" in capsys.readouterr().err
