"""The experts of a mixture are used, their routers are measured, and a model without a balancing loss is named."""

from __future__ import annotations

import argparse
import math
import re
from typing import TYPE_CHECKING, Any

import pytest

torch = pytest.importorskip("torch", reason="the train extra is not installed")

from workloads import balancing, losses, routing  # noqa: E402
from workloads.session import Stop  # noqa: E402

from tests.docker.workloads import ranks  # noqa: E402
from tests.docker.workloads.test_losses import SHAPE, VOCABULARY  # noqa: E402

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PretrainedConfig

pytestmark = pytest.mark.torch


def settings(family: str = "mixtral", **more: object) -> PretrainedConfig:
    from transformers import AutoConfig

    return AutoConfig.for_model(family, vocab_size=VOCABULARY, **{**SHAPE, **more})


def test_the_loss_is_that_of_switch_transformer_for_each_layer() -> None:
    config = settings(num_local_experts=4, num_experts_per_tok=1)
    even = torch.eye(4).repeat(8, 1) * 50  # each expert gets a quarter of the tokens, with certainty
    one = torch.tensor([[50.0, 0, 0, 0]]).repeat(32, 1)
    other = one.roll(1, dims=1)
    assert routing.routing((even,), config).balance.item() == pytest.approx(1)
    assert routing.routing((one,), config).balance.item() == pytest.approx(4)
    # two layers that use one expert each are not balanced because the experts are others
    assert routing.routing((one, other), config).balance.item() == pytest.approx(4)


def test_for_one_layer_it_is_that_of_transformers() -> None:
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    config = settings(num_local_experts=8, num_experts_per_tok=2)
    logits = torch.randn(100, 8)
    ours = routing.routing((logits,), config).balance
    assert ours.item() == pytest.approx(load_balancing_loss_func((logits,), 8, 2).item(), rel=1e-5)


def test_figures_of_the_routers() -> None:
    config = settings(num_local_experts=4, num_experts_per_tok=2)
    flat, sharp = torch.tensor([[0.2, 0.1, 0.0, 0.0]]) * 1e-3, torch.tensor([[60.0, 50.0, 0, 0]])
    routed = routing.routing((flat.repeat(10, 1), sharp.repeat(10, 1).roll(2, dims=1)), config)
    assert routed.choices.tolist() == [[10, 10, 0, 0], [0, 0, 10, 10]]
    found = routing.figures(routed.choices, routed.entropy, config)
    assert found["expert_shares"] == [0.25] * 4
    assert (found["expert_share_min"], found["expert_share_max"]) == (0, 0.5)
    assert found["router_entropy"] == pytest.approx(math.log(4) / 2, abs=1e-3)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "olmoe"])
def test_the_routers_learn_from_it(family: str, checkpointing: bool) -> None:
    from transformers import AutoModelForCausalLM

    config = settings(family, router_aux_loss_coef=0.0, moe_intermediate_size=16)
    config.use_cache = False
    block = torch.randint(VOCABULARY, (2, 9))
    slopes = {}
    for coefficient in (0.0, 10.0):
        config.router_aux_loss_coef = coefficient
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        if checkpointing:
            model.activation_checkpointing_enable()
        losses.attach(model)
        balance = balancing.of(model)
        total, _ = model(input_ids=block[:, :-1], labels=block[:, 1:])
        assert (balance is None) is (coefficient == 0)
        if balance is not None:
            added = balance.mean()
            rows = torch.arange(2).repeat_interleave(8)
            expected = routing.routing(_router_logits(model, block), config, rows).balance.mean()
            assert added.item() == pytest.approx(10.0 * expected.item(), rel=1e-5)
            total = total + added
        total.backward()
        slopes[coefficient] = {
            n: p.grad.clone() for n, p in model.named_parameters() if n.endswith("gate.weight")
        }
    assert len(slopes[0.0]) == 2
    for name, slope in slopes[0.0].items():
        assert (slope - slopes[10.0][name]).abs().max() > 1e-3


def _router_logits(model: Any, block: Any) -> tuple[Any, ...]:
    with torch.no_grad():
        outputs = model.base_model(input_ids=block[:, :-1], output_router_logits=True)
    return tuple(outputs.router_logits)


def logits_of(tokens: int, layers: int = 2) -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(tokens, 4, generator=generator, dtype=torch.float64) for _ in range(layers))


def test_the_loss_of_a_sequence_does_not_depend_on_the_others_or_on_padding() -> None:
    config = settings(num_local_experts=4, num_experts_per_tok=2)
    logits, sequences = logits_of(12), torch.tensor([0] * 5 + [-1] * 2 + [1] * 4 + [-1])
    routed = routing.routing(logits, config, sequences)
    for number in (0, 1):
        alone = routing.routing(tuple(layer[sequences == number] for layer in logits), config)
        assert routed.balance[number].item() == pytest.approx(alone.balance.item(), rel=1e-6)
    assert routed.choices.sum().item() == 2 * 2 * 9


