"""The programs that stages are held against: Hugging Face's Trainer, TRL, and plain loops.

Owns how each is started on the toy (toy.py), without DeepSpeed, in its own order of examples and by its own schedule.
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


def plain(folder: Path, stage: str, seed: int) -> list[float]:
    """The figure of each step by a loop in torch."""
    rows, (_, _, _, steps, rate) = toy.rows(folder), toy.STAGES[stage]
    numbers = {"steps": steps, "batch": toy.BATCH, "tokens": toy.TOKENS, "lr": rate, "beta": toy.BETA}
    if stage == "ppo":
        prompts = [row["prompt"] for row in rows]
        return [*plain_ppo.rewards(folder / "tiny", prompts, toy.lower_case, seed=seed, settings=numbers)]
    kind, settings = "sft" if stage == "finetune" else stage, {**numbers, "reward": toy.lower_case}
    return [*plain_loops.figures(kind, folder / "tiny", rows, seed=seed, settings=settings)]


def published_ppo(folder: Path, seed: int, packages: Path) -> list[float]:
    """The reward of each step by the PPOTrainer of the TRL in `packages`."""
    stage = toy.STAGES["ppo"]
    settings = {
        "model": str(folder / "tiny"),
        "data": str(folder / "data.jsonl"),
        "output_dir": str(folder / f"published ppo {seed}"),
        "steps": stage.steps,
        "batch": toy.BATCH,
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
    rows, settings = Dataset.from_list(toy.rows(folder)), _settings(folder, stage, seed)
    trainer = start[stage](str(folder / "tiny"), tokenizer, rows, settings)
    trainer.remove_callback(PrinterCallback)
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

    config = RLOOConfig(**settings, num_generations=4, max_completion_length=toy.TOKENS, beta=toy.BETA)
    rows = rows.select_columns(["prompt"])
    return RLOOTrainer(
        model, reward_funcs=lower_case, args=config, train_dataset=rows, processing_class=tokenizer
    )
