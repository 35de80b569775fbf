"""metrics.jsonl of any program: what is a number is read, and nothing in it stops status, report or --wait."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from launcher.cli import main
from launcher.reports import curves, progress, spending, tables
from launcher.runs import metrics, record
from launcher.runs.status import Status

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

VALUES = [
    "null", "true", '"0.5"', '"x\\u001b[31m\\ud800\\n"', "[1]", "{}", "NaN", "Infinity", "-Infinity", "1e400", "-1e308",
    "1e308", "3.4e38", "-0.0", "0", "9" * 400, "9" * 5000, "[" * 100_000, "1e-320",
]  # fmt: skip
KEYS = [
    "loss",
    "step",
    "max_steps",
    "time",
    "tokens_per_second",
    "reward",
    "memory_bytes",
    "event",
    "tag",
    "url",
    "x",
]
LINES = [
    "",
    "5",
    "[]",
    '"step"',
    "null",
    "{}",
    "[" * 100_000,
    '{"a":' * 100_000,
    '{"step": 1, "loss": 0.5}',
    '{"step": 1}',
    '{"loss": 0.5}',
    '{"step": -1, "loss": 1}',
    '{"step": 1.5, "loss": 1}',
    '{"step": 1.0, "loss": 1}',
    '{"event": "eval"}',
    '{"event": "checkpoint", "step": 1}',
    '{"event": "ready"}',
    *(f'{{"step": 3, "loss": 1.5, "{key}": {value}}}' for key in KEYS for value in VALUES),
    *(f'{{"event": "eval", "step": 3, "{key}": {value}}}' for key in KEYS for value in VALUES),
    *(
        f'{{"event": "allocated", "time": 3, "{key}": {value}}}'
        for key in ("slots", "time")
        for value in VALUES
    ),
    *(f'{{"event": "stalled", "time": 3, "seconds": {value}}}' for value in VALUES),
]


def run(folder: Path) -> record.Run:
    fields: dict[str, Any] = {"native_id": "1:2", "submitted": 0.0, "nodes": 1, "slots": 1, "place": {}}
    return record.Run(id="own-1", scheduler="local", folder=folder, **fields)


def check(folder: Path, lines: Sequence[bytes], capsys: pytest.CaptureFixture[str]) -> None:
    """Every reader takes a file with these lines, and what it says can be printed."""
    (folder / metrics.FILE).write_bytes(b"".join(line + b"\n" for line in lines))
    assert progress.follow(run(folder), lambda _: Status("SUCCEEDED")) == 0
    assert progress.follow(run(folder), lambda _: Status("FAILED")) == 1
    view = progress._View(run(folder))
    view.read()
    said = [view.line(Status("RUNNING")), tables.status(run(folder), Status("RUNNING"))]
    assert 0 <= view.fraction <= 1
    (folder / metrics.EVENTS).write_bytes((folder / metrics.FILE).read_bytes())
    for now in (None, 1e9):
        use = spending.of("own-1", folder, now)
        said += [tables.dump(spending.data(use)), *([spending.text([use, use])] if use else [])]
    measured = [curves.read("own-1", folder)]
    said += [curves.text(measured), tables.dump([curves.data(run) for run in measured])]
    out, err = capsys.readouterr()
    for text in (*said, out, err):
        assert "Traceback" not in text
        assert all(character.isprintable() for character in text.replace("\n", ""))


@pytest.mark.parametrize("first", range(0, len(LINES), 32))
@pytest.mark.heavy
def test_a_line_of_another_program(first: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for line in (text.encode() for text in LINES[first : first + 32]):
        check(tmp_path, [line], capsys)
        check(tmp_path, [b'{"step": 1, "loss": 2.5, "time": 5, "max_steps": 9}', line, line], capsys)


@pytest.mark.heavy
def test_all_of_them_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check(tmp_path, [*(line.encode() for line in LINES), b"\xff\xfe\x00", b'{"step": 4, "loss": 1}'], capsys)
    assert main.main(["report", str(tmp_path)]) == 0
    assert main.main(["report", str(tmp_path), "--json"]) == 0


def test_what_is_read(tmp_path: Path) -> None:
    lines = [
        '{"step": 1, "loss": 2, "lr": NaN, "note": "a\\tb", "ok": true, "list": [1], "big": 1e39}',
        '{"event": "eval", "loss": 1.5}',
        '{"event": 7, "step": 1}',
        '{"step": 2, "lo',
    ]
    (tmp_path / metrics.FILE).write_text("\n".join(lines))
    records, end = metrics.read(tmp_path)
    assert records == [
        metrics.Record(1, "", {"step": 1.0, "loss": 2.0}, {"note": "a\\tb"}),
        metrics.Record(0, "eval", {"loss": 1.5}, {"event": "eval"}),
    ]
    with (tmp_path / metrics.FILE).open("a") as file:
        file.write('ss": 1}\n')
    again, _ = metrics.read(tmp_path, end)
    assert [(record.step, record.figures["loss"]) for record in again] == [(2, 1.0)]


def test_a_file_that_is_none(tmp_path: Path) -> None:
    assert metrics.read(tmp_path) == ([], 0)
    (tmp_path / metrics.FILE).mkdir()
    assert metrics.read(tmp_path, 7) == ([], 7)


def test_json_of_any_figures_is_json(tmp_path: Path) -> None:
    """`NaN` and `Infinity` are no JSON: https://www.rfc-editor.org/rfc/rfc8259#section-6"""
    (tmp_path / metrics.FILE).write_text("".join(f'{{"step": 1, "loss": {value}}}\n' for value in VALUES))
    text = tables.dump([curves.data(curves.read("r", tmp_path))])
    json.loads(text, parse_constant=pytest.fail)
