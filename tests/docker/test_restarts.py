"""What is started again: the policy, and what node 0 leaves of it in the run folder."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import ending
import heartbeat
import pytest
import restarts
from restarts import Attempt

if TYPE_CHECKING:
    from pathlib import Path

FAILED, ABORTED = 1, 134


@pytest.mark.parametrize("code", sorted(code for code, kind in ending.RESTARTS.items() if kind == "never"))
def test_never(code: int) -> None:
    assert not restarts.again(Attempt(code, 0, 500, saved=True), None)[0]


@pytest.mark.parametrize("code", [ending.SAVED, ending.LOST])
def test_always(code: int) -> None:
    assert restarts.again(Attempt(code, 5, 5), Attempt(code, 5, 5))[0]


@pytest.mark.parametrize("code", [FAILED, ABORTED, ending.STALLED, 139])
def test_as_long_as_steps_advance(code: int) -> None:
    assert restarts.again(Attempt(code, 0, 10), None)[0]
    assert restarts.again(Attempt(code, 10, 11), Attempt(code, 0, 10))[0]
    assert restarts.again(Attempt(code, 5, 5, saved=True), Attempt(code, 0, 6))[0]


def test_a_failure_before_any_step_is_a_mistake_in_the_program() -> None:
    for now in (Attempt(FAILED), Attempt(FAILED, 0, 0), Attempt(2, 100, 100)):
        assert not restarts.again(now, None)[0]


@pytest.mark.parametrize("code", [ABORTED, ending.STALLED, ending.ABSENT, ending.NOT_STARTED])
def test_never_twice_without_a_step_in_between(code: int) -> None:
    first = Attempt(code, 5, 5)
    assert restarts.again(first, None)[0]
    assert restarts.again(first, Attempt(FAILED, 0, 5))[0]
    assert not restarts.again(first, first)[0]
    assert not restarts.again(Attempt(code), Attempt(code))[0]


def test_a_step_that_fails_always_is_not_cured() -> None:
    assert not restarts.again(Attempt(FAILED, 0, 300), Attempt(FAILED, 0, 300))[0]
    assert restarts.again(Attempt(ABORTED, 0, 300), Attempt(FAILED, 0, 300))[0]


def test_a_gpu_that_is_full_stays_so() -> None:
    assert not restarts.again(Attempt(FAILED, 0, 300), None, memory=True)[0]


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def decision(tmp_path: Path, said: list[str]) -> restarts.Decision:
    (tmp_path / "told").mkdir()
    (tmp_path / "logs").mkdir()
    return restarts.Decision(tmp_path, tmp_path / "told", "7-0", said.append)


def advance(decision: restarts.Decision, step: int) -> None:
    writer = heartbeat.Writer(heartbeat.path(decision.told, 0))
    writer.phase(heartbeat.FIRST, 100)
    writer.step(step)


def attempts(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / restarts.FILE).read_text().splitlines()]


def test_it_is_left_in_the_run_folder(decision: restarts.Decision, tmp_path: Path, said: list[str]) -> None:
    advance(decision, 103)
    assert decision.code(ending.Failure(FAILED, 2, "b"), wanted=True) == FAILED
    assert (tmp_path / "again-7-0").exists()
    (line,) = attempts(tmp_path)
    assert (line["code"], line["began"], line["step"], line["host"], line["again"]) == (
        1,
        100,
        103,
        "b",
        True,
    )
    assert said == []


def test_what_is_told_to_end_is_not_started_again(decision: restarts.Decision, tmp_path: Path) -> None:
    advance(decision, 103)
    for code, wanted in ((1, False), (143, True), (130, True)):
        assert decision.code(ending.Failure(code, 2, "b"), wanted) == code
    assert not (tmp_path / "again-7-0").exists()


def test_why_not_is_said(decision: restarts.Decision, tmp_path: Path, said: list[str]) -> None:
    decision.code(ending.Failure(FAILED, 2, "b"), wanted=True)
    assert said == ["a restart would not help: no step was done since it was started"]
    assert not (tmp_path / "again-7-0").exists()


def test_a_controller_that_knows_codes_alone_gets_one(decision: restarts.Decision) -> None:
    decision.by_code = True
    assert decision.code(ending.Failure(FAILED, 2, "b"), wanted=True) == ending.NOT_CURED
    assert decision.code(ending.Failure(64, 2, "b"), wanted=True) == 64
    assert decision.code(ending.Failure(143, 2, "b"), wanted=False) == 143
    advance(decision, 103)
    assert decision.code(ending.Failure(FAILED, 2, "b"), wanted=True) == FAILED


def test_the_log_of_the_rank_says_that_memory_was_full(decision: restarts.Decision, tmp_path: Path) -> None:
    advance(decision, 103)
    log = tmp_path / "logs" / "rank-2.log"
    log.write_text(
        "--- attempt 7-0\ntorch.OutOfMemoryError: CUDA out of memory.\n--- attempt 7-1\nan error\n"
    )
    decision.code(ending.Failure(FAILED, 2, "b"), wanted=True)
    log.write_text("--- attempt 7-0\n--- attempt 7-1\ntorch.OutOfMemoryError: CUDA out of memory.\n")
    decision.code(ending.Failure(139, 2, "b"), wanted=True)
    assert [line["again"] for line in attempts(tmp_path)] == [True, False]


def test_a_checkpoint_is_progress_for_a_program_that_tells_no_steps(
    decision: restarts.Decision, tmp_path: Path
) -> None:
    decision.began -= 60
    (tmp_path / "checkpoints" / "one").mkdir(parents=True)
    decision.code(ending.Failure(FAILED, 2, "b"), wanted=True)
    assert (tmp_path / "again-7-0").exists()


@pytest.mark.parametrize("text", ["", "{", "[]\n", '{"code": 1}\n', "null\n"])
def test_a_broken_history_is_none(decision: restarts.Decision, tmp_path: Path, text: str) -> None:
    (tmp_path / restarts.FILE).write_text(text)
    assert decision.code(ending.Failure(ABORTED, 2, "b"), wanted=True) == ABORTED
    assert (tmp_path / "again-7-0").exists()
