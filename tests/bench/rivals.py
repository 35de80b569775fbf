"""The programs that stages are held against: Hugging Face's Trainer, TRL, and plain loops.

Owns how each is started on the toy (toy.py), without DeepSpeed, by the same weights, batches, rates. Libraries draw
answers themselves; the plain loops draw with the random numbers that the workload has.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from tests.bench import plain_loops, plain_ppo, toy

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import torch


def plain(folder: Path, stage: str, seed: int) -> list[float]:
    """The figure of each step by a loop in torch."""
    batches, (_, _, _, steps, peak) = toy.batches(folder, stage, seed), toy.STAGES[stage]
    rates = [toy.rate(step, steps, peak) for step in range(steps)]
    numbers = {"rates": rates, "tokens": toy.TOKENS, "beta": toy.BETA, "draw": _draw(stage, seed)}
    if stage == "ppo":
        prompts = [[row["prompt"] for row in rows] for rows in batches]
        return [*plain_ppo.rewards(folder / "tiny", prompts, toy.lower_case, seed=seed, settings=numbers)]
    kind, settings = (
        "sft" if stage == "finetune" else stage,
        {**numbers, "answers": toy.ANSWERS, "reward": toy.lower_case},
    )
    return [*plain_loops.figures(kind, folder / "tiny", batches, seed=seed, settings=settings)]


def _draw(stage: str, seed: int) -> Callable[[list[int], torch.Tensor], torch.Tensor]:
    """What draws a token for each answer from its place in the run and scores, with the workload's random numbers."""
    import numpy as np
    import torch

    generators: dict[int, Any] = {}

    def draw(places: list[int], scores: torch.Tensor) -> torch.Tensor:
        for place in places:
            numbers = [seed, 0, place] if stage == "ppo" else [seed, place // toy.BATCH, 1, place % toy.BATCH]
            generators[place] = generators.get(place) or np.random.default_rng(numbers)
        shares = torch.tensor([[generators[place].random()] for place in places], dtype=torch.float64)
        sums = scores.double().softmax(-1).cumsum(-1)
        return torch.searchsorted(sums, shares * sums[:, -1:], right=True)[:, 0]

    return draw


def published_ppo(folder: Path, seed: int, packages: Path) -> list[float]:
    """The reward of each step by the PPOTrainer of the TRL in `packages`."""
    stage = toy.STAGES["ppo"]
    settings = {
        "model": str(folder / "tiny"),
        "batches": [[row["prompt"] for row in rows] for rows in toy.batches(folder, "ppo", seed)],
        "output_dir": str(folder / f"published ppo {seed}"),
        "tokens": toy.TOKENS,
        "lr": stage.rate,
        "beta": toy.BETA,
        "seed": seed,
    }
    command = [sys.executable, "-m", "tests.bench.published_ppo", json.dumps(settings)]
    variables = {**os.environ, "PYTHONPATH": str(packages)}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    last = done.stdout.strip().splitlines()[-1]
    rewards: list[float] = json.loads(last.removeprefix("curve "))
    return rewards


def library(folder: Path, stage: str, seed: int) -> list[float]:
    """The figure of each step by TRL's trainer of a stage, or Hugging Face's for finetune."""
    import torch
    from datasets import Dataset
    from transformers import AutoTokenizer, PrinterCallback

    tokenizer = AutoTokenizer.from_pretrained(folder / "tiny")
    tokenizer.add_special_tokens({"pad_token": "<|padding|>"})
    start: dict[str, Callable[..., Any]] = {
        "finetune": _trainer,
        "sft": _sft,
        "reward": _reward,
        "dpo": _dpo,
        "rloo": _rloo,
    }
    batches, settings = toy.batches(folder, stage, seed), _settings(folder, stage, seed)
    rows = Dataset.from_list([row for batch in batches for row in batch])
    torch.manual_seed(seed)  # of the reward model's last layer
    trainer = start[stage](str(folder / "tiny"), tokenizer, rows, settings)
    trainer.remove_callback(PrinterCallback)
    create = trainer.create_scheduler  # its cosine ends one step after the last
    trainer.create_scheduler = lambda num_training_steps, optimizer=None: create(
        num_training_steps - 1, optimizer
    )
    trainer.train()
    figure = toy.STAGES[stage].figure
    return [line[figure] for line in trainer.state.log_history if figure in line]


def _settings(folder: Path, stage: str, seed: int) -> dict[str, Any]:
    return {
        "output_dir": str(folder / f"rival {stage} {seed}"),
        "max_steps": toy.STAGES[stage].steps,
        "learning_rate": toy.STAGES[stage].rate,
        "per_device_train_batch_size": toy.BATCH,
        "lr_scheduler_type": "cosine",
        "train_sampling_strategy": "sequential",
        "adam_beta2": 0.95,
        "max_grad_norm": 1.0,
        "weight_decay": 0.0,
        "logging_steps": 1,
        "seed": seed,
        "use_cpu": True,
        "bf16": False,
        "save_strategy": "no",
        "disable_tqdm": True,
        "report_to": [],
    }


def _trainer(model: str, tokenizer: Any, rows: Any, settings: dict[str, Any]) -> Any:
    from transformers import AutoModelForCausalLM, DataCollatorForSeq2Seq, Trainer, TrainingArguments

    def tokens(row: dict[str, str]) -> dict[str, list[int]]:
        prompt = tokenizer(row["prompt"])["input_ids"]
        answer = tokenizer(row["completion"], add_special_tokens=False)["input_ids"] + [
            tokenizer.eos_token_id
        ]
        return {"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer}

    return Trainer(
        model=AutoModelForCausalLM.from_pretrained(model),
        args=TrainingArguments(**settings),
        train_dataset=rows.map(tokens, remove_columns=rows.column_names),
        data_collator=DataCollatorForSeq2Seq(tokenizer),
    )


def _sft(model: str, tokenizer: Any, rows: Any, settings: dict[str, Any]) -> Any:
    from trl import SFTConfig, SFTTrainer

    rows = rows.select_columns(["prompt", "completion"])
    return SFTTrainer(model, args=SFTConfig(**settings), train_dataset=rows, processing_class=tokenizer)


def _reward(model: str, tokenizer: Any, rows: Any, settings: dict[str, Any]) -> Any:
    from trl import RewardConfig, RewardTrainer

    rows = rows.select_columns(["prompt", "chosen", "rejected"])
    return RewardTrainer(model, args=RewardConfig(**settings), train_dataset=rows, processing_class=tokenizer)


def _dpo(model: str, tokenizer: Any, rows: Any, settings: dict[str, Any]) -> Any:
    from trl import DPOConfig, DPOTrainer

    rows = rows.select_columns(["prompt", "chosen", "rejected"])
    return DPOTrainer(model, args=DPOConfig(**settings), train_dataset=rows, processing_class=tokenizer)


def _rloo(model: str, tokenizer: Any, rows: Any, settings: dict[str, Any]) -> Any:
    from trl import RLOOConfig, RLOOTrainer

    def lower_case(completions: list[str], **_: object) -> list[float]:
        return [toy.lower_case(answer) for answer in completions]

    config = RLOOConfig(
        **settings,
        num_generations=toy.ANSWERS,
        max_completion_length=toy.TOKENS,
        beta=toy.BETA,
        shuffle_dataset=False,
    )
    rows = rows.select_columns(["prompt"])
    return RLOOTrainer(
        model, reward_funcs=lower_case, args=config, train_dataset=rows, processing_class=tokenizer
    )
