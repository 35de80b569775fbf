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
import math
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ending import NOT_FINITE, SAVED

from workloads import (
    architectures,
    checkpoints,
    engines,
    metrics,
    options,
    packing,
    routing,
    samples,
    session,
    ulysses,
)
from workloads.checkpoints import Progress
from workloads.session import Session, Stop
from workloads.traits import Traits

if TYPE_CHECKING:
    import torch
    from deepspeed import DeepSpeedEngine

    from workloads.samples import Batch


TRAITS = Traits(estimated=True, bounded_length=True)


def parser() -> argparse.ArgumentParser:
    """The command line; importing this module and calling this needs the standard library only."""
    made = argparse.ArgumentParser(
        prog="python -m workloads.pretrain",
        description="Pretrain a language model on text with DeepSpeed.",
        allow_abbrev=False,
    )
    options.launcher(made)
    group = made.add_argument_group("training")
    options.optimization(group)
    options.language_model(group)
    options.acceleration(group)
    options.text(group)
    options.reports(group)
    options.rehearsal(group)
    return made


def pretrain(args: argparse.Namespace, this: Session) -> int:
    """Train on this rank until --max-steps or a signal; returns the exit code."""
    began = time.monotonic()
    log = this.together(lambda: metrics.start(args, this.run_dir, this.rank))
    training = prepare(args, this, log)
    try:
        stopped = training.run()
        if not stopped:
            finish(training, began)
    except Stop as stop:
        log.event("end", training.progress.step, status="failed", reason=stop.message)
        raise
    if stopped:
        log.event("saved", training.progress.step, tag=training.saved, signal=session.asked_to_stop())
        log.say(f"stopped by a signal with {training.saved or 'nothing to save'}: run it again to continue")
    log.close()
    return SAVED if stopped else os.EX_OK


def prepare(args: argparse.Namespace, this: Session, log: metrics.Log) -> Training:
    """Everything that training needs, with the newest checkpoint loaded. Raises Stop for mistakes in the job."""
    group = this.together(lambda: ulysses.group(args.sequence_parallel, args.seq_length, this))
    config, size = this.together(lambda: engines.read(args.deepspeed_config, group.reader.world_size))
    if args.document_masks and group.size > 1:
        raise Stop("--document-masks: attention that --sequence-parallel divides cannot keep documents apart")
    if args.export and routing.spread(config):
        raise Stop(
            "--export: experts that expert_parallel spreads over ranks are not put together again; leave it out"
        )
    config = {**config, **group.settings()}
    settings = this.together(lambda: architectures.config(args.model))
    data = samples.load(this, args, settings, size, group.reader)
    settings.eos_token_id = data.tokenizer.eos_token_id
    this.together(lambda: architectures.pad_vocabulary(args.model, settings, args.pad_vocab))
    model = this.together(
        lambda: architectures.build(args.model, settings, config, args.seed, this.device, args.attention)
    )
    if args.liger:
        this.together(lambda: architectures.fuse(model))
    if unbalanced := routing.unbalanced(settings):
        log.say(unbalanced)
    from workloads import losses  # imports torch

    losses.attach(model, args.z_loss, args.liger)
    if args.activation_checkpointing:
        model.activation_checkpointing_enable()
    groups = this.together(lambda: group.attach(model, size.micro, args.seq_length))
    identity = checkpoints.identity(args.model, model, data.tokenizer, config, this.world_size)
    identity = dataclasses.replace(identity, data=data.order)
    found = checkpoints.find(this, args.resume, identity, log)
    with routing.recordable():
        engine = engines.start(model, config, args, found is not None and found.universal, groups)
    if args.compile:
        this.together(lambda: engines.compile(engine, args.compile))
    engine.train()
    progress = checkpoints.restore(engine, found) if found else Progress()
    attempt = this.first(lambda: metrics.attempts(this.run_dir) + 1)

    log.say(
        f"{identity.model} on {data.corpus.tokens:,} tokens by {identity.tokenizer}; {this.world_size} ranks, "
        f"ZeRO-{identity.zero_stage}, {identity.precision}, {type(engine.basic_optimizer).__name__}; "
        + (f"resumed from {found.path}" if found else "from the start")
    )
    if found and found.identity.data != identity.data:
        log.say(
            f"{found.tag} saw samples of another text, --seq-length or --seed, or of an older version of this program: "
            f"it continues at sample {progress.samples + 1:,} of this run's own order, so some text may come twice, "
            "and held-out text may have been trained on"
        )
    start = {"resumed_from": found.tag if found else None, "attempt": attempt, "max_steps": args.max_steps}
    parameters = architectures.parameters(model)
    log.event("start", progress.step, world_size=this.world_size, parameters=parameters, **start)
    saved = found.tag if found else None
    scale, step = group.scale(config), progress.step
    return Training(
        args, this, group, scale, log, engine, data, size, identity, attempt, step, progress, saved
    )


