"""Generate text for many prompts: `python -m workloads.generate`, once per rank.

Owns the way from a file of prompts to generated/part-*.jsonl and _SUCCESS; engines that hold a model larger than one
device are DeepSpeed's. A part holds the same prompts whatever the number of ranks and is there whole or not at all, so
a run that was interrupted goes on with the parts that are missing, on any number of ranks.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workloads import engines, inference, metrics, options, session, tokenizer
from workloads.session import Session, Stop
from workloads.traits import Traits

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from workloads.inference import Engine

TRAITS = Traits()

FOLDER, SUCCESS, RECIPE = "generated", "_SUCCESS", "recipe.json"


def parser() -> argparse.ArgumentParser:
    """The command line; importing this module and calling this needs the standard library only."""
    made = argparse.ArgumentParser(
        prog="python -m workloads.generate",
        description="Generate text for every prompt of a file.",
        allow_abbrev=False,
    )
    options.launcher(made, only=("deepspeed-config", "run-dir", "model"))
    group = made.add_argument_group("generation")
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
    return made


@dataclass(frozen=True)
class Part:
    """Prompts that are generated and written together; `first` is the position of its first row in the file."""

    number: int
    first: int
    rows: list[dict[str, Any]]

    @property
    def name(self) -> str:
        return f"part-{self.number:05d}.jsonl"


def generate(args: argparse.Namespace, this: Session) -> int:
    """Generate what is missing; returns the exit code: 75 when a signal ended it before."""
    began = time.monotonic()
    config, size = this.together(lambda: engines.read(args.deepspeed_config, this.world_size))
    parts = this.together(lambda: split(read(Path(args.prompts)), args.part_size))
    folder = this.run_dir / FOLDER
    missing = this.first(lambda: begin(folder, args, parts))
    by = this.together(lambda: load_tokenizer(args))
    engine = inference.start(args, config, this)
    log = metrics.Log(this.run_dir, this.rank == 0)
    log.event(
        "start", 0, world_size=this.world_size, engine=engine.name, parts=len(parts), missing=len(missing)
    )
    log.say(
        f"{args.model}: {len(missing)} of {len(parts)} parts to generate, {engine.name} on {this.world_size} ranks"
    )

    prompts = tokens = 0
    for number in missing[engine.replica :: engine.replicas]:
        if engine.any(session.asked_to_stop() is not None):
            break
        rows = complete(parts[number], engine, by, args, size.micro, this)
        if engine.rank == 0:
            write(folder / parts[number].name, rows)
            prompts += len(rows)
            tokens += sum(row["tokens"] for row in rows)
        log.say(f"{parts[number].name}: {len(rows)} prompts")
    return finish(args, this, log, parts, prompts, tokens, time.monotonic() - began)


def begin(folder: Path, args: argparse.Namespace, parts: list[Part]) -> list[int]:
    """The numbers of the parts that are not there yet. Raises Stop when the folder holds what another recipe made."""
    shaping = ("model", "max_new_tokens", "temperature", "top_p", "seed", "part_size")
    content = json.dumps([part.rows for part in parts], sort_keys=True)
    recipe = {key: getattr(args, key) for key in shaping}
    recipe["prompts_sha256"] = hashlib.sha256(content.encode()).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / RECIPE
    before = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else recipe
    changed = [key for key in recipe if recipe[key] != before.get(key)]
    if changed:
        raise Stop(
            f"{folder} holds text made with another {', '.join(changed)}: give this run another folder"
        )
    metrics.write_atomically(kept, recipe)
    return [part.number for part in parts if not (folder / part.name).exists()]


def complete(
    part: Part,
    engine: Engine,
    by: PreTrainedTokenizerBase,
    args: argparse.Namespace,
    micro: int,
    this: Session,
) -> list[dict[str, Any]]:
    """The part's rows with "completion" and "tokens" (how many were generated), in order."""
    import torch

    step, offset = (engine.ranks, engine.rank) if engine.shares else (1, 0)
    sampling: dict[str, Any] = {"max_new_tokens": args.max_new_tokens, "do_sample": args.temperature > 0}
    if args.temperature > 0:
        sampling |= {"temperature": args.temperature, "top_p": args.top_p, "top_k": 0}
    mine: list[dict[str, Any]] = []
    for start in range(0, len(part.rows), micro * step):
        # a rank without prompts of its own repeats one, to stay in step with the others
        rows = part.rows[start + offset : start + micro * step : step]
        prompts = [by.encode(row["prompt"], add_special_tokens=False) for row in rows or part.rows[:1]]
        torch.manual_seed(hash((args.seed, part.first + start, offset)))
        made = inference.completions(engine, prompts, sampling, by.eos_token_id, this.device)
        places = range(part.first + start + offset, part.first + len(part.rows), step)
        mine += [
            {"index": place, **row, "completion": by.decode(new), "tokens": len(new)}
            for place, row, new in zip(places, rows, made, strict=False)
        ]
    everyone = engine.gather(mine) if engine.shares else [mine]
    return sorted((row for rows in everyone for row in rows), key=lambda row: row["index"])


