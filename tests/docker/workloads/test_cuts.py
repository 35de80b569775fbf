"""The same global batch, cut otherwise: losses, rates, weights and evaluation of every stage are the same.

One rank takes a step as one micro batch; two ranks take it as micro batches of one sample under ZeRO-2, and under
ZeRO-3 in a run that is interrupted and resumed. The model of policy optimization is a GPT-2 with dropout, whose learned
positions tell padding, and in whose update dropout would show.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("trl", reason="the train extra is not installed")

from workloads import examples

from tests.docker.workloads import ranks, tiny

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.deepspeed  # all tests are of the same few processes

LLAMA = {**ranks.LLAMA, "num_hidden_layers": 1, "hidden_size": 32}
GPT2 = {**ranks.GPT2, "vocab_size": 320, "n_layer": 1, "n_embd": 32}
MIXTRAL = {
    **{**LLAMA, "model_type": "mixtral", "sliding_window": None},
    **{"num_local_experts": 4, "num_experts_per_tok": 2, "router_aux_loss_coef": 0.5},
}
STEPS = 3
ROWS = 48  # of which two are held out
# an eps above rounding errors, which Adam would else blow up to whole updates where the gradient is 0
ADAM: dict[str, Any] = {"optimizer": {"type": "AdamW", "params": {"eps": 1e-4}}, "gradient_clipping": 1.0}
RATES = [2e-3, 2e-3, 2e-4]
WORDS = (
    *(f"--max-steps={STEPS}", "--log-every=1", "--seq-length=56", "--eval-every=3", "--checkpoint-every=2"),
    *("--lr=2e-3", "--warmup-steps=1", "--min-lr=2e-4", "--export"),
)
ANSWERS = ("--reward=lower-case", "--max-new-tokens=6", "--beta=0.05")
STAGES = {
    "finetune": ("finetune", LLAMA, ()),
    "sft": ("chat_sft", LLAMA, ("--loader-workers=1",)),
    "reward": ("chat_reward", LLAMA, ()),
    "dpo": ("chat_dpo", LLAMA, ("--lora-rank=4", "--merge")),
    "rloo": ("chat_rl", GPT2, (*ANSWERS, "--generations=2")),
    "grpo": ("chat_rl", GPT2, (*ANSWERS, "--generations=2", "--algorithm=grpo")),
    "ppo": ("chat_ppo", GPT2, ANSWERS),
    "ppo-all": (
        "chat_ppo",
        LLAMA,
        (
            *(*ANSWERS, "--epochs=2", "--lora-rank=4", "--merge", "--activation-checkpointing", "--ema=0.5"),
            *("--target-kl=0.01", "--missing-eos-penalty=1", "--ptx-data=builtin", "--ptx-weight=1"),
        ),
    ),
    "finetune-moe": ("finetune", MIXTRAL, ()),
    "sft-moe": ("chat_sft", MIXTRAL, ("--packing",)),
    "reward-moe": ("chat_reward", MIXTRAL, ()),
    "rloo-moe": ("chat_rl", MIXTRAL, (*ANSWERS, "--generations=2")),
    "ppo-moe": ("chat_ppo", MIXTRAL, (*ANSWERS, "--ptx-data=builtin", "--ptx-weight=1")),
}
CUTS = ("ZeRO-2", "ZeRO-3")
FIGURES = (
    *("loss", "grad_norm", "reward", "kl", "margin", "critic_loss", "ptx_loss", "beta", "tokens"),
    *("expert_share_min", "expert_share_max", "router_entropy"),
)
EVALUATED = ("loss", "accuracy", "reward", "margin", "kl")


def case(folder: Path, stage: str, cut: str, config: dict[str, Any]) -> dict[str, Any]:
    workload, model, words = STAGES[stage]
    place = folder / str(model["model_type"])
    return {
        "workload": workload,
        "run_dir": str(folder / f"{stage} {cut}"),
        "config": config,
        "words": [f"--model={place}", f"--data={folder / 'data.jsonl'}", *WORDS, *words],
    }


def cases(folder: Path, size: int) -> list[dict[str, Any]]:
    if size == 1:
        return [case(folder, stage, "whole", ranks.deepspeed(1, 1, micro=8, **ADAM)) for stage in STAGES]
    runs = []
    for stage in STAGES:
        runs.append(case(folder, stage, "ZeRO-2", ranks.deepspeed(2, 2, micro=1, accumulation=4, **ADAM)))
        cut = case(folder, stage, "ZeRO-3", ranks.deepspeed(2, 3, micro=2, accumulation=2, **ADAM))
        runs += [{**cut, "stop_before": 3}, cut]
    return runs


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of all stages and cuts."""
    folder = tmp_path_factory.mktemp("cuts")
    for model in (LLAMA, GPT2, MIXTRAL):
        tiny.save(folder / str(model["model_type"]), model)
    rows = [json.dumps(row) for row in examples.builtin(("prompt", "completion", "chosen", "rejected"))]
    (folder / "data.jsonl").write_text("\n".join(rows[:ROWS]))
    started = []
    for size in (1, 2):
        started.append(ranks.start_cases(folder / f"{size} ranks", size, cases(folder, size)))
    for run in started:
        assert set(run.wait(3 * ranks.TIMEOUT)) == {0}, run.output()
        ended = [
            line.rpartition(" ended with ")[2] for line in run.output().splitlines() if " ended with " in line
        ]
        assert set(ended) <= {"0", "an interruption"}, run.output()
    return folder


