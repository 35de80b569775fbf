"""Where allocated time went: shares that add up to it exactly, whatever was recorded and however it is broken."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.runs import hours
from launcher.runs.metrics import Record

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def line(event: str, time: float, step: int = 0, **figures: float) -> Record:
    return Record(step, event, {"time": time, **figures}, {})


def seconds(
    events: Sequence[Record], records: Sequence[Record], now: float | None = None
) -> dict[str, float]:
    """Slot-seconds of the shares that are not 0."""
    attempts = hours.attempts(events, records, now)
    found = hours.account(attempts)
    assert sum(found.values()) == hours.allocated(attempts)
    return {share: time / 1000 for share, time in found.items() if time}


def attempt(at: float, end: float = 100.0, *, slots: int = 2, last: str = "ended") -> list[Record]:
    """Hosts come after 3 s, preflight takes 4, the hosts meet again at once."""
    told = [("allocated", 0.0), ("preflight", 3.0), ("met", 7.0), ("started", 8.0), (last, end)]
    return [line(event, at + after, **({"slots": slots} if not after else {})) for event, after in told]


def training(at: float, first: int, last: int) -> list[Record]:
    """Loading until 20 s, 5 s of the first step, then one every second."""
    steps = [line("", at + 25 + number - first, number) for number in range(first, last + 1)]
    return [line("start", at + 20, first - 1, max_steps=99), *steps]


def test_a_run_that_went_well() -> None:
    records = [
        *training(0, 1, 60),
        line("eval", 50, 25, seconds=6),
        line("checkpoint", 70, 45, seconds=2.5),
        line("end", 95),
    ]
    assert seconds(attempt(0), records) == {
        "waiting": 6,
        "preflight": 8,
        "loading": 26,
        "first_step": 10,
        "steps": 2 * (70 - 8.5),
        "evaluation": 12,
        "checkpoints": 5,
        "ending": 10,
    }


def test_of_a_checkpoint_behind_training_only_the_pause_counts() -> None:
    """Training stood still for 0.5 s until second 70, the checkpoint was whole at 80; at the end it waited for one."""
    records = [
        *training(0, 1, 60),
        line("checkpoint", 80, 45, seconds=0.5, paused=70.0, written=10.5),
        line("checkpoint", 94, 60, seconds=0.5, paused=85.5, written=9),
        line("waited", 94, 60, seconds=8),
        line("end", 95),
    ]
    found = seconds(attempt(0), records)
    assert found["checkpoints"] == 2 * (0.5 + 0.5 + 8)
    assert found["steps"] == 2 * (70 - 9)


def test_what_was_done_while_a_checkpoint_was_written_is_done_again() -> None:
    """Its state is that of second 56: the steps until it was whole at 60 are not in it."""
    first = [*training(0, 1, 40), line("checkpoint", 60, 30, seconds=1, paused=56.0)]
    failed = [*attempt(0)[:-1], line("failed", 65), line("ended", 66)]
    second = [*training(1000, 31, 50), line("end", 1050)]
    both = seconds([*failed, *attempt(1000, 51)], [*first, *second])
    assert both["redone"] == 2 * (65 - 56)


@pytest.mark.parametrize("paused", [-1e9, 0.0, 1e12])
def test_a_pause_at_an_impossible_time_breaks_nothing(paused: float) -> None:
    records = [*training(0, 1, 60), line("checkpoint", 80, 45, seconds=2, paused=paused), line("end", 95)]
    assert sum(seconds(attempt(0), records).values()) == 200


def test_steps_after_the_last_checkpoint_are_done_again() -> None:
    """The first attempt fails at step 40 and was saved at 30; the second, on half the slots, goes on from there."""
    first = [*training(0, 1, 40), line("checkpoint", 57, 30, seconds=2)]
    failed = [*attempt(0)[:-1], line("failed", 65), line("ended", 66)]
    second = [*training(1000, 31, 50), line("end", 1050)]
    alone = seconds(failed, first)
    assert alone["steps"] == 2 * (40 - 2)
    assert "redone" not in alone, "nobody did them again yet"
    both = seconds([*failed, *attempt(1000, 51, slots=1)], [*first, *second])
    assert both["redone"] == 2 * (65 - 57)
    assert both["steps"] == alone["steps"] - both["redone"] + (1050 - 1025)
    assert both["ending"] == 2 + 1


def slurm_ended(at: float, attempt: str = "7-0") -> Record:
    """As the job's script tells it."""
    return Record(0, "ended", {"time": at}, {"attempt": attempt, "by": "slurm"})


