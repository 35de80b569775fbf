"""However the global batch is cut, a run learns the same: losses, rates, norms, weights and evaluation."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.docker.workloads import ranks

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

pytestmark = pytest.mark.deepspeed

MODEL = {**ranks.LLAMA, "num_key_value_heads": 4}  # so that Ulysses can divide the heads
EXPERTS = {
    **{**MODEL, "model_type": "mixtral", "sliding_window": None, "num_hidden_layers": 1},
    **{"num_local_experts": 4, "num_experts_per_tok": 2, "router_aux_loss_coef": 0.5},
}
STEPS = 4
ARGS = (
    *("--seq-length=64", "--lr=5e-3", "--min-lr=1e-3", "--warmup-steps=2", "--log-every=1", "--export"),
    *(f"--max-steps={STEPS}", "--eval-every=2", "--eval-samples=21", "--tokenizer=bpe:320"),
)
# fp32 adds up in another order in each case; Adam divides what is nearly 0 by what is nearly 0
LOSS, NORM, WEIGHT = 2e-5, 1e-4, 2e-4


class Cut(NamedTuple):
    """How 8 samples a step are divided."""

    size: int
    micro: int
    accumulation: int
    stage: int
    sequence: int = 1  # ranks that share a sample

    def run(self, folder: Path, cache: Path, *args: str, model: Mapping[str, Any] = MODEL) -> ranks.Ranks:
        groups = self.size // self.sequence
        config = ranks.deepspeed(groups, self.stage, self.micro, self.accumulation, gradient_clipping=0.5)
        assert config["train_batch_size"] == 8
        shared = (f"--sequence-parallel={self.sequence}", f"--data-cache={cache / 'data'}")
        folder.mkdir(parents=True, exist_ok=True)
        return ranks.run(folder, self.size, config, *ARGS, *shared, *args, model=model)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> ranks.Ranks:
    folder = tmp_path_factory.mktemp("whole")
    return Cut(size=1, micro=8, accumulation=1, stage=1).run(folder, folder)


def assert_same(run: ranks.Ranks, whole: ranks.Ranks) -> None:
    from safetensors.torch import load_file

    for ours, theirs in zip(run.steps(), whole.steps(), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=LOSS)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=NORM)
        assert (ours["step"], ours["lr"], ours["tokens"]) == (theirs["step"], theirs["lr"], theirs["tokens"])
    for ours, theirs in zip(run.events("eval"), whole.events("eval"), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=LOSS)
        assert ours["bits_per_byte"] == pytest.approx(theirs["bits_per_byte"], abs=LOSS)
    weights, expected = (load_file(r.run_dir / "export/model.safetensors") for r in (run, whole))
    assert weights.keys() == expected.keys()
    for name, weight in weights.items():
        assert (weight - expected[name]).abs().max() < WEIGHT, name


@pytest.mark.parametrize(
    "cut",
    [
        Cut(1, 2, 4, stage=0),
        Cut(2, 4, 1, stage=0),
        Cut(2, 2, 2, stage=1),
        Cut(2, 1, 4, stage=2),
        Cut(2, 4, 1, stage=3),
        Cut(4, 1, 2, stage=3),
        Cut(4, 2, 1, stage=1),
        Cut(2, 8, 1, stage=2, sequence=2),
        Cut(4, 2, 2, stage=3, sequence=2),
    ],
    ids=lambda cut: "-".join(map(str, cut)),
)
def test_each_cut_learns_the_same(cut: Cut, whole: ranks.Ranks, tmp_path: Path) -> None:
    assert_same(cut.run(tmp_path, whole.run_dir.parent), whole)


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> ranks.Ranks:
    folder = tmp_path_factory.mktemp("mixture")
    return Cut(size=1, micro=8, accumulation=1, stage=1).run(folder, folder, model=EXPERTS)


@pytest.mark.parametrize(
    "cut", [Cut(2, 1, 4, stage=3), Cut(2, 8, 1, stage=2, sequence=2)], ids=lambda cut: "-".join(map(str, cut))
)
def test_each_cut_balances_experts_alike(cut: Cut, mixture: ranks.Ranks, tmp_path: Path) -> None:
    run = cut.run(tmp_path, mixture.run_dir.parent, model=EXPERTS)
    assert_same(run, mixture)
    figures = ("expert_share_min", "expert_share_max", "router_entropy")
    for ours, theirs in zip(run.steps(), mixture.steps(), strict=True):
        assert [ours[key] for key in figures] == pytest.approx([theirs[key] for key in figures], abs=LOSS)


def test_a_run_that_is_resumed_in_the_middle_learns_the_same(whole: ranks.Ranks, tmp_path: Path) -> None:
    cut = Cut(2, 2, 2, stage=2)
    cut.run(tmp_path, whole.run_dir.parent, "--checkpoint-every=2")
    (tmp_path / "run/checkpoints/step-00000004/complete.json").unlink()
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines(keepends=True)
    before = [line for line in lines if '"step": 1' in line or '"step": 2' in line]
    (tmp_path / "run/metrics.jsonl").write_text("".join(before))
    run = cut.run(tmp_path, whole.run_dir.parent)
    assert run.events("start")[-1]["resumed_from"] == "step-00000002"
    assert_same(run, whole)
    first = run.steps()[2]
    assert first["tokens_per_second"] == pytest.approx(8 * 64 / first["step_seconds"])


def test_bits_per_byte_are_those_of_the_text_that_is_evaluated(whole: ranks.Ranks) -> None:
    import numpy as np
    from transformers import AutoTokenizer
    from workloads import corpus

    (cached,) = (whole.run_dir.parent / "data").glob("*/corpus.json")
    predicted = corpus.read(cached.parent).split()[1][1 + np.arange(21 * 64)]
    decoded = AutoTokenizer.from_pretrained(whole.run_dir / "export").decode(
        predicted, skip_special_tokens=True
    )
    nats = whole.events("eval")[-1]["loss"] * len(predicted)
    bits = nats / math.log(2) / len(decoded.encode())
    assert whole.events("eval")[-1]["bits_per_byte"] == pytest.approx(bits, rel=0.003)
