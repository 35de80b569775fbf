"""Generate text for many prompts: `python -m workloads.generate`, once per rank.

Owns the way from a file of prompts to generated/part-*.jsonl and _SUCCESS; engines that hold a model larger than one
device are DeepSpeed's. A part holds the same prompts whatever the number of ranks and is there whole or not at all, so
a run that was interrupted goes on with the parts that are missing, on any number of ranks.
"""

from __future__ import annotations

import argparse
import os
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import heartbeat
from ending import SAVED

from workloads import (
    architectures,
    engines,
    inference,
    metrics,
    options,
    prompts,
    sampling,
    session,
    tokenizer,
)
from workloads.parts import Done, begin, split
from workloads.traits import Traits

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from workloads.inference import Engine
    from workloads.parts import Part
    from workloads.session import Session

TRAITS = Traits(generates=True)

FOLDER, SUCCESS = "generated", "_SUCCESS"


def parser() -> argparse.ArgumentParser:
    """The command line; importing this module and calling this needs the standard library only."""
    command = argparse.ArgumentParser(
        prog="python -m workloads.generate",
        description="Generate text for every prompt of a file.",
        allow_abbrev=False,
    )
    options.launcher(command, only=("deepspeed-config", "run-dir", "model"))
    group = command.add_argument_group("generation")
    group.add_argument(
        "--prompts",
        required=True,
        metavar="FILE",
        help='a .jsonl file of objects with a "prompt" (other keys are kept), or a text file with one on each line',
    )
    group.add_argument(
        "--engine",
        choices=("auto", *inference.ENGINES),
        default="auto",
        help="transformers: a whole model on each device; tensor-parallel: a model over the devices of a host; "
        "zero: parameters over all ranks or offloaded, by a ZeRO-3 config; auto: zero with such a config, else "
        "transformers",
    )
    group.add_argument(
        "--max-new-tokens", type=options.positive, default=128, metavar="N", help="at most, per prompt"
    )
    group.add_argument("--temperature", type=options.number, default=0.0, help="0 takes the likeliest token")
    group.add_argument(
        "--top-p", type=options.share, default=1.0, help="sample from the likeliest tokens of this sum"
    )
    group.add_argument("--seed", type=options.count, default=0, help="for sampling")
    group.add_argument(
        "--tokenizer",
        type=options.tokenizer_name,
        default="auto",
        metavar="NAME",
        help="bytes, a folder or hub name; auto: the model's own",
    )
    group.add_argument(
        "--part-size", type=options.positive, default=256, metavar="N", help="prompts of one part"
    )
    group.add_argument(
        "--random-weights",
        action=options.SWITCH,
        default=False,
        help="rehearsal: does this model fit, and how fast is it? Its text means nothing",
    )
    return command


def generate(args: argparse.Namespace, this: Session) -> int:
    """Generate what is missing; returns the exit code: SAVED when a signal ended it before."""
    from torch import distributed

    began = time.monotonic()
    config, size = this.together(lambda: engines.read(args.deepspeed_config, this.world_size))
    parts = this.together(lambda: split(prompts.read(Path(args.prompts)), args.part_size))
    own_tokenizer = this.together(lambda: load_tokenizer(args))
    folder = this.run_dir / FOLDER
    missing = this.first(lambda: begin(folder, recipe(args, config, parts, own_tokenizer), parts))
    this.first(lambda: check_lengths(args, parts, own_tokenizer))
    engine = inference.start(args, config, this, own_tokenizer.eos_token_id)
    # a replica may wait for the last part of another for longer than a collective may take
    everyone = distributed.new_group(backend="gloo", timeout=timedelta(days=365))
    log = metrics.Log(this.run_dir, this.rank == 0)
    log.event(
        "start", 0, world_size=this.world_size, engine=engine.name, parts=len(parts), missing=len(missing)
    )
    log.say(
        f"{args.model}: {len(missing)} of {len(parts)} parts to generate, {engine.name} on {this.world_size} ranks"
    )
    if this.rank == 0 and not args.random_weights and (unused := sampling.unused_of(args.model)):
        log.say(unused)

    done = Done()
    heartbeat.mine().phase(heartbeat.FIRST)
    for number in missing[engine.replica :: engine.replicas]:
        if engine.any(done.failure is not None or session.asked_to_stop() is not None):
            break
        rows = complete(parts[number], engine, own_tokenizer, args=args, micro=size.micro, device=this.device)
        if engine.rank == 0:
            done.keep(folder / parts[number].name, rows)
        log.say(f"{parts[number].name}: {len(rows)} prompts")
    heartbeat.mine().phase(heartbeat.OTHER)  # others may have much to do
    distributed.barrier(everyone)
    this.together(done.check)
    return finish(this, log, parts, done=done, seconds=time.monotonic() - began)