@dataclass
class Training:
    """One attempt of a run on this rank: what it works with, and how far it has come."""

    args: argparse.Namespace
    this: Session
    group: ulysses.Group
    scale: int  # of the group's losses
    log: metrics.Log
    engine: DeepSpeedEngine
    data: samples.Data
    size: engines.BatchSize
    identity: checkpoints.Identity
    attempt: int
    steps_before: int  # this attempt
    progress: Progress
    saved: str | None  # the tag of the newest complete checkpoint
    unlogged_steps: int = 0
    unlogged_seconds: float = 0.0
    unlogged_routing: list[Any] = field(default_factory=list)  # choices and entropy of a Routing

    def run(self) -> bool:
        """Train to the last step; returns whether a signal ended it before, with everything saved."""
        args = self.args
        stop = self.this.agree()[1]  # a signal that came during start-up
        while self.progress.step < args.max_steps and not stop:
            stop = self.step()
            step = self.progress.step
            if self.data.evaluation and due(step, args.eval_every, args.max_steps):
                self.evaluate()
            if stop or due(step, args.checkpoint_every, args.max_steps):
                self.save()
        return stop

    def step(self) -> bool:
        """One optimizer step over the global batch; returns whether any rank was told to stop."""
        import torch

        args, engine, step = self.args, self.engine, self.progress.step + 1
        self.this.rehearse(args, step, self.attempt)
        began = time.perf_counter()
        # like the data, dropout depends on the position alone, so that a resumed run continues exactly
        torch.manual_seed(hash((args.seed, step, self.this.rank)))
        rate, tokens = engine.get_lr()[0], self.size.micro * args.seq_length // self.group.size
        total, norm = torch.zeros((), device=self.this.device), None
        for batch in self.data.samples.share(self.progress.samples, self.size, self.group.reader):
            loss, nats, *routed = next_token_loss(engine, batch, self.group, self.this.device)
            total += nats / tokens
            self.unlogged_routing = [
                a + b for a, b in zip(self.unlogged_routing or [0, 0], routed, strict=False)
            ]
            if engine.is_gradient_accumulation_boundary():
                answer = self.this.agreeing(total / self.size.accumulation)
            engine.backward(loss / (tokens * self.scale))
            norm = engines.unreported_norm(engine)
            engine.step()
        mean, stop = answer()
        norm = engine.get_global_grad_norm() if norm is None else norm
        norm = None if norm is None else float(norm)
        self.unlogged_seconds += time.perf_counter() - began
        self.unlogged_steps += 1

        self.check_finite(step, mean, norm)
        samples = self.progress.samples + self.size.total
        self.progress = Progress(step, samples, self.progress.tokens + self.size.total * args.seq_length)
        if stop or step == self.steps_before + 1 or due(step, args.log_every, args.max_steps):
            self.report(mean, rate, norm)
        return stop

    def check_finite(self, step: int, loss: float, norm: float | None) -> None:
        """Raise Stop on every rank before a bad state can be saved. An update DeepSpeed left out did no harm."""
        bad_update = norm is not None and not 0 <= norm < math.inf and self.engine.was_step_applied()
        if not math.isfinite(loss) or bad_update:
            what = "gradient" if math.isfinite(loss) else "loss"
            raise Stop(
                f"the {what} of step {step} is not finite. Nothing of it was saved; the last complete checkpoint is "
                f"{self.saved or 'none'}. A lower --lr, more --warmup-steps or gradient_clipping may help",
                NOT_FINITE,
            )

    def report(self, loss: float, rate: float, norm: float | None) -> None:
        """Log the step just done, and the speed since the last log line."""
        seconds = self.unlogged_seconds / self.unlogged_steps
        self.log.step(
            {
                "step": self.progress.step,
                "loss": loss,
                "lr": rate,
                "grad_norm": norm,
                "tokens_per_second": self.size.total * self.args.seq_length / seconds,
                "step_seconds": seconds,
                "memory_bytes": self.this.peak_memory(),
                "tokens": self.progress.tokens,
                "max_steps": self.args.max_steps,
                "skipped_steps": self.engine.skipped_steps,
                **self.routing(),
            }
        )
        self.unlogged_steps, self.unlogged_seconds, self.unlogged_routing = 0, 0.0, []

    def routing(self) -> dict[str, Any]:
        """The figures of a mixture of experts since the last log line, over all ranks."""
        import torch

        for sums in self.unlogged_routing:
            torch.distributed.all_reduce(sums)
        settings = self.engine.module.config
        return routing.figures(*self.unlogged_routing, settings) if self.unlogged_routing else {}

    def evaluate(self) -> None:
        """Log the loss on the held-out text."""
        import torch

        held_out = self.data.evaluation
        assert held_out is not None
        self.engine.eval()
        total = torch.zeros((), device=self.this.device, dtype=torch.float64)
        with torch.no_grad():
            for batch in held_out.batches:
                _, nats, *_ = next_token_loss(self.engine, batch, self.group, self.this.device)
                total += nats
        self.engine.train()
        mean, _ = self.this.agree(total / held_out.tokens)
        loss = mean * self.this.world_size
        bits = loss / math.log(2) * held_out.tokens / held_out.bytes
        self.log.event("eval", self.progress.step, loss=loss, bits_per_byte=bits)
        self.log.say(f"held-out text: loss {loss:.4f}, {bits:.3f} bits per byte")

    def save(self) -> None:
        """Write a checkpoint."""
        began = time.perf_counter()
        keep = self.args.checkpoint_keep
        self.saved = checkpoints.save(self.engine, self.this, self.progress, self.identity, keep)
        seconds = time.perf_counter() - began
        self.log.event("checkpoint", self.progress.step, tag=self.saved, seconds=seconds)
        self.log.say(f"checkpoint {self.saved} saved in {seconds:.1f} s")


