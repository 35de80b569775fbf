"""Tokens per second of pretraining against the plainest loops that do the same, alternating, on this machine.

    python -m tests.bench_workloads [--rounds 5] [--steps 40]

Owns two rivals: `plain`, a dozen lines around a DeepSpeed engine that log nothing, and `trainer`, Hugging Face's
Trainer with the same DeepSpeed config. Model, tokens, batch, optimizer and ranks are the same. A run's speed is that of
its faster half of steps, from the end of one to the end of the next, without the first ones: what else the machine does
only ever adds time. A ratio is to the plain loop of the same round.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.workloads import ranks

if TYPE_CHECKING:
    from collections.abc import Callable

MODEL = {
    "model_type": "gpt2",
    "vocab_size": 256,
    "n_positions": 128,
    "n_embd": 192,
    "n_layer": 4,
    "n_head": 6,
    "attn_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "resid_pdrop": 0.0,
}
LENGTH, MICRO, LEFT_OUT = 128, 8, 5
NAMES = ("pretrain", "plain", "trainer")


def measure(name: str, steps: int, stage: int) -> float:
    """Tokens per second of one of NAMES on two ranks, over the faster half of its steps."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        config = ranks.deepspeed(2, stage=stage, micro=MICRO, gradient_clipping=1.0)
        words = [f"--seq-length={LENGTH}", f"--max-steps={steps}", "--log-every=1"]
        module = "workloads.pretrain" if name == "pretrain" else "tests.bench_workloads"
        if name != "pretrain":
            words += [f"--rank={name}"]
        run = ranks.start(folder, 2, config, *words, model=MODEL, module=module)
        codes = run.wait()
        if codes != [0, 0]:
            raise SystemExit(run.output())
        times = {step["step"]: step["time"] for step in run.steps()}
        took = sorted(times[step] - times[step - 1] for step in range(LEFT_OUT + 1, steps + 1))
        return 2 * MICRO * LENGTH / statistics.fmean(took[: len(took) // 2])


def plain(args: argparse.Namespace, note: Callable[[int], None]) -> None:
    """The plainest loop around a DeepSpeed engine."""
    import deepspeed
    from torch.nn.functional import cross_entropy

    engine, samples, config = prepare(args)
    engine, *_ = deepspeed.initialize(model=engine, model_parameters=engine.parameters(), config=config)
    for step in range(args.max_steps):
        inputs, labels = samples(step)
        logits = engine(input_ids=inputs).logits
        engine.backward(cross_entropy(logits.flatten(0, 1), labels.flatten()))
        engine.step()
        note(step + 1)


def trainer(args: argparse.Namespace, note: Callable[[int], None]) -> None:
    """Hugging Face's Trainer, with all that it logs turned off."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    model, samples, config = prepare(args)
    rows = [samples(step) for step in range(args.max_steps)]

    class Note(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, _: object, state: object, *__: object, **___: object) -> None:
            note(state.global_step)  # type: ignore[attr-defined]

    # the data set of a Trainer is split between the ranks, so each row stands for both
    data = [{"input_ids": row, "labels": row} for inputs, _ in rows for row in inputs for _ in range(2)]
    settings = TrainingArguments(
        output_dir=args.run_dir,
        deepspeed=config,
        per_device_train_batch_size=MICRO,
        max_grad_norm=1.0,
        learning_rate=3e-4,
        max_steps=args.max_steps,
        use_cpu=True,
        dataloader_pin_memory=False,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    Trainer(model=model, args=settings, train_dataset=data, callbacks=[Note()]).train()


def prepare(args: argparse.Namespace) -> tuple[Any, Callable[[int], Any], dict[str, Any]]:
    """The model, this rank's batch of a step, and the DeepSpeed config, with AdamW as pretrain has it."""
    from pydoc_data.topics import topics

    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(args.model, use_cache=False))
    tokens = torch.frombuffer(bytearray("\n\n".join(topics.values()).encode()), dtype=torch.uint8).long()
    rank = int(os.environ["RANK"])

    def samples(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        first = (step * 2 + rank) * MICRO * LENGTH
        block = torch.stack([tokens[first + n * LENGTH :][: LENGTH + 1] for n in range(MICRO)])
        return block[:, :-1], block[:, 1:]

    config = json.loads(Path(args.deepspeed_config).read_text())
    params = {"lr": 3e-4, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0, "torch_adam": True}
    return model, samples, {**config, "optimizer": {"type": "AdamW", "params": params}}


def as_rank(args: argparse.Namespace) -> None:
    """Be one rank of a rival: run it and write the time of each step as pretrain does."""
    from workloads import session

    this = session._start(Path(args.run_dir))
    file = (this.run_dir / "metrics.jsonl").open("w") if this.rank == 0 else None

    def note(step: int) -> None:
        if file:
            file.write(json.dumps({"step": step, "time": time.time()}) + "\n")

    {"plain": plain, "trainer": trainer}[args.rank](args, note)
    if file:
        file.close()
    session._leave(0, orderly=True)


def main() -> None:
    """Print a row for each loop: its median, and its ratio to the plain loop's number of the same round."""
    made = argparse.ArgumentParser(allow_abbrev=False)
    made.add_argument("--rounds", type=int, default=5)
    made.add_argument("--max-steps", "--steps", type=int, default=40)
    made.add_argument("--stage", type=int, default=1)
    for option in ("rank", "deepspeed-config", "run-dir", "model", "seq-length", "log-every"):
        made.add_argument(f"--{option}", help=argparse.SUPPRESS)
    args = made.parse_args()
    if args.rank:
        as_rank(args)
    found: dict[str, list[float]] = {name: [] for name in NAMES}
    before = os.getloadavg()[0]
    for _ in range(args.rounds):
        for name in NAMES:
            found[name].append(measure(name, args.max_steps, args.stage))
            print(f"{name:9} {found[name][-1]:8,.0f} tokens/s", file=sys.stderr, flush=True)
    print(f"2 ranks, ZeRO-{args.stage}, load average {before:.1f} before and {os.getloadavg()[0]:.1f} after")
    for name in NAMES:
        ratios = [ours / base for ours, base in zip(found[name], found["plain"], strict=True)]
        print(
            f"{name:9} {statistics.median(found[name]):8,.0f} tokens/s   {statistics.median(ratios):.3f} of plain"
            f"   ({', '.join(f'{ratio:.2f}' for ratio in ratios)})"
        )


if __name__ == "__main__":
    main()