def finish(
    args: argparse.Namespace, this: Session, log: metrics.Log, parts: list[Part], *figures: float
) -> int:
    """Write _SUCCESS and summary.json once every part is there; returns the exit code."""
    prompts, tokens, seconds = (this.agree(figure)[0] * this.world_size for figure in figures)
    seconds /= this.world_size

    def close() -> bool:
        folder = this.run_dir / FOLDER
        if not all((folder / part.name).exists() for part in parts):
            return False
        summary = {
            "prompts": sum(len(part.rows) for part in parts),
            "generated_now": round(prompts),
            "tokens_now": round(tokens),
            "seconds": seconds,
            "tokens_per_second": tokens / seconds,
            "world_size": this.world_size,
        }
        metrics.write_atomically(this.run_dir / "summary.json", summary)
        (folder / SUCCESS).touch()
        return True

    done = this.first(close)
    if done:
        log.event("end", 0, status="done")
        log.say(
            f"{prompts:,.0f} prompts, {tokens:,.0f} tokens in {seconds:.1f} s; {this.run_dir / FOLDER} is complete"
        )
    else:
        log.event("saved", 0, tag=None, signal=session.asked_to_stop())
        log.say("stopped by a signal: run it again to continue")
    log.close()
    return os.EX_OK if done else os.EX_TEMPFAIL


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a prompts file. Raises Stop, naming the line, for what is no prompt."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise Stop(f"--prompts {path}: {error}") from error
    if path.suffix != ".jsonl":
        return [{"prompt": line} for line in lines if line.strip()]
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            fits = bool(row["prompt"]) and isinstance(row["prompt"], str)
        except (ValueError, KeyError, TypeError):
            fits = False
        if not fits:
            raise Stop(f'--prompts {path}:{number}: not a JSON object with a "prompt" that is text')
        rows.append(row)
    return rows


def split(rows: list[dict[str, Any]], size: int) -> list[Part]:
    """Rows in parts of `size`. Raises Stop when there are none."""
    if not rows:
        raise Stop("--prompts: there is no prompt in the file")
    return [Part(n, first, rows[first : first + size]) for n, first in enumerate(range(0, len(rows), size))]


def load_tokenizer(args: argparse.Namespace) -> PreTrainedTokenizerBase:
    """The tokenizer that --tokenizer names. Raises Stop when there is none."""
    return tokenizer.of_model(args.model) if args.tokenizer == "auto" else tokenizer.existing(args.tokenizer)


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write a part that is either whole or not there. Raises Stop (74) when the disk does not take it."""
    half = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with half.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            file.flush()
            os.fsync(file.fileno())
        half.replace(path)
    except OSError as error:
        raise Stop(f"{path} could not be written: {error}", os.EX_IOERR) from error


def main() -> None:
    """Run this rank; exits with a code of session.py."""
    session.run(parser(), generate)


if __name__ == "__main__":
    main()
