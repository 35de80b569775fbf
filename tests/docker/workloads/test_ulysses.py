"""Sequence parallelism with real ranks: the losses are those of ranks that see whole samples."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from tests.docker.workloads import ranks

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.deepspeed

ARGS = ("--seq-length=64", "--lr=1e-2", "--max-steps=6", "--log-every=1", "--eval-every=6")
LLAMA = {**ranks.LLAMA, "num_key_value_heads": 4}
GROUPED = ranks.LLAMA  # two heads of keys for four of queries


def deepspeed(groups: int, stage: int, micro: int = 4, zero: dict[str, Any] | None = None) -> dict[str, Any]:
    return ranks.deepspeed(groups, stage, micro=micro, zero=zero, gradient_clipping=1.0)


def train(folder: Path, size: int, config: dict[str, Any], *args: str, model: object = LLAMA) -> ranks.Ranks:
    run = ranks.start(folder, size, config, *ARGS, *args, model=model)  # type: ignore[arg-type]
    assert run.wait() == [0] * size, run.output()
    return run


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> ranks.Ranks:
    return train(tmp_path_factory.mktemp("alone"), 1, deepspeed(1, 2))


@pytest.mark.parametrize(("stage", "zero"), [(0, {}), (2, {}), (3, {}), (3, {"reduce_scatter": False})])
def test_two_ranks_that_share_samples_learn_as_one_rank_does(
    stage: int, zero: dict[str, Any], alone: ranks.Ranks, tmp_path: Path
) -> None:
    shared = train(tmp_path, 2, deepspeed(1, stage, zero=zero), "--sequence-parallel=2")
    assert list(shared.losses()) == list(alone.losses())
    assert list(shared.losses().values()) == pytest.approx(list(alone.losses().values()), abs=2e-4)
    norms = [[line["grad_norm"] for line in run.steps()] for run in (shared, alone)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)
    evaluated = [run.events("eval")[0]["loss"] for run in (shared, alone)]
    assert evaluated[0] == pytest.approx(evaluated[1], abs=2e-4)
    assert shared.steps()[-1]["tokens"] == alone.steps()[-1]["tokens"] == 6 * 4 * 64


def test_groups_of_ranks_with_grouped_heads_and_accumulation(tmp_path: Path) -> None:
    plain = train(tmp_path / "plain", 2, deepspeed(2, 2, micro=2), model=GROUPED)
    config = {**deepspeed(2, 2, micro=1), "gradient_accumulation_steps": 2, "train_batch_size": 4}
    shared = train(tmp_path / "shared", 4, config, "--sequence-parallel=2", model=GROUPED)
    assert list(shared.losses().values()) == pytest.approx(list(plain.losses().values()), abs=2e-4)


def test_a_run_resumes_with_other_groups(alone: ranks.Ranks, tmp_path: Path) -> None:
    first = ranks.start(
        tmp_path, 2, deepspeed(1, 2), *ARGS, "--sequence-parallel=2", "--checkpoint-every=3", model=LLAMA
    )
    assert first.wait() == [0, 0], first.output()
    third = first.run_dir / "checkpoints"
    (third / "step-00000006" / "complete.json").unlink()
    again = ranks.start(tmp_path, 2, deepspeed(2, 2, micro=2), *ARGS, model=LLAMA)
    assert again.wait() == [0, 0], again.output()
    assert again.events("start")[-1]["resumed_from"] == "step-00000003"
    assert list(again.losses().values()) == pytest.approx(list(alone.losses().values()), abs=2e-4)


def test_what_cannot_be_shared_is_told_in_one_line(tmp_path: Path) -> None:
    cases: list[tuple[int, tuple[str, ...], object, str]] = [
        (1, ("--sequence-parallel=2",), LLAMA, "--sequence-parallel 2 does not divide the 1 ranks"),
        (2, ("--sequence-parallel=2", "--seq-length=63"), LLAMA, "does not divide --seq-length 63"),
        (2, ("--sequence-parallel=2",), ranks.GPT2, "DeepSpeed's Ulysses knows no gpt2"),
        (
            2,
            ("--sequence-parallel=2", "--attention=eager"),
            LLAMA,
            "eager attn_implementation isn't currently",
        ),
        (
            2,
            ("--sequence-parallel=2",),
            {**LLAMA, "hidden_size": 36, "num_attention_heads": 3, "num_key_value_heads": 3},
            "Attention head count 3 is not divisible by SP size 2",
        ),
    ]
    for number, (size, args, model, message) in enumerate(cases):
        run = ranks.start(tmp_path / str(number), size, deepspeed(1, 0), *ARGS, *args, model=model)  # type: ignore[arg-type]
        assert run.wait() == [os.EX_USAGE] * size, run.output()
        assert message in run.output(0).splitlines()[-1]
