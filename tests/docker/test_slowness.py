"""Who is slow is named, beyond noise, and never when all are slow (docker/slowness.py)."""

from __future__ import annotations

import importlib
import json
import random
from typing import TYPE_CHECKING, Any

import pytest

from tests.docker import entries

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

heartbeat = importlib.import_module("heartbeat")
slowness = importlib.import_module("slowness")
WINDOW = slowness.WINDOW


def pace(own: float, *, step: int = WINDOW, seconds: float = 1.0, noise: float = 0.02, seed: int = 0) -> Any:
    """Steps whose own time is scattered by `noise` of it."""
    chance = random.Random(f"{own} {seed}")
    return slowness.Pace(step, seconds, tuple(chance.gauss(own, noise * own) for _ in range(WINDOW)))


def paces(*own: float, **more: Any) -> dict[int, Any]:
    return {rank: pace(seconds, seed=rank, **more) for rank, seconds in enumerate(own)}


@pytest.mark.parametrize("ranks", [2, 3, 8, 512])
def test_one_rank_among_many(ranks: int) -> None:
    (found,) = slowness.compare(paces(*[0.3] * (ranks - 1), 0.6)).items()
    assert found == (ranks - 1, pytest.approx(2, rel=0.1))


def test_a_whole_host_among_many() -> None:
    slow = slowness.compare(paces(*[0.3] * 24, *[0.5] * 8))
    assert sorted(slow) == list(range(24, 32))


@pytest.mark.parametrize(
    ("own", "more"),
    [
        ([0.6] * 8, {}),  # all are slow
        ([0.3, 0.33], {}),  # 10 % more
        ([0.3, 0.6], {"noise": 0.9}),  # within what its steps differ anyhow
        ([0.001, 0.004], {}),  # four times of nothing
        ([0.2, 0.3, 0.4, 0.5, 0.6, 0.7], {}),  # they differ among themselves
        ([0.5], {}),  # nobody to compare with
        ([], {}),
    ],
)
def test_no_false_alarm(own: list[float], more: dict[str, float]) -> None:
    assert slowness.compare(paces(*own, **more)) == {}


def test_a_rank_that_is_profiled_stays_what_it_was() -> None:
    """It tells no time of its own then, which says nothing of its speed."""
    judge = slowness.Judge()
    for turn in (1, 2):
        came, _ = judge.look(paces(0.3, 0.3, 0.6, step=turn * WINDOW))
    assert [slow.rank for slow in came] == [2]
    silent = paces(0.3, 0.3, 0.6, step=3 * WINDOW)
    silent[2] = silent[2]._replace(own=())
    assert judge.look(silent) == ([], [])
    _, went = judge.look(paces(0.3, 0.3, 0.3, step=4 * WINDOW))
    assert [slow.rank for slow in went] == [2]


def test_noise_alone_names_nobody() -> None:
    """Steps that scatter by a third, on eight ranks: two windows in a row are never taken for slow."""
    judge = slowness.Judge()
    for window in range(1, 501):
        given = {r: pace(0.3, step=WINDOW * window, noise=0.33, seed=8 * window + r) for r in range(8)}
        assert judge.look(given) == ([], [])


def test_ranks_that_tell_nothing_are_not_compared() -> None:
    silent = slowness.Pace(WINDOW, 1.0, ())
    assert slowness.compare({0: silent, 1: pace(0.5)}) == {}
    assert list(slowness.compare({0: silent, **{n: pace(0.2 * n, seed=n) for n in (1, 2)}})) == [2]


def test_two_windows_name_it_and_one_clears_it() -> None:
    judge = slowness.Judge()

    def look(step: int, *own: float) -> tuple[list[Any], list[Any]]:
        came, went = judge.look(paces(*own, step=step))
        return [(s.rank, s.since) for s in came], [(s.rank, s.since) for s in went]

    assert look(9, 0.3, 0.3, 0.6) == ([], []), "once is chance"
    assert look(12, 0.3, 0.3, 0.6) == ([], []), "the window is not full"
    assert look(17, 0.3, 0.3, 0.6) == ([(2, 2)], [])
    assert look(25, 0.3, 0.3, 0.6) == ([], []), "said once"
    assert look(33, 0.3, 0.3, 0.3) == ([], [(2, 2)])
    assert look(41, 0.3, 0.6, 0.3) == ([], [])
    assert look(49, 0.3, 0.3, 0.6) == ([], []), "another one each time"


LATE = f"""
import json, sys, time
sys.path.insert(0, {str(entries.DOCKER)!r})
import heartbeat
from pathlib import Path
beat, rank = heartbeat.mine(), int(os.environ["RANK"])
beat.phase(heartbeat.FIRST, 0)
step = 0
while not ready_to_end():
    step += 1
    time.sleep(0.02)
    beat.step(step, 0.01 + 0.01 * (rank == 2))
"""


def test_two_hosts_name_the_rank_and_its_host(new_job: Callable[..., entries.Job]) -> None:
    """Real node entries: what the second host's ranks tell reaches the first, which writes it down."""
    job = new_job(hosts=2, slots=2)
    program = "import os\nready_to_end = lambda: os.path.exists('go-on')\n" + LATE
    job.start_all(program)
    told = job.folder / "events.jsonl"
    entries.until(lambda: told.exists() and '"slow"' in told.read_text(), "the slow rank is told")
    entries.until((job.folder / slowness.FILE).exists, "the ranks' times are written")
    job.go_on()
    assert job.codes() == [0, 0]
    (event,) = (e for line in told.read_text().splitlines() if (e := json.loads(line))["event"] == "slow")
    assert (event["rank"], event["host"], event["ratio"]) == (2, "127.0.0.2", 2.0)
    assert event["step"] > 1
    words = "rank 2 on 127.0.0.2 is slow: it needs 2.00 times as long as its peers before it waits for them"
    assert job.said(0).count(words) == 2, "when it was seen, and at the end"
    assert words not in job.said(1)
    line = json.loads((job.folder / slowness.FILE).read_text().splitlines()[-1])
    assert line["own"] == [0.01, 0.01, 0.02, 0.01]


def test_a_rank_without_a_pace(tmp_path: Path) -> None:
    assert slowness.read(str(tmp_path), 0) is None
    heartbeat.path(tmp_path, 0).write_text('{"step": 412}\n')
    assert slowness.read(str(tmp_path), 0) is None


@pytest.mark.parametrize(
    "ranks", [None, [], {"x": [1, 2, []]}, {"0": [1]}, {"0": ["a", 1, []]}, {"9": [1, 2, [3]]}]
)
def test_a_message_that_is_none_harms_nothing(ranks: Any) -> None:
    watch = slowness.Watch("", {"a": 1, "b": 1}, 0, peers=None)
    assert watch.heard({"type": "pace", "ranks": ranks})
    assert watch.heard({"type": "pace"})
    assert not watch.heard({"type": "done"})
    assert watch._paces == {}
