"""Pretrain a language model on text with DeepSpeed: `python -m workloads.pretrain`, once per rank.

By hand, on one CPU, with a DeepSpeed config of {"train_micro_batch_size_per_gpu": 8, "gradient_accumulation_steps": 1,
"train_batch_size": 8}:

    PYTHONPATH=docker python -m workloads.pretrain --deepspeed-config ds.json --run-dir runs/try --model byte-gpt

Writes metrics.jsonl, summary.json and checkpoints/ to the run's folder. Start it again with the same folder and it
continues where the newest complete checkpoint stands; what it says and how it ends is in metrics.py and session.py.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import time
from typing import TYPE_CHECKING, Any

import heartbeat

from workloads import (
    architectures,
    checkpoint_folder,
    checkpoints,
    data_options,
    engines,
    evidence,
    metrics,
    options,
    own_time,
    replicas,
    routing,
    samples,
    session,
    sources,
    tiers,
    tokenizer,
    training_options,
    ulysses,
)
from workloads.traits import Learning, Traits

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from workloads.session import Session
    from workloads.training import Training


TRAITS = Traits(learning=Learning(loss="chunks"), bounded_length=True, converts=True)


def parser() -> argparse.ArgumentParser:
    """The command line; importing this module and calling this needs the standard library only."""
    command = argparse.ArgumentParser(
        prog="python -m workloads.pretrain",
        description="Pretrain a language model on text with DeepSpeed.",
        allow_abbrev=False,
    )
    options.launcher(command, only=options.WITH_LOCAL)
    group = command.add_argument_group("training")
    training_options.optimization(group)
    training_options.language_model(group)
    training_options.acceleration(group)
    data_options.text(group)
    options.reports(group)
    options.trust(group)
    options.rehearsal(group)
    return command


def refusal(words: list[str], hosts: int, slots: int) -> str | None:
    """Why this command line cannot run, as far as it can be told before: None if it can."""
    del hosts, slots
    args = parser().parse_args(["--deepspeed-config=-", *words])
    return sources.mistake(args.data) or tokenizer.mistake(args.tokenizer, args.model) or None


def pretrain(args: argparse.Namespace, this: Session) -> int:
    """Train on this rank until --max-steps or a signal; returns the exit code."""
    from ending import SAVED

    began = time.monotonic()
    log = this.together(lambda: metrics.start(args, this.run_dir, this.rank))
    training = prepare(args, this, log)
    try:
        stopped = training.run()
        if not stopped:
            finish(training, began)
    except session.Stop as stop:
        log.event("end", training.progress.step, status="failed", reason=stop.message)
        raise
    if stopped:
        log.event("saved", training.progress.step, tag=training.saver.saved, signal=session.asked_to_stop())
        log.say(
            f"stopped by a signal with {training.saver.saved or 'nothing to save'}: run it again to continue"
        )
    log.close()
    return SAVED if stopped else os.EX_OK


def prepare(args: argparse.Namespace, this: Session, log: metrics.Log) -> Training:
    """Everything that training needs, with the newest checkpoint loaded. Raises Stop for mistakes in the job."""
    from workloads import balancing, saver
    from workloads.training import Training

    group = this.together(lambda: ulysses.group(args.sequence_parallel, args.seq_length, this))
    config, size = this.together(lambda: engines.read(args.deepspeed_config, group.reader.world_size))
    check(args, config)
    config = {**config, **group.settings()}
    settings = this.together(lambda: architectures.config(args.model))
    data = samples.load(this, args, settings, size=size, reader=group.reader)
    settings.eos_token_id = data.tokenizer.eos_token_id
    if unbalanced := routing.unbalanced(settings):
        log.say(f"{unbalanced}: watch expert_share_min in metrics.jsonl")
    model = this.together(lambda: build(args, settings, config, this))
    groups = this.together(lambda: group.attach(model, size.micro, args.seq_length))
    balance = balancing.of(model, group=groups and groups.get_sequence_parallel_group())
    identity = checkpoints.identity(
        args.model, model, data.tokenizer, config=config, world_size=this.world_size
    )
    identity = dataclasses.replace(identity, data=data.order)
    parameters = architectures.parameters(model)  # DeepSpeed may spread experts over ranks
    checkpoint = tiers.nearest(this, args, identity, log, converts=True)
    checkpoints.describe(this, model, data.tokenizer)
    with routing.recordable():
        engine = engines.start(
            model, config, args, universal=checkpoint is not None and checkpoint.universal, groups=groups
        )
    if args.compile:
        this.together(lambda: engines.compile(engine, args.compile))
    engine.train()
    progress = checkpoints.restore(engine, checkpoint) if checkpoint else checkpoint_folder.Progress()
    training = Training(
        args=args,
        this=this,
        group=group,
        scale=group.scale(config),
        log=log,
        engine=engine,
        data=data,
        batches=samples.ahead(data.samples.onward(progress.samples, size, group.reader), this.device),
        size=size,
        identity=identity,
        parameters=parameters,
        balance=balance,
        attempt=this.first(lambda: metrics.attempts(this.run_dir) + 1),
        steps_before=progress.step,
        progress=progress,
        saver=saver.Saver(
            this, log, goes_on=args.checkpoint_async, saved=checkpoint.tag if checkpoint else None
        ),
        own=own_time.of(engine, shared=group.size > 1),
        agreement=None,
        digests=evidence.Evidence(this, log, group.size) if args.digests else None,
    )
    training.agreement = replicas.of(training)
    announce(training, checkpoint)
    return training


def check(args: argparse.Namespace, config: dict[str, Any]) -> None:
    """Raise Stop for options that do not go together."""
    if args.document_masks and args.sequence_parallel > 1:
        raise session.Stop(
            "--document-masks: attention that --sequence-parallel divides cannot keep documents apart"
        )
    if args.verify_every and args.sequence_parallel > 1 and engines.stage(config) == 3:
        raise session.Stop(
            "--verify-every: with ZeRO-3 the ranks of --sequence-parallel have no input in common: use ZeRO-2, or "
            "leave one of them out"
        )
    routing.check_spread(args, config)
    tiers.check(args, config)


def build(
    args: argparse.Namespace, settings: PretrainedConfig, config: dict[str, Any], this: Session
) -> PreTrainedModel:
    """The model that the options ask for, whose forward pass returns its loss. Raises Stop when there is none."""
    from workloads import losses  # imports torch

    architectures.pad_vocabulary(args.model, settings, args.pad_vocab)
    model = architectures.build(
        args.model, settings, config, seed=args.seed, device=this.device, attention=args.attention
    )
    if args.liger:
        architectures.fuse(model)
    losses.attach(model, args.z_loss, args.liger)
    if args.activation_checkpointing:
        model.activation_checkpointing_enable()
    return model


def announce(training: Training, checkpoint: checkpoint_folder.Checkpoint | None) -> None:
    """Log what is trained, by what, and from where it continues."""
    this, log, identity, progress = training.this, training.log, training.identity, training.progress
    log.say(
        f"{identity.model} on {training.data.corpus.tokens:,} tokens by {identity.tokenizer}; {this.world_size} ranks, "
        f"ZeRO-{identity.zero_stage}, {identity.precision}, {type(training.engine.basic_optimizer).__name__}; "
        + (f"resumed from {checkpoint.path}" if checkpoint else "from the start")
    )
    if checkpoint and checkpoint.identity.data != identity.data:
        log.say(
            f"{checkpoint.tag} saw samples of another text, --seq-length or --seed, or of an older version of this "
            f"program: it continues at sample {progress.samples + 1:,} of this run's own order, so some text may come "
            "twice, and held-out text may have been trained on"
        )
    log.event(
        "start",
        progress.step,
        world_size=this.world_size,
        parameters=training.parameters,
        resumed_from=checkpoint.tag if checkpoint else None,
        attempt=training.attempt,
        max_steps=training.args.max_steps,
        spent=heartbeat.mine().spent(),
    )


def finish(training: Training, began: float) -> None:
    """Export the model if asked to, and write summary.json: the run is done."""
    args, this, log = training.args, training.this, training.log
    if args.export:
        architectures.export(training.engine.module, training.data.tokenizer, this)
        log.say(f"exported to {this.run_dir / 'export'}")
    facts = {
        "parameters": training.parameters,
        "world_size": this.world_size,
        "checkpoint": training.saver.saved,
        "seconds": time.monotonic() - began,
        "unigram_entropy_nats": training.data.corpus.unigram_entropy,
    }
    metrics.finish(log, this, training.progress.step, facts)


def main() -> None:
    """Run this rank; exits with a code of session.py."""
    session.run(parser(), pretrain)


if __name__ == "__main__":
    main()
