"""What programs read of plans and runs: the keys are a contract. Tables and figures for people are in one piece."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from launcher.fabrics import FABRICS, environment
from launcher.planning import plan
from launcher.reports import tables
from launcher.runs import record as runs_record
from launcher.runs.status import Status
from tests import samples

if TYPE_CHECKING:
    from pathlib import Path

# Changing a line here changes what programs of users rely on. `[]` is a list's entry, `*` any key.
_PLAN = """
activation_checkpointing args.* batch.accumulation batch.global batch.micro bound.compute bound.fabric bound.intra
bound.mfu bound.optimizer bound.step bound.tokens_per_second checkpoints.bytes checkpoints.bytes_on_disk
checkpoints.seconds_between checkpoints.seconds_for_one_percent checkpoints.share_lost_to_failures
checkpoints.steps_for_one_percent communication[].group communication[].kind
communication[].message communication[].scope communication[].sent_per_rank communication[].times communication[].what
communication_by_paper
deepspeed.config.* deepspeed.preset environment.* fits folder id image largest_micro_batch memory.checkpoint
memory.nvme memory.per_host.capacity memory.per_host.gradients memory.per_host.loader memory.per_host.optimizer
memory.per_host.parameters memory.per_host.pinned memory.per_host.processes memory.per_host.rounding
memory.per_host.shm memory.per_host.total
memory.per_slot.activations memory.per_slot.buffers memory.per_slot.capacity memory.per_slot.gradients
memory.per_slot.logits memory.per_slot.margin memory.per_slot.optimizer memory.per_slot.parameters
memory.per_slot.total nodes parameters precision reasons[] slots tried[].fits tried[].reasons[] tried[].rung
tried[].step_seconds world_size
"""
PLAN = _PLAN.split()
STATUS = ["exit_code", "folder", "hosts", "id", "native_id", "reason", "scheduler", "state"]
VARIABLE = ["name", "source", "value", "why"]
FREE = {"args", "environment", "deepspeed.config"}  # what the user and DeepSpeed name


def keys(data: Any, above: str = "") -> set[str]:
    """Every path to a value in `data`."""
    if above in FREE:
        return {f"{above}.*"}
    if isinstance(data, dict):
        return {key for k, v in data.items() for key in keys(v, f"{above}.{k}" if above else k)}
    if isinstance(data, list):
        return {key for entry in data for key in keys(entry, f"{above}[]")} or {f"{above}[]"}
    return {above}


def shipped(name: str) -> plan.Plan:
    return plan.make(samples.loaded(f"jobs/{name}.yaml"), samples.SITE)


def test_plan_keys() -> None:
    data = json.loads(tables.plan_json(shipped("llama-7b")))
    assert sorted(keys(data) | {"reasons[]", "tried[].reasons[]"}) == PLAN


@pytest.mark.parametrize("name", ["quickstart", "smoke/allreduce"])
def test_plans_have_the_same_keys_whatever_is_known(name: str) -> None:
    known = {key.split(".")[0].split("[")[0] for key in PLAN}
    assert set(json.loads(tables.plan_json(shipped(name)))) == known


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
    data = json.loads(tables.status_json(run(tmp_path), Status("FAILED", "time limit", 75, ("a", "b"))))
    assert sorted(data) == STATUS
    assert data == {
        "id": "demo-1",
        "scheduler": "slurm",
        "native_id": "42",
        "state": "FAILED",
        "reason": "time limit",
        "exit_code": 75,
        "hosts": ["a", "b"],
        "folder": str(tmp_path),
    }


def test_list_is_made_of_statuses(tmp_path: Path) -> None:
    pairs = [
        (run(tmp_path), Status("PENDING", "waiting")),
        (run(tmp_path, id="demo-2"), Status("SUCCEEDED", "", 0)),
    ]
    data = json.loads(tables.run_list(pairs, as_json=True))
    assert [entry["id"] for entry in data] == ["demo-1", "demo-2"]
    assert all(sorted(entry) == STATUS for entry in data)
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
    text = tables.status(run(tmp_path), Status("RUNNING", "", None, ("a",)))
    assert "step 7/10, loss 2.2500, 10,000 tokens/s" in text


def test_variable_keys() -> None:
    variables = environment.environment(FABRICS["infiniband"], gpu=True, interface=None)
    assert all(sorted(entry) == VARIABLE for entry in json.loads(tables.variables_json(variables)))
    assert set(json.loads(tables.fabrics(as_json=True))) == set(FABRICS)
    assert len(tables.fabrics(as_json=False).splitlines()) == len(FABRICS) + 1


def test_table() -> None:
    assert tables.table([("a", "bb"), ("ccc", "")], ("X", "YY")) == "X    YY\na    bb\nccc"
    assert tables.table([]) == ""
