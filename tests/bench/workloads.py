"""Tokens per second of pretraining against the plainest loops that do the same, alternating, on this machine.

    python -m tests.bench.workloads [--rounds 5] [--steps 40] [--switches]

Owns two rivals: `plain`, a dozen lines around a DeepSpeed engine that log nothing, and `trainer`, Hugging Face's
Trainer with the same DeepSpeed config. Model, tokens, batch, optimizer and ranks are the same. A run's speed is that of
its faster half of steps, from the end of one to the end of the next, without the first ones: what else the machine does
only ever adds time. A ratio is to the plain loop of the same round. `--switches` compares pretraining with itself
instead: what each switch for speed and memory does to a LLaMA of 5 million parameters.
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

from tests.docker.workloads import ranks

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
LENGTH, MICRO, LEFT_OUT, LONG = 128, 8, 5, 512
NAMES = ("pretrain", "plain", "trainer")
LLAMA = {
    "model_type": "llama",
    "vocab_size": 256,
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "max_position_embeddings": LONG,
}
# name -> options of pretrain, keys of zero_optimization
SWITCHES: dict[str, tuple[list[str], dict[str, Any]]] = {
    "attention: sdpa": (["--attention=sdpa"], {}),
    "attention: eager": (["--attention=eager"], {}),
    "activation-checkpointing": (["--activation-checkpointing"], {}),
    "compile: inductor": (["--compile=inductor"], {}),
    "sequence-parallel: 2": (["--sequence-parallel=2"], {}),
    "overlap_comm: true": ([], {"overlap_comm": True}),
    "use_multi_rank_bucket_allreduce: false": ([], {"use_multi_rank_bucket_allreduce": False}),
}


def measure(name: str, steps: int, stage: int) -> float:
    """Tokens per second of one of NAMES on two ranks, over the faster half of its steps."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        config = ranks.deepspeed(2, stage=stage, micro=MICRO, gradient_clipping=1.0)
        words = [f"--seq-length={LENGTH}", f"--max-steps={steps}", "--log-every=1"]
        module = "workloads.pretrain" if name == "pretrain" else "tests.bench.workloads"
        if name != "pretrain":
            words += [f"--rank={name}"]
        run = ranks.start(folder, 2, config, *words, model=MODEL, module=module)
        return 2 * MICRO * LENGTH / seconds(run, steps)


def seconds(run: ranks.Ranks, steps: int) -> float:
    """Mean time of the faster half of a run's steps, from the end of one to the end of the next."""
    if run.wait() != [0, 0]:
        raise SystemExit(run.output())
    times = {step["step"]: step["time"] for step in run.steps()}
    took = sorted(times[step] - times[step - 1] for step in range(LEFT_OUT + 1, steps + 1))
    return statistics.fmean(took[: len(took) // 2])


def switched(name: str, steps: int, stage: int) -> float:
    """Tokens per second of pretraining LLAMA on samples of LONG tokens with one of SWITCHES; the first is the rule."""
    (options, keys), samples = SWITCHES[name], 4  # of a step, over both ranks
    readers = 1 if "sequence-parallel" in name else 2
    with tempfile.TemporaryDirectory() as made:
        config = ranks.deepspeed(readers, stage, samples // readers, zero=keys, gradient_clipping=1.0)
        words = [f"--seq-length={LONG}", f"--max-steps={steps}", "--log-every=1", *options]
        run = ranks.start(Path(made), 2, config, *words, model=LLAMA, env={"PATH": os.environ["PATH"]})
        return samples * LONG / seconds(run, steps)


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
    made.add_argument("--switches", action="store_true")
    args = made.parse_args()
    if args.rank:
        as_rank(args)
    names, base, by = (
        (tuple(SWITCHES), "attention: sdpa", switched) if args.switches else (NAMES, "plain", measure)
    )
    found: dict[str, list[float]] = {name: [] for name in names}
    before = os.getloadavg()[0]
    for _ in range(args.rounds):
        for name in names:
            found[name].append(by(name, args.max_steps, args.stage))
            print(f"{name:38} {found[name][-1]:8,.0f} tokens/s", file=sys.stderr, flush=True)
    print(f"2 ranks, ZeRO-{args.stage}, load average {before:.1f} before and {os.getloadavg()[0]:.1f} after")
    for name in names:
        ratios = [ours / other for ours, other in zip(found[name], found[base], strict=True)]
        print(
            f"{name:38} {statistics.median(found[name]):8,.0f} tokens/s   {statistics.median(ratios):.3f} of {base}"
            f"   ({', '.join(f'{ratio:.2f}' for ratio in ratios)})"
        )


if __name__ == "__main__":
    main()
