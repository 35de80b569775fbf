"""Whether a rank is stuck: courses of runs on a clock of the test's own, with and without a hang."""

from __future__ import annotations

from dataclasses import dataclass, field

import heartbeat
import pace
import pytest
from heartbeat import Beat

MINUTE = 60.0


@dataclass
class Course:
    """A rank that is looked at every two seconds."""

    judged: pace.Pace = field(default_factory=pace.Pace)
    signs: pace.Signs = field(default_factory=pace.Signs)
    now: float = 0.0
    alarms: list[float] = field(default_factory=list)

    def rest(self, seconds: float) -> Course:
        """Nothing changes for so long."""
        end = self.now + seconds
        while self.now < end:
            self.judged.see(self.signs, self.now)
            if self.judged.overdue(self.now):
                self.alarms.append(self.now)
            self.now += 2.0
        return self

    def tell(self, step: int, phase: str | None, seconds: float) -> Course:
        beat = self.signs.beat
        new = Beat(step, phase=phase, beat=beat.beat + 1 if beat else 1)
        self.signs = pace.Signs(new, self.signs.output, self.signs.files)
        return self.rest(seconds)

    def write(self, seconds: float) -> Course:
        self.signs = pace.Signs(self.signs.beat, self.signs.output + 80, self.signs.files)
        return self.rest(seconds)

    def steps(self, count: int, seconds: float) -> Course:
        for step in range(1, count + 1):
            self.tell(step, heartbeat.STEP, seconds)
        return self


def trained() -> Course:
    """A run of twenty minutes with a slow start, a compilation, an evaluation and a checkpoint that takes long."""
    course = Course()
    course.rest(50 * MINUTE)  # imports and weights, before the first word
    course.tell(0, heartbeat.START, 55 * MINUTE).tell(0, heartbeat.FIRST, 55 * MINUTE)
    course.steps(20, 8.0)
    course.tell(20, heartbeat.EVALUATE, 50 * MINUTE).tell(20, heartbeat.STEP, 8.0)
    course.tell(20, heartbeat.CHECKPOINT, 50 * MINUTE).tell(20, heartbeat.STEP, 8.0)
    return course


def test_a_run_with_slow_phases_is_no_alarm() -> None:
    course = trained().steps(20, 8.0).tell(40, heartbeat.END, 50 * MINUTE)
    assert course.alarms == []


def test_steps_on_a_machine_under_load_are_no_alarm() -> None:
    """Each step takes up to nine times as long as the slowest before it."""
    course, seconds = Course(), 5.0
    for step in range(5):
        course.tell(step, heartbeat.STEP, seconds)
        seconds *= 9
    assert course.alarms == []


def test_long_steps_have_long_limits() -> None:
    course = Course().tell(0, heartbeat.FIRST, 40 * MINUTE).steps(30, 40 * MINUTE)
    assert course.rest(300 * MINUTE).alarms == []
    assert course.rest(120 * MINUTE).alarms


@pytest.mark.parametrize("phase", [heartbeat.START, heartbeat.FIRST])
def test_a_long_first_step_is_the_first_that_is_known(phase: str) -> None:
    course = Course().tell(0, phase, 15 * MINUTE).tell(1, heartbeat.STEP, 140 * MINUTE)
    assert course.alarms == []
    assert course.rest(15 * MINUTE).alarms


def test_a_step_that_does_not_end_is_one() -> None:
    course = trained()
    began = course.now
    course.steps(3, 8.0).rest(15 * MINUTE)
    assert 10 * MINUTE < course.alarms[0] - began < 11 * MINUTE


def test_output_is_no_sign_of_a_step_but_of_an_evaluation() -> None:
    course = Course().steps(3, 8.0)
    for _ in range(30):
        course.write(MINUTE)  # NCCL's watchdog says every minute that it waits
    assert course.alarms
    course = Course().tell(3, heartbeat.EVALUATE, MINUTE)
    for _ in range(180):
        course.write(MINUTE)
    assert course.alarms == []


@pytest.mark.parametrize("phase", [p for p in heartbeat.PHASES if p not in {heartbeat.STEP, heartbeat.OTHER}])
def test_a_phase_that_does_not_end_is_one(phase: str) -> None:
    assert not Course().tell(3, phase, 59 * MINUTE).alarms
    assert Course().tell(3, phase, 61 * MINUTE).alarms


def test_a_server_is_never_stalled() -> None:
    assert not Course().tell(0, heartbeat.OTHER, 24 * 60 * MINUTE).alarms
    assert not Course(pace.Pace(600.0)).tell(0, heartbeat.OTHER, 24 * 60 * MINUTE).alarms


def test_a_program_that_never_said_anything_is_not_judged() -> None:
    assert not Course().rest(48 * 60 * MINUTE).alarms


def test_a_program_is_judged_by_its_longest_silence() -> None:
    course = Course().write(MINUTE).write(30 * MINUTE)
    assert not course.write(110 * MINUTE).alarms  # less than four times that
    course = Course().write(MINUTE).write(MINUTE)
    assert not course.write(59 * MINUTE).alarms
    assert course.rest(3 * MINUTE).alarms


def test_steps_without_phases_may_hide_an_evaluation() -> None:
    course = Course()
    for step in range(10):
        course.tell(step, None, 2.0)
    assert not course.rest(50 * MINUTE).alarms
    assert course.rest(20 * MINUTE).alarms


def test_a_limit_of_the_job_is_that_of_steps_and_of_programs_that_tell_nothing() -> None:
    for course in (Course(pace.Pace(60.0)).steps(3, 8.0), Course(pace.Pace(60.0)).write(8.0)):
        assert course.rest(40.0).alarms == []
        assert course.rest(30.0).alarms
    assert not Course(pace.Pace(60.0)).tell(3, heartbeat.CHECKPOINT, 59 * MINUTE).alarms
    assert not Course(pace.Pace(7200.0)).tell(3, heartbeat.CHECKPOINT, 119 * MINUTE).alarms


def test_every_phase_has_limits() -> None:
    assert set(pace.LIMITS) == {*heartbeat.PHASES, "untold"}
    assert all(set(entry["signs"]) <= {"output", "files"} for entry in pace.LIMITS.values())