def test_the_end_is_slurms_and_not_that_of_a_host_that_was_cut_off() -> None:
    """The second attempt begins at 130; the first one's host still tells of itself at 135."""
    first = [e._replace(texts={"attempt": "7-0"}) for e in attempt(0)[:-1]]
    second = [e._replace(texts={"attempt": "7-1"}) for e in attempt(130)]
    late = [line("failed", 135)._replace(texts={"attempt": "7-0"}), slurm_ended(136)]
    records = [*training(0, 1, 40), line("checkpoint", 57, 30, seconds=2), *training(130, 31, 90)]
    events = [*first, slurm_ended(101.5), *second[:2], *late, *second[2:], slurm_ended(240, "7-1")]
    one, two = hours.attempts(events, records)
    assert [(a.start, a.end, a.ended) for a in (one, two)] == [(0, 101500, True), (130000, 240000, True)]
    found = seconds(events, records)
    assert found["ending"] == pytest.approx(2 * (101.5 - 64 + 240 - 230)), "all after its last step"
    assert found["redone"] == 2 * (64 - 57)


def test_a_program_that_tells_no_steps_has_not_ended_before_slurm_says_so() -> None:
    events = [e._replace(texts={"attempt": "7-0"}) for e in attempt(0)[:-1]]
    assert seconds([*events, slurm_ended(90)], [])["program"] == 2 * (90 - 8)


def test_a_third_attempt_from_an_older_checkpoint_costs_the_first_one_more() -> None:
    """Its checkpoint was broken: what the first did since the one before was done again too."""
    records = [*training(0, 1, 40), *training(1000, 31, 50), *training(2000, 11, 60)]
    events = [e for at in (0, 1000, 2000) for e in attempt(at)]
    assert seconds(events, records)["redone"] == 2 * (100 - 34) + 2 * (100 - 25)


def test_a_run_that_still_runs_or_was_cut_off() -> None:
    events, records = attempt(0)[:-1], training(0, 1, 10)
    assert seconds(events, records)["steps"] == 2 * 9, "what is known ends with the last line"
    assert seconds(events, records, now=90.0)["steps"] == 2 * (90 - 25)
    killed = [*events, *attempt(500)]
    assert seconds(killed, [*records, *training(500, 1, 70)])["redone"] == 2 * 9


def test_stalls_are_cut_out_until_the_run_is_ended() -> None:
    stalled = [*attempt(0)[:-1], line("stalled", 60, seconds=20), line("failed", 75), line("ended", 100)]
    assert seconds(stalled, training(0, 1, 15))["stalls"] == 2 * 35
    assert seconds([e for e in stalled if e.event != "failed"], training(0, 1, 15))["stalls"] == 2 * 60


def test_a_program_that_tells_nothing() -> None:
    assert seconds(attempt(0), []) == {"waiting": 6, "preflight": 8, "loading": 2, "program": 184}
    assert seconds(attempt(0), [line("start", 30), line("end", 90)])["program"] == 120


def test_a_run_of_before_there_were_events() -> None:
    records = [*training(0, 1, 40), line("checkpoint", 57, 30, seconds=2), *training(1000, 31, 50)]
    assert seconds([], records) == {
        "first_step": 5 + 5,
        "steps": (57 - 2 - 25) + (1044 - 1025),
        "checkpoints": 2,
        "redone": 64 - 57,
    }
    assert seconds([], []) == {}