def test_a_mixture_without_a_balancing_loss_is_named() -> None:
    assert routing.unbalanced(settings("llama")) is None
    assert routing.unbalanced(settings("mixtral")) is None
    off = routing.unbalanced(settings("mixtral", router_aux_loss_coef=0.0))
    assert off is not None
    assert "the 8 experts are trained without a load-balancing loss (router_aux_loss_coef is 0)" in off
    missing = routing.unbalanced(settings("deepseek_v3", n_routed_experts=16))
    assert missing is not None
    assert "the 16 experts" in missing
    assert "deepseek_v3 has no router_aux_loss_coef" in missing
    encoder = routing.unbalanced(settings("switch_transformers", router_aux_loss_coef=0.01, num_experts=8))
    assert encoder is not None
    assert (
        "the 8 experts are trained without a load-balancing loss (there is none for an encoder-decoder)"
        in encoder
    )


@pytest.mark.parametrize(
    ("options", "able", "said"),
    [
        ({}, False, "expert_parallel: this workload has every expert on each rank; leave it out"),
        (
            {"export": True},
            True,
            "--export: experts that expert_parallel spreads over ranks are not put together",
        ),
        ({"lora_rank": 4}, True, "--lora-rank: expert_parallel spreads experts that are trained themselves"),
    ],
)
def test_where_experts_cannot_be_spread_it_is_said(options: dict[str, Any], able: bool, said: str) -> None:
    args = argparse.Namespace(**{"export": False, **options})
    routing.check_spread(args, {"expert_parallel": {"enabled": True, "autoep_size": 1}}, able)
    routing.check_spread(args, {"expert_parallel": {"enabled": False, "autoep_size": 2}}, able)
    with pytest.raises(Stop, match=re.escape(said)):
        routing.check_spread(args, {"expert_parallel": {"enabled": True, "autoep_size": 2}}, able)


@pytest.mark.deepspeed
def test_all_experts_of_the_twin_are_used_after_200_steps(tmp_path: Path) -> None:
    config = ranks.deepspeed(1, stage=2, micro=8)
    args = ("--seq-length=64", "--lr=5e-3", "--max-steps=200", "--log-every=50")
    run = ranks.run(tmp_path, 1, config, *args, model="tiny-mixtral")
    last = run.steps()[-1]
    assert sum(last["expert_shares"]) == pytest.approx(1, abs=1e-3)
    assert 0.1 < last["expert_share_min"] <= 0.25 <= last["expert_share_max"] < 0.5
    assert 0 < last["router_entropy"] < math.log(4)
    assert last["loss"] < 3
    assert "without a load-balancing loss" not in run.output(0)


@pytest.mark.deepspeed
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_experts_spread_over_ranks_learn_as_whole_ones(stage: int, tmp_path: Path) -> None:
    args = (
        "--seq-length=32",
        "--lr=1e-3",
        "--max-steps=4",
        "--log-every=1",
        "--eval-every=4",
        "--eval-samples=8",
    )
    spread = {"enabled": True, "autoep_size": 2, "use_grouped_mm": False}
    together, apart = (
        {**ranks.deepspeed(2, stage, gradient_clipping=1.0), "expert_parallel": section}
        for section in ({"enabled": False}, spread)
    )
    whole = ranks.run(tmp_path / "whole", 2, together, *args, model="tiny-mixtral")
    run = ranks.run(tmp_path / "spread", 2, apart, *args, "--checkpoint-every=2", model="tiny-mixtral")
    assert run.losses() == pytest.approx(whole.losses(), abs=2e-4)
    assert [step["expert_shares"] for step in run.steps()] == [
        step["expert_shares"] for step in whole.steps()
    ]
    assert run.events("eval")[0]["loss"] == pytest.approx(whole.events("eval")[0]["loss"], abs=2e-4)
    (run.run_dir / "checkpoints/step-00000004/complete.json").unlink()
    again = ranks.run(tmp_path / "spread", 2, apart, *args, model="tiny-mixtral")
    assert again.events("start")[-1]["resumed_from"] == "step-00000002"
    assert again.losses() == pytest.approx(whole.losses(), abs=2e-4)


@pytest.mark.deepspeed
def test_the_trainers_experts_spread_over_ranks_learn_as_whole_ones(tmp_path: Path) -> None:
    args = ("--seq-length=32", "--lr=1e-3", "--max-steps=3", "--log-every=1")
    runs = []
    for section in ({"enabled": False}, {"enabled": True, "autoep_size": 2, "use_grouped_mm": False}):
        config = {**ranks.deepspeed(2, 2), "expert_parallel": section}
        folder = tmp_path / str(section["enabled"])
        runs.append(ranks.run(folder, 2, config, *args, model="tiny-mixtral", workload="finetune"))
    whole, spread = runs
    assert spread.losses() == pytest.approx(whole.losses(), abs=2e-4)
    assert [step["expert_shares"] for step in spread.steps()] == [
        step["expert_shares"] for step in whole.steps()
    ]


@pytest.mark.deepspeed
def test_experts_spread_over_ranks_are_not_exported(tmp_path: Path) -> None:
    spread = {"expert_parallel": {"enabled": True, "autoep_size": 2}}
    config = {**ranks.deepspeed(2, 1), **spread}
    run = ranks.run(tmp_path, 2, config, "--seq-length=32", "--export", model="tiny-mixtral", code=64)
    assert "--export: experts that expert_parallel spreads over ranks" in run.output(0)