def finish(training: Training, began: float) -> None:
    """Export the model if asked to, and write summary.json: the run is done."""
    args, this, log = training.args, training.this, training.log
    if args.export:
        architectures.export(training.engine.module, training.data.tokenizer, this)
        log.say(f"exported to {this.run_dir / 'export'}")
    log.event("end", training.progress.step, status="done")
    facts = {
        "parameters": architectures.parameters(training.engine.module),
        "world_size": this.world_size,
        "checkpoint": training.saved,
        "seconds": time.monotonic() - began,
        "unigram_entropy_nats": training.data.corpus.unigram_entropy,
    }
    target = this.run_dir / "summary.json"
    this.first(lambda: metrics.write_atomically(target, {**metrics.summary(this.run_dir), **facts}))


def next_token_loss(
    engine: DeepSpeedEngine, batch: Batch, group: ulysses.Group, device: torch.device
) -> tuple[torch.Tensor, ...]:
    """What is minimized and the cross-entropy alone: sums over this rank's part of the batch, nats, scalars.

    Of a mixture of experts the choices and the entropy of a Routing too.
    """
    inputs, labels, more = group.part(batch)
    inputs, labels = (tensor.to(device, non_blocking=True) for tensor in (inputs, labels))
    if batch.positions is not None:
        more = packing.inputs(batch.positions, engine.module.config._attn_implementation)
    more = {key: value.to(device) if hasattr(value, "to") else value for key, value in more.items()}
    sums: tuple[torch.Tensor, ...] = engine(input_ids=inputs, labels=labels, **more)
    return sums


def due(step: int, every: int, last: int) -> bool:
    """Whether something done every N steps (0: never) and at the last one is done after this step."""
    return step == last or (every > 0 and step % every == 0)


def main() -> None:
    """Run this rank; exits with a code of session.py."""
    session.run(parser(), pretrain)


if __name__ == "__main__":
    main()
