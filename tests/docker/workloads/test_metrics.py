"""metrics.jsonl can be read at any moment, after any end, and by any JSON reader."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from workloads import metrics

if TYPE_CHECKING:
    from pathlib import Path


def step(number: int, **values: Any) -> dict[str, Any]:
    return {
        "step": number,
        "loss": 5.0 / number,
        "lr": 1e-3,
        "grad_norm": 1.0,
        "tokens_per_second": 1000.0 * number,
        "step_seconds": 0.1,
        "memory_bytes": 2**30,
        "tokens": 64 * number,
        "max_steps": 40,
        **values,
    }


def test_a_step_is_a_line_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = metrics.Log(tmp_path, writes=True)
    log.step(step(3, grad_norm=None))
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["loss"] == pytest.approx(5 / 3)
    assert capsys.readouterr().out == (
        "step  3/40  loss 1.6667  lr 1.00e-03  3,000 tokens/s  0.100 s/step  1.00 GiB\n"
    )


def test_other_ranks_write_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = metrics.Log(tmp_path, writes=False)
    log.step(step(1))
    log.event("end", 1, status="done")
    log.say("something")
    log.close()
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().out == ""


def test_numbers_that_json_has_no_word_for_are_null(tmp_path: Path) -> None:
    log = metrics.Log(tmp_path, writes=True)
    log.step(step(1, grad_norm=float("inf")))
    log.event("eval", 1, loss=float("nan"))
    text = (tmp_path / "metrics.jsonl").read_text()
    lines = [json.loads(line, parse_constant=lambda word: pytest.fail(word)) for line in text.splitlines()]
    assert lines[0]["grad_norm"] is None
    assert lines[1]["loss"] is None


def test_what_is_no_number_is_null_however_deep(tmp_path: Path) -> None:
    metrics.write_atomically(tmp_path / "a.json", {"a": {"b": [float("nan"), 1.5]}, "c": (float("inf"),)})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": {"b": [None, 1.5]}, "c": [None]}
    log = metrics.Log(tmp_path, writes=True)
    log.event("shares", 3, values=[float("nan"), 2.0])
    assert metrics.read(tmp_path)[0]["values"] == [None, 2.0]


def test_a_picture_that_cannot_be_written_ends_no_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """TensorBoard's writer raises at every figure once its disk was full for a moment."""

    class Broken:
        asked = 0

        def log(self, values: dict[str, float], step: int) -> None:
            self.asked += 1
            raise OSError("No space left on device")

        def close(self) -> None:
            raise AssertionError("it was given up")

    broken = Broken()
    log = metrics.Log(tmp_path, writes=True, sinks=(broken,))
    for step in (1, 2):
        log.event("eval", step, loss=1.0)
    log.close()
    assert broken.asked == 1
    assert capsys.readouterr().err == "Broken gets no more figures: No space left on device\n"
    assert len(metrics.read(tmp_path)) == 2


def test_a_killed_run_is_continued_on_a_new_line(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    metrics.Log(tmp_path, writes=True).step(step(2))
    assert [line["step"] for line in metrics.read(tmp_path)] == [1, 2]
    assert metrics.steps(tmp_path)[1]["loss"] == 2.5


def test_the_later_line_of_a_step_holds(tmp_path: Path) -> None:
    log = metrics.Log(tmp_path, writes=True)
    for attempt in (1, 2):
        log.event("start", 0, attempt=attempt)
        for number in range(1, 3 * attempt):
            log.step(step(number, loss=float(attempt)))
    assert metrics.attempts(tmp_path) == 2
    assert [(line["step"], line["loss"]) for line in metrics.steps(tmp_path)] == [
        (n, 2.0) for n in range(1, 6)
    ]


def test_a_summary_is_of_all_attempts(tmp_path: Path) -> None:
    assert metrics.summary(tmp_path)["steps"] == 0
    log = metrics.Log(tmp_path, writes=True)
    for number in range(1, 31):
        log.step(step(number, loss=float(number)))
    assert metrics.summary(tmp_path) == {
        "steps": 30,
        "loss_first": 1.0,
        "loss_last": 25.5,
        "tokens": 64 * 30,
        "tokens_per_second": 15500.0,
    }


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    target = tmp_path / "summary.json"
    metrics.write_atomically(target, {"loss": float("nan"), "steps": 1})
    with pytest.raises(TypeError):
        metrics.write_atomically(target, {"steps": object()})
    assert json.loads(target.read_text()) == {"loss": None, "steps": 1}
