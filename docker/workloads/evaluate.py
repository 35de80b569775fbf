"""Score a model on public tasks by lm-evaluation-harness: `python -m workloads.evaluate`, once per rank.

Owns the options, the model's folder and results.json; tasks, prompts and metrics are the harness's
(https://github.com/EleutherAI/lm-evaluation-harness). Each rank evaluates a part of every task's documents with the
whole model. The harness's tasks are loaded from the Hugging Face hub, tasks/ beside this file holds one that
needs no download, and a task of yours is a YAML file in --task-folder.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import heartbeat

from workloads import architectures, inference, metrics, options, packages, session, tokenizer
from workloads.session import Session, Stop
from workloads.traits import Traits

if TYPE_CHECKING:
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from transformers import PreTrainedModel

TRAITS = Traits(packages=("lm_eval",))

RESULTS = "results.json"
TASKS = Path(__file__).with_name("tasks")  # that need no download


def parser() -> argparse.ArgumentParser:
    """The command line; importing this module and calling this needs the standard library only."""
    command = argparse.ArgumentParser(
        prog="python -m workloads.evaluate",
        description="Score a model on tasks of lm-evaluation-harness.",
        allow_abbrev=False,
    )
    options.launcher(command, only=("run-dir", "model"))
    group = command.add_argument_group("evaluation")
    group.add_argument(
        "--tasks",
        nargs="+",
        required=True,
        metavar="NAME",
        help="tasks or groups of them, as the harness names them",
    )
    group.add_argument("--task-folder", metavar="DIR", help="where YAML files of further tasks are")
    group.add_argument(
        "--shots",
        type=options.count,
        metavar="N",
        help="solved examples before each question (default: the task's)",
    )
    group.add_argument(
        "--limit",
        type=options.positive,
        metavar="N",
        help="documents of each task, for a rehearsal (default: all)",
    )
    group.add_argument(
        "--batch-size", type=options.positive, default=8, metavar="N", help="requests a rank computes at once"
    )
    group.add_argument("--seed", type=options.count, default=0, metavar="N", help="for choosing the shots")
    group.add_argument(
        "--random-weights",
        action=options.SWITCH,
        default=False,
        help="rehearsal: does this model fit, and how fast is it? Its scores mean nothing",
    )
    return command


def evaluate(args: argparse.Namespace, this: Session) -> int:
    """Evaluate all tasks and write results.json; returns the exit code."""
    packages.require("lm_eval", "evaluate")
    from lm_eval import simple_evaluate

    began = time.monotonic()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    log = metrics.Log(this.run_dir, this.rank == 0)
    tasks = this.together(lambda: find(args))
    model = load(args, this)
    tell_passes(model.model)
    log.event("start", 0, world_size=this.world_size, tasks=args.tasks)
    log.say(f"{args.model}: {', '.join(args.tasks)} on {this.world_size} ranks")
    scored = simple_evaluate(
        model=model,
        tasks=args.tasks,
        task_manager=tasks,
        num_fewshot=args.shots,
        limit=args.limit,
        random_seed=args.seed,
        fewshot_random_seed=args.seed,
        bootstrap_iters=0,
        log_samples=False,
    )
    heartbeat.mine().phase(heartbeat.END)
    if this.rank == 0:
        report(scored, args, this, log=log, seconds=time.monotonic() - began)
    log.close()
    return os.EX_OK


def tell_passes(model: PreTrainedModel) -> None:
    """Have each forward pass told as a step; what comes before the first one may load data sets."""
    beat, passes = heartbeat.mine(), itertools.count(1)

    def begin(*_: Any) -> None:
        first.remove()
        beat.phase(heartbeat.FIRST)

    first = model.register_forward_pre_hook(begin)
    model.register_forward_hook(lambda *_: beat.step(next(passes)))


def find(args: argparse.Namespace) -> TaskManager:
    """The harness's tasks, ours and those of --task-folder. Raises Stop when --tasks names another."""
    from lm_eval.tasks import TaskManager

    if args.task_folder and not Path(args.task_folder).is_dir():
        raise Stop(f"--task-folder {args.task_folder}: no such folder")
    folders: list[str | Path] = [str(folder) for folder in (TASKS, args.task_folder) if folder]
    # The harness's tasks are 15,000 files, which take each rank 15 s of a processor to read. A task refers to none of
    # them, as groups and tags may.
    ours = TaskManager(include_path=folders, include_defaults=False)
    if set(args.tasks) <= set(ours.all_subtasks):
        return ours
    manager = TaskManager(include_path=folders)
    missing = [name for name in args.tasks if not manager.match_tasks([name])]
    if missing:
        raise Stop(
            f"--tasks {' '.join(missing)}: lm-evaluation-harness has no such task, nor has --task-folder"
        )
    return manager


def load(args: argparse.Namespace, this: Session) -> HFLM:
    """The model on this rank, for the harness. Raises Stop when there is no such model, or it has no weights."""
    from lm_eval.models.huggingface import HFLM

    own = this.together(lambda: tokenizer.of_model(args.model))
    if own.pad_token is None:  # what is padded is not looked at
        own.pad_token = own.eos_token or own.convert_ids_to_tokens(0)
    folder = args.model
    if args.random_weights:
        folder = this.first(lambda: randomize(args, this))
    else:
        this.together(lambda: inference.need_weights(args.model))
    model = HFLM(
        pretrained=folder,
        tokenizer=own,
        device=str(this.device),
        dtype="auto",
        batch_size=args.batch_size,
        prefix_token_id=None if own.bos_token_id or own.eos_token_id else 0,
    )
    if own.eos_token_id is None:
        model.generate_until = _cannot_end
    return model


def _cannot_end(*_: Any, **__: Any) -> None:
    raise Stop("a task of --tasks has the model write answers, and its tokenizer has no end token for them")


def randomize(args: argparse.Namespace, this: Session) -> str:
    """Write a folder with random weights of the model's shape; returns its path."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(args.seed)
    folder = this.run_dir / "random-weights"
    AutoModelForCausalLM.from_config(architectures.config(args.model)).save_pretrained(folder)
    return str(folder)


def report(
    scored: dict[str, Any], args: argparse.Namespace, this: Session, *, log: metrics.Log, seconds: float
) -> None:
    """Write results.json and a line for each task and metric."""
    kept: dict[str, dict[str, float]] = {}
    for task, values in scored["results"].items():
        kept[task] = {
            _named(key): float(value)
            for key, value in values.items()
            if "," in key and "stderr" not in key and isinstance(value, int | float)
        }
        log.event("score", 0, task=task, **kept[task])
    rows = [(task, key, f"{value:.4f}") for task, scores in kept.items() for key, value in scores.items()]
    log.say(metrics.table([("task", "metric", "value"), *rows]))
    facts = {"model": args.model, "shots": args.shots, "limit": args.limit, "versions": scored["versions"]}
    counts = {task: count["effective"] for task, count in scored["n-samples"].items()}
    metrics.write_atomically(
        this.run_dir / RESULTS, {"results": kept, "documents": counts, **facts, "seconds": seconds}
    )
    log.event("end", 0, status="done")


def _named(key: str) -> str:
    """A metric by its name, and with the filter of answers that it is of, of which a task may have several."""
    return key.removesuffix(",none")


def main() -> None:
    """Run this rank; exits with a code of session.py."""
    session.run(parser(), evaluate)


if __name__ == "__main__":
    main()
