"""The table of a sweep: the best run first, and a run that is gone or torn hides no other."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from launcher.cli import main
from launcher.reports import sweep
from launcher.runs import record

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAUNCHER_RUNS", str(tmp_path))
    return tmp_path


def submitted(runs: Path, name: str, *losses: float) -> None:
    folder = runs / name
    folder.mkdir()
    fields: dict[str, Any] = {"native_id": "1:2", "submitted": 0.0, "nodes": 1, "slots": 1, "place": {}}
    record._write(record.Run(id=name, scheduler="local", folder=folder, **fields))
    (folder / "exit_code").write_text("0\n")
    lines = [json.dumps({"step": n + 1, "loss": loss}) for n, loss in enumerate(losses)]
    (folder / "metrics.jsonl").write_text("\n".join([*lines, ""]))


def swept(runs: Path, entries: Any) -> None:
    (runs / "s-sweep-1").mkdir()
    (runs / "s-sweep-1" / "sweep.json").write_text(json.dumps({"id": "s-sweep-1", "runs": entries}))


def test_the_best_comes_first_and_a_deleted_run_hides_none(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    submitted(runs, "a", 3.0, 2.5)
    submitted(runs, "b", 3.0, 0.0)
    swept(runs, [{"run": name, "settings": [f"args.lr={name}"]} for name in ("a", "b", "gone")])
    assert main.main(["report", "s-sweep-1"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["args.lr", "STATE", "STEP", "LOSS", "VALIDATION", "TOKENS/S", "RUN"]
    assert [row.split()[:4] for row in rows] == [
        ["b", "SUCCEEDED", "2", "0.0000"],
        ["a", "SUCCEEDED", "2", "2.5000"],
        ["gone", "UNKNOWN", "-", "-"],
    ]
    assert main.main(["report", "s-sweep-1", "--json"]) == 0
    assert [entry["state"] for entry in json.loads(capsys.readouterr().out)] == [
        "SUCCEEDED",
        "SUCCEEDED",
        "UNKNOWN",
    ]


@pytest.mark.parametrize(
    "entries",
    [
        [],
        [{"run": "a", "settings": []}],
        [{"run": "a", "settings": ["no equals sign"]}],
        [{"run": "a", "settings": ["x=1"]}, {"run": "b", "settings": ["y=2", "x=3"]}],
        [
            {"run": "", "settings": ["x=1"]},
            {"run": "..", "settings": ["x=1"]},
            {"run": "x" * 5000, "settings": []},
        ],
        [{"run": "a", "settings": ["x=1"]}] * 2,
    ],
)
def test_a_record_of_any_shape(entries: Any, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    submitted(runs, "a", 1.0)
    submitted(runs, "b", 2.0)
    swept(runs, entries)
    assert main.main(["report", "s-sweep-1"]) == 0
    assert main.main(["report", "s-sweep-1", "--json"]) == 0
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    ["", "[", "[]", "5", '{"runs": 5}', '{"runs": [5]}', '{"runs": [{"run": "a"}]}', "[" * 100_000, "\xff"],
)
def test_a_torn_record_is_said_to_be_one(text: str, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    swept(runs, [])
    (runs / "s-sweep-1" / "sweep.json").write_text(text, encoding="latin-1")
    assert main.main(["report", "s-sweep-1"]) == 5
    assert "sweep.json cannot be read" in capsys.readouterr().err


def test_every_setting_of_any_run_has_a_column() -> None:
    shared = {"state": "FAILED", "step": None, "loss": None, "eval_loss": None, "tokens_per_second": None}
    results = [{"run": "a", "settings": {"x": "1"}, **shared}, {"run": "b", "settings": {"y": "2"}, **shared}]
    head, first, second = sweep.text(results).splitlines()
    assert head.split()[:2] == ["x", "y"]
    assert (first.split()[:2], second.split()[:2]) == (["1", "-"], ["-", "2"])
