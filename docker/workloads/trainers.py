"""Hugging Face's Trainer, and TRL's on top of it, as a run of ours: config, schedule, data order, checkpoints.

Owns the bridge between the two: a DeepSpeed config whose numbers the Trainer must agree with and whose `auto` values
it fills in; the job's schedule and decay groups instead of its own; examples in an order that depends on seed and
position alone; checkpoints that are whole or not resumed. Which Trainer, model and data is the workload's, what is
logged is callbacks.py's.
"""

from __future__ import annotations

import math
import os
import time
from typing import TYPE_CHECKING, Any

import heartbeat
from ending import SAVED
from transformers import PrinterCallback

from workloads import (
    architectures,
    balancing,
    callbacks,
    checkpoint_folder,
    checkpoints,
    engines,
    epochs,
    examples,
    four_bit,
    lengths,
    lookups,
    lora,
    metrics,
    routing,
    saver,
    session,
    stages,
    tiers,
    trainer_checkpoints,
    trainer_trust,
)
from workloads.session import Session, Stop

if TYPE_CHECKING:
    import argparse

    import torch
    from transformers import PreTrainedModel, Trainer

    from workloads.checkpoint_folder import Checkpoint, Identity
    from workloads.stages import Stage
    from workloads.trainer_trust import Judge


def settings(
    args: argparse.Namespace, this: Session, config: dict[str, Any], size: engines.BatchSize
) -> dict[str, Any]:
    """Keyword arguments of TrainingArguments that agree with the DeepSpeed config, which is among them.

    A number that the config gives holds. What it leaves open of the optimizer becomes `auto`, and the Trainer fills it
    in from the options: https://huggingface.co/docs/transformers/deepspeed
    """
    optimizer = engines.optimizer(config, args)
    given = config.get("optimizer", {}).get("params", {})
    params = {**dict.fromkeys(("lr", "betas", "eps", "weight_decay"), "auto"), **given}
    params |= {key: optimizer["params"][key] for key in ("torch_adam", "fused") if key in optimizer["params"]}
    whole = {**config, "optimizer": {**optimizer, "params": params}}
    beta1, beta2 = _number(given, "betas", [args.beta1, args.beta2])
    return {
        "output_dir": str(this.run_dir / checkpoint_folder.FOLDER),
        "deepspeed": whole,
        "per_device_train_batch_size": size.micro,
        "per_device_eval_batch_size": size.micro,
        "gradient_accumulation_steps": size.accumulation,
        "max_grad_norm": config.get("gradient_clipping", 0.0),
        "bf16": engines.precision(config) == "bf16",
        "fp16": engines.precision(config) == "fp16",
        "use_cpu": this.device.type == "cpu",
        "dataloader_pin_memory": this.device.type != "cpu",
        **_loading(args, this, size),
        "learning_rate": _number(given, "lr", args.lr),
        "weight_decay": _number(given, "weight_decay", args.weight_decay),
        "adam_epsilon": _number(given, "eps", 1e-8),
        "adam_beta1": beta1,
        "adam_beta2": beta2,
        "warmup_steps": args.warmup_steps,
        "max_steps": args.max_steps or 1,  # `arrange` counts the steps of epochs
        "seed": args.seed,
        "train_sampling_strategy": "sequential",  # `arrange` has put the examples in order
        "activation_checkpointing": args.activation_checkpointing,
        "activation_checkpointing_kwargs": lora.recomputing(args, config),
        "save_strategy": "steps" if args.checkpoint_every and args.checkpoint_keep else "no",
        "save_steps": args.checkpoint_every or 1,
        "save_total_limit": None,  # checkpoints.complete deletes the old ones, once the new one is whole
        "eval_strategy": "steps" if args.eval_every else "no",
        "eval_steps": args.eval_every or 1,
        "logging_steps": args.log_every,
        "logging_first_step": True,
        "logging_nan_inf_filter": False,
        "include_num_input_tokens_seen": "non_padding",
        "disable_tqdm": True,
        "report_to": [],
    }


