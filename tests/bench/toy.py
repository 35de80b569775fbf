"""The toy that every program of the comparison in training.py trains on: model, examples, and the numbers of a stage.

Owns what has to be the same for all of them.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

from tests.docker.workloads import ranks, tiny

if TYPE_CHECKING:
    from pathlib import Path

MODEL = {**ranks.LLAMA, "hidden_size": 64, "intermediate_size": 128}
BATCH, LENGTH, TOKENS, ROWS, BETA = 16, 96, 12, 400, 0.05
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


def prepare(folder: Path) -> None:
    """Write the model `tiny` and the examples `data.jsonl` that all programs read."""
    from workloads import examples

    tiny.save(folder / "tiny", MODEL)
    examples_ = [*examples.builtin(("prompt", "completion", "chosen", "rejected"))][:ROWS]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in examples_))


def rows(folder: Path) -> list[dict[str, str]]:
    """The examples."""
    return [json.loads(line) for line in (folder / "data.jsonl").read_text().splitlines()]


def lower_case(answer: str) -> float:
    """What an answer is worth: the share of its characters that are lower-case letters."""
    return sum(c.islower() for c in answer) / max(1, len(answer))
