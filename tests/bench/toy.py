"""The toy that every program of the comparison in training.py trains on: model, batches, rates, and a stage's numbers.

Owns what has to be the same for all of them. The model has positions for every example, as what a program does with one
that is too long is its own affair.
"""

from __future__ import annotations

import json
import math
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.docker.workloads import ranks, tiny

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    Row = dict[str, str]

MODEL = {**ranks.LLAMA, "hidden_size": 64, "intermediate_size": 128, "max_position_embeddings": 128}
BATCH, LENGTH, TOKENS, ROWS, BETA = 16, 96, 12, 400, 0.05
ANSWERS = 4  # of RLOO, to each prompt
SAMPLED = ("--reward=lower-case", f"--max-new-tokens={TOKENS}", f"--beta={BETA}")


class Stage(NamedTuple):
    """A stage of training: its workload and words, the figure that is compared, steps and peak rate."""

    workload: str
    words: tuple[str, ...]
    figure: str
    steps: int
    rate: float


STAGES = {
    "finetune": Stage("finetune", (), "loss", 30, 5e-3),
    "sft": Stage("chat_sft", (), "loss", 30, 5e-3),
    "reward": Stage("chat_reward", (), "loss", 16, 2e-3),
    "dpo": Stage("chat_dpo", (), "loss", 16, 1e-3),
    "rloo": Stage("chat_rl", SAMPLED, "reward", 40, 3e-3),
    "ppo": Stage("chat_ppo", SAMPLED, "reward", 40, 3e-3),
}


def prepare(folder: Path, model: Mapping[str, Any] = MODEL) -> None:
    """Write the model `tiny` and the examples `data.jsonl` that all programs read."""
    from workloads import examples

    tiny.save(folder / "tiny", model)
    examples_ = [*examples.builtin(("prompt", "completion", "chosen", "rejected"))][:ROWS]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in examples_))


def batches(folder: Path, stage: str, seed: int) -> list[list[Row]]:
    """The examples of each step, as the workload takes them: without those that it holds out, in its order."""
    from workloads import examples

    alone: Any = SimpleNamespace(together=lambda work: work())
    forms = [("prompt", "completion", "chosen", "rejected")]
    rows, _ = examples.read(alone, [str(folder / "data.jsonl")], forms)
    size, steps = BATCH // (ANSWERS if stage == "rloo" else 1), STAGES[stage].steps
    order = examples.order(len(rows), steps * size, seed)
    return [[rows[number] for number in order[step * size :][:size]] for step in range(steps)]


def rate(step: int, steps: int, peak: float) -> float:
    """The rate of each step (from 0): half a cosine from `peak` to 0 at the last."""
    return peak * 0.5 * (1 + math.cos(math.pi * step / (steps - 1)))


def lower_case(answer: str) -> float:
    """What an answer is worth: the share of its characters that are lower-case letters."""
    return sum(c.islower() for c in answer) / max(1, len(answer))
