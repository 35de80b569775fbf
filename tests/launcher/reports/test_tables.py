"""What is printed of plans and runs: figures that add up, and tables in one piece. The keys are test_json.py's."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from launcher.fabrics import FABRICS
from launcher.planning import plan
from launcher.reports import checkpoint_tables, tables
from launcher.runs import record as runs_record
from launcher.runs.checkpoints import Saved
from launcher.runs.status import Status
from tests import samples


def shipped(name: str) -> plan.Plan:
    return plan.make(samples.loaded(f"jobs/{name}.yaml"), samples.SITE)


def test_plan_figures_add_up() -> None:
    data = json.loads(tables.plan_json(shipped("llama-7b")))
    assert data["world_size"] == data["nodes"] * data["slots"]
    batch = data["batch"]
    assert batch["global"] == batch["micro"] * batch["accumulation"] * data["world_size"]
    assert batch["global"] == data["deepspeed"]["config"]["train_batch_size"]
    for part in ("per_slot", "per_host"):
        figures = data["memory"][part]
        held = sum(value for key, value in figures.items() if key not in {"total", "capacity"})
        assert held == figures["total"]
    assert data["fits"] is (data["memory"]["per_slot"]["total"] <= data["memory"]["per_slot"]["capacity"])


@pytest.mark.parametrize("name", ["quickstart", "llama-7b", "smoke/allreduce"])
def test_plan_for_a_person(name: str) -> None:
    made = shipped(name)
    text = tables.plan(made)
    assert made.id in text
    assert f"= {made.world_size} ranks" in text
    assert not [line for line in text.splitlines() if line != line.rstrip()]
    assert all(f"  {v.name}={v.value}  # {v.why}" in text for v in made.environment)


def test_a_secret_is_shown_by_name_alone() -> None:
    made = samples.decided({"env": {"HF_TOKEN": {"secret": "hf"}}})
    assert "HF_TOKEN: from secret hf" in tables.plan(made)
    assert "HF_TOKEN" not in json.loads(tables.plan_json(made))["environment"]


# Runs


def run(folder: Path, **changes: Any) -> runs_record.Run:
    fields = {
        "scheduler": "slurm",
        "native_id": "42:7",
        "submitted": 0.0,
        "nodes": 2,
        "slots": 8,
        "place": {},
    }
    return runs_record.Run(**{"id": "demo-1", "folder": folder, **fields, **changes})


def test_status_keys(tmp_path: Path) -> None:
    data = json.loads(
        tables.status_json(run(tmp_path), Status("FAILED", "time limit", 75, ("a", "b"), ("c",)))
    )
    assert data == {
        "id": "demo-1",
        "scheduler": "slurm",
        "native_id": "42",
        "state": "FAILED",
        "reason": "time limit",
        "exit_code": 75,
        "hosts": ["a", "b"],
        "spares": ["c"],
        "folder": str(tmp_path),
        "slow": [],
        "hang": None,
    }


def test_list_is_made_of_statuses(tmp_path: Path) -> None:
    pairs = [
        (run(tmp_path), Status("PENDING", "waiting")),
        (run(tmp_path, id="demo-2"), Status("SUCCEEDED", "", 0)),
    ]
    data = json.loads(tables.run_list(pairs, as_json=True))
    assert [entry["id"] for entry in data] == ["demo-1", "demo-2"]
    assert json.loads(tables.run_list([], as_json=True)) == []
    lines = tables.run_list(pairs, as_json=False).splitlines()
    assert lines[0].split() == ["RUN", "SCHEDULER", "STATE", "SUBMITTED", "REASON"]
    assert lines[1].endswith("waiting")
    assert len(lines) == 3


def test_status_for_a_person_says_how_far_it_came(tmp_path: Path) -> None:
    records = [
        {"step": 1, "loss": 5.0, "max_steps": 10},
        {"step": 7, "loss": 2.25, "max_steps": 10, "tokens_per_second": 1e4},
    ]
    (tmp_path / "metrics.jsonl").write_text(
        "".join(json.dumps(record) + "\n" for record in records) + '{"step": 8, "lo'
    )
    text = tables.status(run(tmp_path), Status("RUNNING", "", None, ("a",), ("b", "c")))
    assert "\nspares     b, c\n" in text
    assert "step 7/10, loss 2.2500, 10,000 tokens/s" in text


def test_fabrics() -> None:
    assert set(json.loads(tables.fabrics(as_json=True))) == set(FABRICS)
    assert len(tables.fabrics(as_json=False).splitlines()) == len(FABRICS) + 1


def test_a_cell_is_one_printable_line() -> None:
    assert tables.table([("a\x1b[31m", "b\nc")]) == r"a\x1b[31m  b\nc"


def test_the_environment_is_printable() -> None:
    plan = samples.decided({"env": {"X": "\x1b[31mred"}})
    assert r"  X=\x1b[31mred" in tables.plan(plan)


def test_table() -> None:
    assert tables.table([("a", "bb"), ("ccc", "")], ("X", "YY")) == "X    YY\na    bb\nccc"
    assert tables.table([]) == ""


def test_json_is_valid_whatever_is_in_it() -> None:
    data = {
        "path": os.fsdecode(b"/runs/\xff"),
        "half": "a\ud800",
        "figures": (float("nan"), [float("-inf"), 1.5]),
    }
    told = json.loads(tables.dump(data).encode(), parse_constant=pytest.fail)
    assert told == {**data, "figures": [None, [None, 1.5]]}
    assert os.fsencode(told["path"]) == b"/runs/\xff"


@pytest.mark.parametrize("time", [3e11, -7e10, 1e300, -1e300])
def test_a_time_that_no_calendar_has_is_not_told(time: float) -> None:
    saved = Saved("demo", "step-00000001", Path("/runs/demo"), "unfinished", 1, bytes=5, written=time)
    assert tables.moment(time) in checkpoint_tables.table([saved], several=False).splitlines()[1]
    assert tables.moment(1e300) == "-"
    assert len(tables.moment(1.8e9)) == 16
