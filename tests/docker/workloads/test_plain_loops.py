"""Every stage learns, step by step, what a loop in torch learns that was written from the papers.

With the same weights, batches, rates and random numbers, without DeepSpeed, Trainer or TRL: so what differs is a
mistake of one of the two. The loops are the bench's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

pytest.importorskip("trl", reason="the train extra is not installed")

from tests.bench import rivals, toy, training

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    Curves = dict[str, tuple[list[float], list[float]]]

pytestmark = pytest.mark.deepspeed

SEED, STEPS = 0, 5
EXPERTS = {
    **{**toy.MODEL, "model_type": "mixtral", "sliding_window": None, "num_hidden_layers": 1},
    **{"num_local_experts": 4, "num_experts_per_tok": 2, "router_aux_loss_coef": 1.0},
}
BALANCED = ("finetune", "sft", "reward", "ppo")


def run(folder: Path, stages: Iterable[str]) -> Curves:
    """Of each stage, the figure of each step of the workload and of the plain loop."""
    ours = training.our_curves(folder, [*stages], SEED + 1)
    return {stage: (ours[stage][SEED], rivals.plain(folder, stage, SEED)) for stage in stages}


@pytest.fixture(scope="session", autouse=True)
def short() -> Iterable[None]:
    with pytest.MonkeyPatch.context() as patch:
        stages = {name: stage._replace(steps=STEPS) for name, stage in toy.STAGES.items()}
        patch.setattr(toy, "STAGES", stages)
        yield


@pytest.fixture(scope="session")
def curves(tmp_path_factory: pytest.TempPathFactory) -> Curves:
    folder = tmp_path_factory.mktemp("plain")
    toy.prepare(folder)
    return run(folder, toy.STAGES)


@pytest.fixture(scope="session")
def of_experts(tmp_path_factory: pytest.TempPathFactory) -> Curves:
    folder = tmp_path_factory.mktemp("experts")
    toy.prepare(folder, EXPERTS)
    return run(folder, BALANCED)


@pytest.mark.parametrize("stage", toy.STAGES)
def test_the_steps_are_those_of_a_plain_loop(stage: str, curves: Curves) -> None:
    ours, plain = curves[stage]
    assert len(set(ours)) == STEPS
    assert ours == pytest.approx(plain, rel=1e-5)


@pytest.mark.parametrize("stage", BALANCED)
def test_the_steps_of_a_balanced_mixture_are_those_of_a_plain_loop(stage: str, of_experts: Curves) -> None:
    ours, plain = of_experts[stage]
    assert len(set(ours)) == STEPS
    assert ours == pytest.approx(plain, rel=1e-6)
