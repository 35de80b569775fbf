"""Learning curves of the stages against programs that do the same: TRL, the Hugging Face Trainer, and a plain PPO.

    python -m tests.bench.training [--seeds 3] [--only STAGE …]

Owns the rivals and the comparison. Task, model, data, batch, rate and seeds are the same; the rivals run without
DeepSpeed, in their own order of examples, by their own schedules. What is compared is the mean of the last steps over
the seeds: the two are alike when they differ by less than three standard errors of that difference, as the seeds show
them, or by less than a hundredth.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.docker.workloads import ranks, tiny

if TYPE_CHECKING:
    from collections.abc import Callable

MODEL = {**ranks.LLAMA, "hidden_size": 64, "intermediate_size": 128}
BATCH, LENGTH, TOKENS, ROWS, LAST, BETA = 16, 96, 12, 400, 5, 0.05
# stage → workload, its words, the figure, steps and rate
STAGES: dict[str, tuple[str, tuple[str, ...], str, int, float]] = {
    "finetune": ("finetune", (), "loss", 30, 5e-3),
    "sft": ("chat_sft", (), "loss", 30, 5e-3),
    "reward": ("chat_reward", (), "loss", 16, 2e-3),
    "dpo": ("chat_dpo", (), "loss", 16, 1e-3),
    "rloo": (
        "chat_rl",
        ("--reward=lower-case", f"--max-new-tokens={TOKENS}", f"--beta={BETA}"),
        "reward",
        40,
        3e-3,
    ),
    "ppo": (
        "chat_ppo",
        ("--reward=lower-case", f"--max-new-tokens={TOKENS}", f"--beta={BETA}"),
        "reward",
        40,
        3e-3,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.training", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=STAGES, default=list(STAGES))
    args = parser.parse_args()
    sys.path.insert(0, str(ranks.DOCKER))
    os.environ.update(
        dict.fromkeys(("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"), "1")
    )
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    warnings.filterwarnings("ignore", category=FutureWarning)
    import torch

    torch.set_num_threads(1)  # models this small only lose by more
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        prepare(folder)
        ours = our_curves(folder, args.only, args.seeds)
        print(f"{args.seeds} seeds, mean and standard deviation of the last {LAST} steps")
        print(f"{'stage':9} {'figure':7} {'first':>7}  {'ours':>16}  {'rival':>16}  alike")
        alike = [
            report(stage, ours[stage], [rival(folder, stage, seed) for seed in range(args.seeds)])
            for stage in args.only
        ]
    raise SystemExit(0 if all(alike) else 1)


def prepare(folder: Path) -> None:
    """Write the model and the examples that all programs read."""
    from workloads import examples

    tiny.save(folder / "tiny", MODEL)
    rows = [*examples.builtin(("prompt", "completion", "chosen", "rejected"))][:ROWS]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def our_curves(folder: Path, stages: list[str], seeds: int) -> dict[str, list[list[float]]]:
    """Of each stage and seed, the figure of each step by this project's workload, on one rank."""
    cases = []
    for stage in stages:
        workload, words, _, steps, rate = STAGES[stage]
        shared = (f"--model={folder / 'tiny'}", f"--data={folder / 'data.jsonl'}", f"--max-steps={steps}")
        numbers = (f"--lr={rate}", f"--seq-length={LENGTH}", "--log-every=1", "--weight-decay=0")
        config = ranks.deepspeed(1, 1, micro=8, accumulation=2, gradient_clipping=1.0)
        for seed in range(seeds):
            run = {"run_dir": str(folder / f"{stage} {seed}"), "workload": workload, "config": config}
            cases.append({**run, "words": [*shared, *numbers, *words, f"--seed={seed}"]})
    (folder / "cases.json").write_text(json.dumps(cases))
    started = ranks.start(
        folder, 1, {}, str(folder / "cases.json"), module="tests.docker.workloads.cuts", given=()
    )
    if set(started.wait(3600)) != {0}:
        raise SystemExit(started.output())
    return {stage: [_curve(folder / f"{stage} {seed}", stage) for seed in range(seeds)] for stage in stages}


def _curve(run: Path, stage: str) -> list[float]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line[STAGES[stage][2]] for line in lines if "event" not in line]


def rival(folder: Path, stage: str, seed: int) -> list[float]:
    """The figure of each step by the other program."""
    from datasets import Dataset
    from transformers import AutoTokenizer, PrinterCallback

    rows = [json.loads(line) for line in (folder / "data.jsonl").read_text().splitlines()]
    if stage == "ppo":
        return _plain_ppo(folder, [row["prompt"] for row in rows], seed)
    tokenizer = AutoTokenizer.from_pretrained(folder / "tiny")
    tokenizer.add_special_tokens({"pad_token": "<|padding|>"})
    make: dict[str, Callable[..., Any]] = {
        "finetune": _trainer,
        "sft": _sft,
        "reward": _reward,
        "dpo": _dpo,
        "rloo": _rloo,
    }
    trainer = make[stage](
        str(folder / "tiny"), tokenizer, Dataset.from_list(rows), _settings(folder, stage, seed)
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return [line[STAGES[stage][2]] for line in trainer.state.log_history if STAGES[stage][2] in line]


def _settings(folder: Path, stage: str, seed: int) -> dict[str, Any]:
    return {
        "output_dir": str(folder / f"rival {stage} {seed}"),
        "max_steps": STAGES[stage][3],
        "learning_rate": STAGES[stage][4],
        "per_device_train_batch_size": BATCH,
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
        return [_lower_case(answer) for answer in completions]

    config = RLOOConfig(**settings, num_generations=4, max_completion_length=TOKENS, beta=BETA)
    rows = rows.select_columns(["prompt"])
    return RLOOTrainer(
        model, reward_funcs=lower_case, args=config, train_dataset=rows, processing_class=tokenizer
    )


def _plain_ppo(folder: Path, prompts: list[str], seed: int) -> list[float]:
    from tests.bench import plain_ppo

    settings = {
        "steps": STAGES["ppo"][3],
        "batch": BATCH,
        "tokens": TOKENS,
        "lr": STAGES["ppo"][4],
        "beta": BETA,
    }
    return list(plain_ppo.rewards(folder / "tiny", prompts, _lower_case, seed=seed, settings=settings))


def _lower_case(answer: str) -> float:
    return sum(c.islower() for c in answer) / max(1, len(answer))


def report(stage: str, ours: list[list[float]], theirs: list[list[float]]) -> bool:
    """Print a row of the table; returns whether the two are alike."""
    ends = [[statistics.fmean(curve[-LAST:]) for curve in curves] for curves in (ours, theirs)]
    (mine, spread), (other, width) = (
        (statistics.fmean(e), statistics.stdev(e) if len(e) > 1 else 0.0) for e in ends
    )
    error = ((spread**2 + width**2) / len(ours)) ** 0.5
    alike: bool = abs(mine - other) <= max(3 * error, 0.01)
    first = statistics.fmean(curve[0] for curve in ours)
    numbers = f"{first:7.4f}  {mine:7.4f} ± {spread:.4f}  {other:7.4f} ± {width:.4f}"
    print(f"{stage:9} {STAGES[stage][2]:7} {numbers}  {'yes' if alike else 'NO'}", flush=True)
    return alike


if __name__ == "__main__":
    main()