def recipe(
    args: argparse.Namespace,
    config: dict[str, Any],
    parts: list[Part],
    own_tokenizer: PreTrainedTokenizerBase,
) -> dict[str, Any]:
    """What the text of a part depends on.

    The engine, the ranks and the micro batch are not in it: they change how sums are rounded, and nothing else
    (sampling.py).
    """
    options = ("model", "random_weights", "max_new_tokens", "temperature", "top_p", "seed", "part_size")
    return {
        **{key: getattr(args, key) for key in options},
        "weights": architectures.contents(args.model),
        "precision": engines.precision(config),
        "tokenizer": tokenizer.fingerprint(own_tokenizer),
        "prompts": prompts.fingerprint(prompt for part in parts for prompt in part.prompts),
    }


def check_lengths(
    args: argparse.Namespace, parts: list[Part], own_tokenizer: PreTrainedTokenizerBase
) -> None:
    """Raise Stop for prompts that the model has no place for, before it is loaded."""
    prompts.check_lengths(
        Path(args.prompts),
        [prompt for part in parts for prompt in part.prompts],
        own_tokenizer,
        positions=architectures.positions(architectures.config(args.model)),
        new_tokens=args.max_new_tokens,
    )


def complete(
    part: Part,
    engine: Engine,
    own_tokenizer: PreTrainedTokenizerBase,
    *,
    args: argparse.Namespace,
    micro: int,
    device: torch.device,
) -> list[dict[str, Any]]:
    """The part's rows with "completion" and "tokens" (how many were generated), in order."""
    step, offset = (engine.ranks, engine.rank) if engine.shares else (1, 0)
    settings = sampling.Sampling(args.temperature, args.top_p)
    rows: dict[int, dict[str, Any]] = {}
    beat = heartbeat.mine()
    for start in range(0, len(part.prompts), micro * step):
        # a rank without prompts of its own repeats one, to stay in step with the others
        own = part.prompts[start + offset : start + micro * step : step]
        batch = own or part.prompts[:1]
        ids = [tokenizer.prompt_ids(own_tokenizer, prompt.text) for prompt in batch]
        chooser = sampling.Chooser(settings, [(args.seed, prompt.index) for prompt in batch])
        texts = inference.completions(engine, ids, chooser, new_tokens=args.max_new_tokens, device=device)
        for prompt, before, new in zip(own, ids, texts, strict=False):
            completion = tokenizer.continuation(own_tokenizer, before, new, special=True)
            generated = {"completion": completion, "tokens": len(new)}
            rows[prompt.index] = {"index": prompt.index, **prompt.row, **generated}
        beat.step(part.prompts[0].index + start)
    everyone = engine.gather(rows) if engine.shares else [rows]
    return [row for _, row in sorted(item for one in everyone for item in one.items())]


def finish(this: Session, log: metrics.Log, parts: list[Part], *, done: Done, seconds: float) -> int:
    """Write _SUCCESS and summary.json once every part is there; returns the exit code."""
    folder = this.run_dir / FOLDER
    generated, tokens = (round(this.agree(one)[0] * this.world_size) for one in (done.prompts, done.tokens))

    def close() -> bool:
        if not all((folder / part.name).exists() for part in parts):
            return False
        summary = {
            "prompts": sum(len(part.prompts) for part in parts),
            "generated_now": generated,
            "tokens_now": tokens,
            "seconds": seconds,
            "tokens_per_second": tokens / seconds,
            "world_size": this.world_size,
        }
        metrics.write_atomically(this.run_dir / "summary.json", summary)
        (folder / SUCCESS).touch()
        return True

    complete = this.first(close)
    if complete:
        log.event("end", 0, status="done")
        log.say(f"{generated:,} prompts, {tokens:,} tokens in {seconds:.1f} s; {folder} is complete")
    else:
        log.event("saved", 0, tag=None, signal=session.asked_to_stop())
        log.say("stopped by a signal: run it again to continue")
    log.close()
    return os.EX_OK if complete else SAVED


def load_tokenizer(args: argparse.Namespace) -> PreTrainedTokenizerBase:
    """The tokenizer that --tokenizer names. Raises Stop when there is none."""
    return tokenizer.of_model(args.model) if args.tokenizer == "auto" else tokenizer.existing(args.tokenizer)


def main() -> None:
    """Run this rank; exits with a code of session.py."""
    session.run(parser(), generate)


if __name__ == "__main__":
    main()
