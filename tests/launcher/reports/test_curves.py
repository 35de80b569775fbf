"""The curves of runs: summed up, as JSON, and as the charts that are drawn."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.cli import main
from launcher.reports import comparison, curves

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
    assert [step.step for step in run.steps] == [1, 2, 3, 4, 5, 6]
    found = curves.summary(run)
    assert found["loss_first"] == 5
    assert found["loss_last"] == pytest.approx(sum(5 / n for n in range(1, 7)) / 6)
    assert (found["eval_loss"], found["tokens_per_second"], found["seconds"]) == (0.75, 1003.5, 5)
    assert found["reward_first"] is None


def test_a_run_without_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert curves.read("a", tmp_path) == curves.Curves("a", (), ())
    assert main.main(["report", f"{tmp_path}/"]) == 5
    assert f"{tmp_path.name} has no steps in" in capsys.readouterr().err


def test_charts_are_those_that_were_measured(tmp_path: Path) -> None:
    runs = [curves.read(n, write(tmp_path / n, 500, **m)) for n, m in (("one", {}), ("two", {"reward": 1.0}))]
    charts = {chart.title: chart for chart in curves.charts(runs)}
    assert set(charts) == {"Training loss", "Throughput", "Peak memory of rank 0", "Learning rate", "Reward"}
    assert [len(line) for line in charts["Reward"].lines] == [0, len(charts["Training loss"].lines[0])]
    assert charts["Training loss"].dots == [((500, 0.75),), ((500, 0.75),)]
    assert charts["Reward"].dots == [(), ()]
    assert {y for _, y in charts["Peak memory of rank 0"].lines[0]} == {1.0}  # GB


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=900))
def test_thinned_lines_keep_their_ends_and_their_range(values: list[float]) -> None:
    points = [(float(n), value) for n, value in enumerate(values)]
    made = curves.thinned(points, 50)
    assert len(made) <= 50 or len(points) <= 50
    assert (made[0], made[-1]) == (points[0], points[-1])
    assert min(values) - 1e-9 <= min(y for _, y in made) <= max(y for _, y in made) <= max(values) + 1e-9
    assert math.isfinite(sum(y for _, y in made))


def test_the_verb(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAUNCHER_RUNS", str(tmp_path))
    one, two = write(tmp_path / "one", 6), write(tmp_path / "two", 12)
    assert main.main(["report", str(one), str(two)]) == 0
    head, first, second, *_ = capsys.readouterr().out.splitlines()
    assert head.split()[:2] == ["RUN", "STEPS"]
    assert first.split()[:3] == ["one", "6", "5.0000"]
    assert second.split()[:2] == ["two", "12"]
    assert main.main(["report", str(one), "--json"]) == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert record["points"]["loss"][0] == [1, 5.0]
    assert main.main(["report", "nothing"]) == 5
    assert "nothing" in capsys.readouterr().err


def test_steps_that_a_resumed_run_took_back_are_its_own_no_more(tmp_path: Path) -> None:
    """It went on from step 2, and has done one since: those of the attempt before lie ahead of it."""
    write(tmp_path, 6)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write("\n" + json.dumps({"event": "start", "step": 2}) + "\n")
    assert curves.read("a", tmp_path).steps[-1].step == 6, "it has done none yet"
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 3, "loss": 9.0}) + "\n")
    run = curves.read("a", tmp_path)
    assert [step.step for step in run.steps] == [1, 2, 3]
    assert (run.values("loss")[-1], run.evaluations) == (9.0, ())
    assert comparison.losses(tmp_path) == {1: 5.0, 2: 2.5, 3: 9.0}


def test_a_run_that_is_named_twice_counts_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a", 6)
    assert main.main(["report", "./a", f"{tmp_path}/a", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 1


def test_a_run_of_a_sweep_that_has_not_begun_keeps_no_other_from_being_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAUNCHER_RUNS", str(tmp_path))
    write(tmp_path / "a", 6)
    runs = [{"run": name, "settings": [f"args.lr={name}"]} for name in ("b", "a")]
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "sweep.json").write_text(json.dumps({"runs": runs}))
    assert main.main(["report", "sweep", f"{tmp_path}/a", "--json"]) == 0
    assert [run["steps"] for run in json.loads(capsys.readouterr().out)] == [None, 6]
    (tmp_path / "a" / "metrics.jsonl").unlink()
    assert main.main(["report", "sweep", f"{tmp_path}/a"]) == 5
    assert "b has no steps" in capsys.readouterr().err