def lines(folder: Path, stage: str, cut: str) -> list[dict[str, Any]]:
    """The lines of a run; of a step that was repeated, the later one."""
    found = map(json.loads, (folder / f"{stage} {cut}" / "metrics.jsonl").read_text().splitlines())
    return list({(line["step"], line.get("event")): line for line in found}.values())


def steps(folder: Path, stage: str, cut: str) -> list[dict[str, Any]]:
    return [line for line in lines(folder, stage, cut) if "event" not in line]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("cut", CUTS)
def test_steps_are_the_same(folder: Path, stage: str, cut: str) -> None:
    whole, other = steps(folder, stage, "whole"), steps(folder, stage, cut)
    for figure in FIGURES:
        expected = [line[figure] for line in whole if figure in line]
        assert [line[figure] for line in other if figure in line] == pytest.approx(
            expected, rel=1e-4, abs=1e-5
        )
    assert [line["lr"] for line in other] == pytest.approx(RATES)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("cut", CUTS)
def test_weights_and_evaluation_are_the_same(folder: Path, stage: str, cut: str) -> None:
    import torch
    from safetensors.torch import load_file

    whole, other = (load_file(folder / f"{stage} {c}" / "export/model.safetensors") for c in ("whole", cut))
    assert whole.keys() == other.keys()
    for key in whole:
        torch.testing.assert_close(
            other[key], whole[key], rtol=0, atol=2e-5, msg=lambda m, k=key: f"{k}: {m}"
        )
    (expected,) = [line for line in lines(folder, stage, "whole") if line.get("event") == "eval"]
    (found,) = [line for line in lines(folder, stage, cut) if line.get("event") == "eval"]
    kept = [key for key in EVALUATED if key in expected]
    assert kept
    assert [found[key] for key in kept] == pytest.approx([expected[key] for key in kept], rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("stage", STAGES)
def test_speed_and_tokens_go_on_after_a_resume(folder: Path, stage: str) -> None:
    found = steps(folder, stage, "ZeRO-3")
    tokens = [line["tokens"] for line in found]
    assert tokens == [line["tokens"] for line in steps(folder, stage, "whole")]
    for before, line in zip([0, *tokens], found, strict=False):
        assert line["tokens_per_second"] * line["step_seconds"] == pytest.approx(line["tokens"] - before)
