"""Parameters of optimizers and schedules are those that their classes take, and none that they need is missing."""

from __future__ import annotations

from typing import Any

import pytest

from launcher.deepspeed import keys, optimizer_rules, parameters


def messages(section: str, named: str, params: Any = None) -> list[str]:
    given = {section: {"type": named} | ({} if params is None else {"params": params})}
    return [str(problem) for _, problem in keys.problems(given, "./train.py")]


@pytest.mark.parametrize(
    ("named", "params", "message"),
    [
        ("WarmupLR", None, "deepspeed.scheduler: DeepSpeed fails without params; add params: {}"),
        ("WarmupDecayLR", None, "deepspeed.scheduler: WarmupDecayLR needs params: {total_num_steps: …}"),
        (
            "OneCycle",
            {"cycle_first_step_size": 5},
            "deepspeed.scheduler: OneCycle needs params: {cycle_min_lr: …, cycle_max_lr: …}",
        ),
        (
            "WarmupLR",
            {"warmup_num_steps": 0},
            "deepspeed.scheduler.params.warmup_num_steps: a whole number above 0 is expected, not 0",
        ),
        (
            "WarmupLR",
            {"warmup_num_steps": 1e2},
            "deepspeed.scheduler.params.warmup_num_steps: a whole number above 0 is expected, not 100.0",
        ),
        (
            "WarmupLR",
            {"warmup_max_lr": "fast"},
            "deepspeed.scheduler.params.warmup_max_lr: a number or a list of numbers is expected, not 'fast'",
        ),
        (
            "WarmupLR",
            {"warmup_type": "cosine"},
            "deepspeed.scheduler.params.warmup_type: linear or log is expected, not 'cosine'",
        ),
        (
            "LambdaLR",
            {"lr_lambda": "x"},
            "deepspeed.scheduler.type: 'LambdaLR' takes a function, which a configuration cannot hold; "
            "use another, or leave it out",
        ),
    ],
)
def test_schedules_that_deepspeed_refuses(named: str, params: Any, message: str) -> None:
    assert messages("scheduler", named, params) == [message]


@pytest.mark.parametrize(
    ("named", "params"),
    [
        ("WarmupLR", {}),
        ("WarmupLR", {"warmup_max_lr": None, "warmup_min_lr": [0, 0], "warmup_type": "linear"}),
        ("WarmupCosineLR", {"total_num_steps": 1000}),
        ("OneCycle", {"cycle_min_lr": 0.1, "cycle_max_lr": [0.2, 0.3], "cycle_second_step_size": None}),
    ],
)
def test_schedules_that_deepspeed_takes(named: str, params: Any) -> None:
    assert messages("scheduler", named, params) == []


@pytest.mark.parametrize(
    ("named", "params", "expected"),
    [
        ("AdamW", {"betas": 0.9}, "a list of two numbers of at least 0 and below 1"),
        ("AdamW", {"betas": [0.9]}, "a list of two numbers of at least 0 and below 1"),
        ("AdamW", {"betas": [0.9, 1.5]}, "a list of two numbers of at least 0 and below 1"),
        ("Adam", {"lr": -1e-3}, "a number of at least 0"),
        ("Adam", {"lr": [1e-3, 2e-3]}, "a number of at least 0"),
        ("Muon", {"ns_method": "newton"}, "gram or standard"),
    ],
)
def test_values_that_an_optimizer_refuses(named: str, params: dict[str, Any], expected: str) -> None:
    (message,) = messages("optimizer", named, params)
    assert f": {expected} is expected, not " in message


def test_what_an_optimizer_takes() -> None:
    params = {"lr": 0, "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.1, "torch_adam": True}
    assert messages("optimizer", "AdamW", params) == []
    assert messages("optimizer", "Adafactor", {"eps": [1e-30, 1e-3]}) == []
    (message,) = messages("optimizer", "OneBitAdam", {"freeze_step": 10})
    assert message == "deepspeed.optimizer.type: 'OneBitAdam' was removed from DeepSpeed; use AdamW"
    (message,) = messages("optimizer", "LBFGS")
    assert "computes a loss several times a step" in message
    (message,) = messages("optimizer", "AdamW", {"adamw_mode": True})  # DeepSpeed gives it a second time
    assert message.endswith("did you mean 'adam_w_mode'?")


@pytest.mark.parametrize(
    ("name", "params", "offloaded", "found"),
    [
        ("adamw", {"torch_adam": True, "fused": True, "adam_w_mode": True}, False, []),
        ("adamw", {"torch_adam": True, "bias_correction": True}, True, ["bias_correction"]),
        ("adamw", {"fused": True}, False, ["fused"]),
        ("adamw", {"bias_correction": True, "fp32_optimizer_states": True}, True, []),
        ("adamw", {"amsgrad": True}, False, ["amsgrad"]),
        ("adam", {"set_grad_none": True}, False, []),
        ("adam", {"set_grad_none": True}, True, ["set_grad_none"]),
        ("adagrad", {"fp32_optimizer_states": True}, False, ["fp32_optimizer_states"]),
        ("adagrad", {"fp32_optimizer_states": True}, True, []),
        ("lion", {"set_grad_none": True}, True, ["set_grad_none"]),
        ("SGD", {"momentum": 0.9}, True, []),
    ],
)
def test_parameters_of_another_class(
    name: str, params: dict[str, Any], offloaded: bool, found: list[str]
) -> None:
    assert list(parameters.misplaced(name, params, offloaded)) == found


@pytest.mark.torch
def test_the_schedules_are_deepspeeds() -> None:
    schedules = pytest.importorskip("deepspeed.runtime.lr_schedules", reason="it is the judge")
    assert set(optimizer_rules._SCHEDULES) == set(schedules.VALID_LR_SCHEDULES)
    assert set(parameters.IMPOSSIBLE) <= {*parameters.types("optimizer"), *parameters.types("scheduler")}