EVENTS = st.sampled_from([*hours._BEGINS, "ended", "stalled", "failed", "started", "other"])
RECORDS = st.sampled_from(["", "start", "eval", "checkpoint", "end", "saved", "other"])
FIGURES = st.fixed_dictionaries(
    {"time": st.floats(-10, 200)},
    optional={"seconds": st.floats(-5, 50), "slots": st.integers(-1, 9), "max_steps": st.just(9.0)},
)


def records_of(kinds: Any) -> Any:
    made = st.builds(
        lambda event, step, figures: Record(step, event, figures, {}), kinds, st.integers(0, 9), FIGURES
    )
    return st.lists(made, max_size=14)


@given(records_of(EVENTS), records_of(RECORDS), st.one_of(st.none(), st.floats(0, 300)))
def test_shares_add_up_whatever_was_recorded(
    events: list[Record], records: list[Record], now: float | None
) -> None:
    attempts = hours.attempts(events, records, now)
    shares = hours.account(attempts)
    assert list(shares) == list(hours.SHARES)
    assert all(time >= 0 for time in shares.values())
    assert sum(shares.values()) == hours.allocated(attempts) >= 0
    for one in attempts:
        spans = list(hours.timeline(one))
        assert all(before.end == after.start for before, after in itertools.pairwise(spans))


@pytest.mark.parametrize("share", hours._BEGINS.values())
def test_what_begins_is_a_share(share: str) -> None:
    assert share in hours.SHARES


def test_spares_are_a_share_of_their_own() -> None:
    events = attempt(0)
    events[0] = line("allocated", 0, slots=2, spare_slots=1)
    without = seconds(attempt(0), training(0, 1, 60))
    assert seconds(events, training(0, 1, 60)) == {**without, "spares": 100}


def test_hosts_that_are_checked_in_rounds_are_allocated_once() -> None:
    """With spares a host is found unfit, and preflight begins anew without it: each round tells Slurm's start."""

    def of(label: str, *events: Record) -> list[Record]:
        return [event._replace(texts={"attempt": label}) for event in events]

    rounds = of(
        "12-0",
        line("allocated", 0, slots=2, spare_slots=1),
        line("preflight", 3),
        line("failed", 5),
        line("ended", 6),
        line("allocated", 0, slots=2),
        line("preflight", 8),
    )
    going_on = hours.attempts(rounds, [], now=10.0)
    assert [(one.start, one.end, one.ended) for one in going_on] == [(0, 10_000, False)]
    events = [*rounds, *of("12-0", *attempt(0)[2:])]
    (one,) = hours.attempts(events, training(0, 1, 60))
    assert (one.slots, one.spares, one.ended) == (2, 1, True), "the host that was unfit is still the job's"
    shares = seconds(events, training(0, 1, 60))
    assert (sum(shares.values()), shares["spares"], shares["waiting"]) == (300, 100, 6)
    later = of("12-1", *attempt(100, 50))
    assert len(hours.attempts([*events, *later], [])) == 2


@pytest.mark.parametrize(
    ("job", "share"),
    [
        ({}, "loading"),
        ({"workload": "finetune"}, "loading"),
        ({"workload": "./own.py"}, "program"),
        ({"workload": []}, "program"),
        (None, "program"),
    ],
)
def test_what_fails_before_its_first_record_was_loading_if_it_tells_steps(
    job: dict[str, Any] | None, share: str, tmp_path: Path
) -> None:
    """A workload of ours that ends while it imports or loads has told nothing yet; a user's own may never do."""
    events = [{"event": e.event, **e.figures} for e in attempt(0)]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))
    if job is not None:
        (tmp_path / "plan.json").write_text(json.dumps({"job": job}))
    found = seconds(*hours.read(tmp_path))
    assert (found[share], sum(found.values())) == (2 * (92 if share == "program" else 93), 200)