def _loading(args: argparse.Namespace, this: Session, size: engines.BatchSize) -> dict[str, Any]:
    """How batches are made ahead of the step: a step's at least, in other processes, in the order of one."""
    workers = vars(args).get("loader_workers", 0)
    if workers is None:
        workers = int(this.device.type != "cpu")  # on a CPU they would take the step's own cores
    if not workers:
        return {}
    ahead = {"dataloader_prefetch_factor": max(2, math.ceil(size.accumulation / workers))}
    return {"dataloader_num_workers": workers, "dataloader_persistent_workers": True, **ahead}


def _number(given: dict[str, Any], key: str, otherwise: Any) -> Any:
    value = given.get(key, "auto")
    return otherwise if value == "auto" else value


def arrange(trainer: Trainer, stage: Stage, per_example: int = 1) -> None:
    """Give each step its examples by position and seed alone, `per_example` samples of the batch from each.

    So the run is one epoch of the Trainer's: however a step is cut into micro batches and ranks, and wherever the run
    is resumed, the step has the same examples. What is held out is cut to full micro batches, as figures are means of
    means. Raises Stop where the Trainer has left out every example.
    """
    four_bit.settle(trainer.model, stage)
    kept, held_out = trainer.train_dataset, trainer.eval_dataset
    stage.left_out(len(kept), len(stage.held_out if held_out is None else held_out))
    stage.cut(
        *(lengths.cut(rows or [], stage.length, stage.tokenizer.eos_token_id) for rows in (kept, held_out))
    )
    steps = epochs.steps(stage.args, len(kept), stage.size.total // per_example)
    stage.args.max_steps = trainer.args.max_steps = steps  # by which the schedule goes
    count = steps * stage.size.total // per_example
    trainer.train_dataset = kept.select(examples.order(len(kept), count, stage.args.seed))
    if held_out:
        ranks = stage.this.world_size
        evaluated = examples.evaluated(len(held_out), stage.size.total, ranks)
        trainer.eval_dataset = held_out.select(evaluated)
        trainer.args.per_device_eval_batch_size = math.gcd(stage.size.micro, len(evaluated) // ranks)


def evaluate_tokens(trainer: Trainer, judge: Judge) -> dict[str, float]:
    """Loss of the held-out labels, nats a token, and the share that is held likeliest: each token weighs the same.

    The Trainer's own mean gives each batch the same weight, so it depends on how they are cut. `judge` gives the
    Judged of a model and a batch.
    """
    import torch

    model = trainer.model_wrapped
    sums = torch.zeros(3, dtype=torch.float64, device=trainer.args.device)
    model.eval()
    for batch in trainer.get_eval_dataloader():
        with torch.no_grad():
            sums += torch.stack([part.double() for part in judge(model, batch)])
        heartbeat.mine().alive()
    loss, right, tokens = trainer.accelerator.reduce(sums).tolist()
    figures = {"eval_loss": loss / tokens, "eval_accuracy": right / tokens}
    trainer.log(figures)
    trainer.control = trainer.callback_handler.on_evaluate(
        trainer.args, trainer.state, trainer.control, figures
    )
    model.train()
    return figures


def follow(trainer: Trainer, args: argparse.Namespace) -> None:
    """Have the Trainer train with the job's decay groups and schedule.

    With an optimizer in the DeepSpeed config it would hand DeepSpeed all parameters as one group, and its own schedules
    begin at 0 and know no lowest rate.
    """

    def create_optimizer(model: torch.nn.Module | None = None) -> Any:
        trainer.optimizer.params = engines.decay_groups(model or trainer.model, trainer.args.weight_decay)
        return trainer.optimizer

    def create_scheduler(num_training_steps: int, optimizer: Any = None) -> Any:
        del num_training_steps
        return trainer.lr_scheduler if optimizer is None else engines.schedule(optimizer, args)

    trainer.create_optimizer = create_optimizer
    trainer.create_scheduler = create_scheduler


def run(trainer: Trainer, stage: Stage, *, judge: Judge | None = None, converts: bool = False) -> int:
    """Train from the newest complete checkpoint to the last step; returns the exit code (SAVED after a signal).

    One of another number of ranks is converted first if the workload `converts`, but for weights in 4 bit. `judge`: of
    a model and a batch, what ranks can be compared by, first its sum over the batch.
    """
    began = time.monotonic()
    args, this, log = stage.args, stage.this, stage.log
    trainer.remove_callback(PrinterCallback)
    lookups.look_up_once()
    follow(trainer, args)
    tiers.check(args, trainer.args.deepspeed)
    identity = checkpoints.identity(
        args.model,
        trainer.model,
        stage.tokenizer,
        config=trainer.args.deepspeed,
        world_size=this.world_size,
    )
    able = converts and (four_bit.unconverted(args) or True)
    checkpoint = tiers.nearest(this, args, identity, log, converts=able)
    checkpoints.describe(this, trainer.model, stage.tokenizer)
    parameters = architectures.parameters(trainer.model)  # DeepSpeed may spread experts over ranks
    attempt = this.first(lambda: metrics.attempts(this.run_dir) + 1)
    announce(stage, identity, checkpoint, parameters=parameters, attempt=attempt)
    policy = trainer.model.get_base_model() if args.lora_rank else trainer.model
    balance = balancing.of(policy, packed=vars(args).get("packing", False))
    if balance is not None:
        balancing.follow(trainer, balance)
    kept = saver.Saver(this, log, goes_on=args.checkpoint_async, saved=checkpoint.tag if checkpoint else None)
    reporter = callbacks.Reporter(
        trainer,
        stage,
        kept,
        attempt=attempt,
        balance=balance,
        agreement=trainer_trust.agreement(trainer, stage, judge),
        digests=trainer_trust.digests(trainer, stage),
    )
    trainer.add_callback(reporter)
    trainer_checkpoints.save_whole(trainer, reporter, identity)
    try:
        with routing.recordable(), trainer_checkpoints.loading(trainer, checkpoint):
            trainer.train(resume_from_checkpoint=str(checkpoint.path) if checkpoint else None)
        kept.settle()
        if not reporter.stopped:
            finish(trainer, stage, {"parameters": parameters, "seconds": time.monotonic() - began})
    except Stop as stop:
        log.event("end", trainer.state.global_step, status="failed", reason=stop.message)
        raise
    if reporter.stopped:
        log.event("saved", trainer.state.global_step, tag=kept.saved, signal=session.asked_to_stop())
        log.say(f"stopped by a signal with {kept.saved or 'nothing to save'}: run it again to continue")
    log.close()
    return SAVED if reporter.stopped else os.EX_OK


def announce(
    stage: Stage, identity: Identity, checkpoint: Checkpoint | None, *, parameters: int, attempt: int
) -> None:
    """Log what is trained, by what, and from where it continues."""
    ranks, resumed = stage.this.world_size, checkpoint.tag if checkpoint else None
    stage.log.say(
        f"{identity.model}, tokenizer {identity.tokenizer}; {ranks} ranks, ZeRO-{identity.zero_stage}, "
        f"{identity.precision}; " + (f"resumed from {resumed}" if resumed else "from the start")
    )
    stage.log.event(
        "start",
        checkpoint.progress.step if checkpoint else 0,
        world_size=ranks,
        resumed_from=resumed,
        parameters=parameters,
        attempt=attempt,
        max_steps=stage.args.max_steps,
    )


def finish(trainer: Trainer, stage: Stage, facts: dict[str, Any]) -> None:
    """Export the model if asked to, and write summary.json: the run is done."""
    this, log = stage.this, stage.log
    model: PreTrainedModel = trainer.accelerator.unwrap_model(trainer.model)
    stages.export(stage, model)
    more = {"trained_parameters": architectures.trained_parameters(model), "world_size": this.world_size}
    metrics.finish(log, this, trainer.state.global_step, {**facts, **more})
