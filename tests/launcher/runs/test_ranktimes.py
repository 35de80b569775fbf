"""steps.jsonl: each rank's own time, and what is no record of it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

from launcher.runs import ranktimes

if TYPE_CHECKING:
    from pathlib import Path


def test_what_is_read(tmp_path: Path) -> None:
    assert ranktimes.read(tmp_path) == []
    lines = [
        '{"time": 5.5, "step": 9, "seconds": 1, "own": [0.25, 0.5]}',
        '{"time": 6, "step": 17, "own": [1',
        "",
    ]
    (tmp_path / ranktimes.FILE).write_text("\n".join(lines))
    assert ranktimes.read(tmp_path) == [ranktimes.Moment(5.5, 9, (0.25, 0.5))]


@pytest.mark.parametrize("value", ["null", "true", '"x"', "-1", "NaN", "1e999", "[]", "{}"])
def test_a_rank_of_which_nothing_is_known(value: str, tmp_path: Path) -> None:
    (tmp_path / ranktimes.FILE).write_text(f'{{"time": 1, "step": 1, "own": [0.5, {value}]}}\n')
    (moment,) = ranktimes.read(tmp_path)
    assert moment.own[0] == 0.5
    assert math.isnan(moment.own[1])


@pytest.mark.parametrize(
    "line",
    [
        "5",
        "[]",
        "null",
        "{}",
        '{"own": 5, "time": 1, "step": 1}',
        '{"own": [], "time": 1, "step": 1}',
        "[" * 9999,
    ]
    + [
        f'{{"time": {t}, "step": {s}, "own": [1]}}'
        for t, s in (("null", 1), (1, "NaN"), ("1e99", 1), (1, '"x"'))
    ],
)
def test_lines_that_are_no_records(line: str, tmp_path: Path) -> None:
    (tmp_path / ranktimes.FILE).write_text(f"{line}\n")
    assert ranktimes.read(tmp_path) == []
