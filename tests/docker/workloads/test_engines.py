"""What a DeepSpeed config leaves open is filled in; what it says holds."""

from __future__ import annotations

import argparse
import json
import types
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("deepspeed", reason="the train extra is not installed")

import torch
from workloads import engines, session

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.torch

ARGS = argparse.Namespace(
    lr=1e-3,
    min_lr=1e-4,
    weight_decay=0.1,
    beta1=0.9,
    beta2=0.95,
    warmup_steps=4,
    max_steps=20,
    schedule="cosine",
    decay_share=0.25,
)


def test_the_rate_rises_and_falls() -> None:
    rates = [engines.learning_rate(step, 1e-3, ARGS) for step in range(25)]
    assert rates[:4] == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3])
    assert rates[4] == pytest.approx(1e-3)
    assert rates[19] == pytest.approx(1e-4)
    assert rates[20:] == pytest.approx([1e-4] * 5)
    assert rates[4:20] == sorted(rates[4:20], reverse=True)


def test_each_schedule_falls_in_its_way() -> None:
    def rates(schedule: str, **more: float) -> list[float]:
        args = argparse.Namespace(**{**vars(ARGS), "schedule": schedule, **more})
        return [engines.learning_rate(step, 1e-3, args) for step in range(22)]

    for schedule in ("cosine", "linear", "wsd", "constant"):
        assert rates(schedule)[:5] == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3, 1e-3])
    linear = rates("linear")
    assert linear[4:20] == pytest.approx([1e-3 - 9e-4 * step / 15 for step in range(16)])
    wsd = rates("wsd")
    assert wsd[4:15] == pytest.approx([1e-3] * 11)
    assert wsd[15:20] == pytest.approx([8.2e-4, 6.4e-4, 4.6e-4, 2.8e-4, 1e-4])  # a quarter of 20 steps
    assert wsd[20:] == linear[20:] == pytest.approx([1e-4] * 2)
    longer = rates("wsd", max_steps=40)
    assert longer[:15] == wsd[:15]  # the stable part is that of a longer run
    assert rates("constant")[4:] == pytest.approx([1e-3] * 18)


@pytest.mark.parametrize("updates", [1, 3])
def test_all_updates_of_a_step_have_its_rate_though_some_are_left_out(updates: int) -> None:
    """DeepSpeed steps the schedule after each update but those that overflow in fp16, which the job counts too."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    scheduler = engines.schedule(optimizer, ARGS, updates)
    engine = types.SimpleNamespace(lr_scheduler=scheduler, optimizer=optimizer)
    engine.get_lr = lambda: [optimizer.param_groups[0]["lr"]]
    rates = []
    for update in range(20 * updates):
        rates.append(engines.advance(engine, update))
        if update not in (0, 1, 7, 19 * updates - 1):
            optimizer.step()
            engine.lr_scheduler.step()
    assert rates[::updates] == pytest.approx([engines.learning_rate(step, 1e-3, ARGS) for step in range(20)])
    assert rates[updates - 1 :: updates] == rates[::updates]
    assert rates[-1] == pytest.approx(ARGS.min_lr)


def test_weight_decay_is_for_matrices() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.LayerNorm(3), torch.nn.Embedding(4, 3))
    model[0].weight.requires_grad_(False)
    matrices, others = engines.decay_groups(model, 0.1)
    assert (matrices["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    assert [p.shape for p in matrices["params"]] == [(4, 3)]
    assert [p.shape for p in others["params"]] == [(3,), (3,), (3,)]


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The ops that DeepSpeed says it was built with, for a test to choose."""
    from deepspeed import git_version_info

    ops: set[str] = set()
    monkeypatch.setattr(git_version_info, "installed_ops", _Ops(ops))
    return ops


class _Ops(dict[str, bool]):
    def __init__(self, built: set[str]) -> None:
        self.built = built

    def get(self, name: str, default: Any = None) -> Any:
        return name in self.built or default


def test_without_an_optimizer_it_is_adamw_by_the_options(built: set[str]) -> None:
    assert engines.optimizer({}, ARGS) == {
        "type": "AdamW",
        "params": {
            "lr": 1e-3,
            "weight_decay": 0.1,
            "betas": [0.9, 0.95],
            "eps": 1e-8,
            "torch_adam": True,
            "fused": True,
        },
    }


def test_the_configs_own_values_hold(built: set[str]) -> None:
    config = {"optimizer": {"type": "Adam", "params": {"lr": 5e-5, "betas": [0.8, 0.9], "torch_adam": False}}}
    made = engines.optimizer(config, ARGS)
    assert made["type"] == "Adam"
    assert made["params"]["lr"] == 5e-5
    assert made["params"]["betas"] == [0.8, 0.9]
    assert made["params"]["torch_adam"] is False
    assert "fused" not in made["params"]  # DeepSpeed's own does not take it
    params = {"torch_adam": True, "foreach": True}
    assert (
        engines.optimizer({"optimizer": {"type": "Adam", "params": params}}, ARGS)["params"]["fused"] is False
    )
    lion = engines.optimizer({"optimizer": {"type": "Lion", "params": {}}}, ARGS)
    assert lion["params"] == {"lr": 1e-3, "weight_decay": 0.1}


@pytest.mark.parametrize(
    ("ops", "offload", "torch_adam"),
    [
        (set(), "none", True),
        ({"fused_adam"}, "none", False),
        ({"fused_adam"}, "cpu", True),
        ({"cpu_adam"}, "cpu", False),
        ({"cpu_adam"}, "none", True),
        ({"cpu_adam"}, "nvme", False),
    ],
)
def test_adam_is_deepspeeds_where_nothing_has_to_be_compiled(
    ops: set[str], offload: str, torch_adam: bool, built: set[str]
) -> None:
    built |= ops
    config = {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": offload}}}
    assert engines.optimizer(config, ARGS)["params"].get("torch_adam", False) is torch_adam


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((4, 2, 8), "train_batch_size 8 is not micro batch 4 x accumulation 2 x 2 ranks"),
        (("auto", 1, 8), "must be whole numbers above 0"),
        ((4, None, 8), "must be whole numbers above 0"),
        ((4, 0, 8), "must be whole numbers above 0"),
    ],
)
def test_batch_numbers_must_agree(numbers: tuple[Any, ...], message: str, tmp_path: Path) -> None:
    path = tmp_path / "ds.json"
    path.write_text(json.dumps(dict(zip(engines.BATCH, numbers, strict=True))))
    with pytest.raises(session.Stop, match=message):
        engines.read(str(path), 2)


def test_a_config_that_is_not_there_or_not_json(tmp_path: Path) -> None:
    with pytest.raises(session.Stop, match="No such file"):
        engines.read(str(tmp_path / "none.json"), 1)
    (tmp_path / "ds.json").write_text("{,}")
    with pytest.raises(session.Stop, match=r"ds\.json"):
        engines.read(str(tmp_path / "ds.json"), 1)


def test_what_a_config_says() -> None:
    assert engines.stage({}) == 0
    assert engines.stage({"zero_optimization": {"stage": 3}}) == 3
    assert engines.precision({"bf16": {"enabled": True}}) == "bf16"
    assert engines.precision({"bf16": {"enabled": False}, "fp16": {"enabled": True}}) == "fp16"
    assert engines.precision({}) == "fp32"
