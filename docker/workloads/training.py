"""The steps of pretraining: forward, backward, update, evaluation, checkpoints and what is logged of them.

Owns one attempt of a run on this rank. What it works with is put together by pretrain.py.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import heartbeat
from ending import NOT_FINITE

from workloads import checkpoint_folder, checkpoints, engines, own_disk, packing
from workloads.checkpoint_folder import Progress
from workloads.session import Stop

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from pathlib import Path

    import torch
    from deepspeed import DeepSpeedEngine

    from workloads import balancing, evidence, metrics, own_time, replicas, samples, ulysses
    from workloads.samples import Batch
    from workloads.saver import Saver
    from workloads.session import Session


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
    batches: Iterator[Batch]  # of training, from the next step on
    size: engines.BatchSize
    identity: checkpoint_folder.Identity
    parameters: int  # of the whole model
    balance: balancing.Balance | None  # of a mixture of experts
    attempt: int
    steps_before: int  # this attempt
    progress: Progress
    saver: Saver
    own: own_time.OwnTime
    agreement: replicas.Replicas | None  # with --verify-every
    digests: evidence.Evidence | None  # with --digests
    unlogged_steps: int = 0
    unlogged_seconds: float = 0.0
    unlogged_waiting: float = 0.0  # seconds of these in which no batch was ready

    def run(self) -> bool:
        """Train to the last step; returns whether a signal ended it before, with everything saved."""
        args = self.args
        stop = self.this.agree()[1]  # a signal that came during start-up
        if self.agreement:
            self.agreement.check(self.progress.step)
        if self.digests and self.saver.saved:
            self.digests.state(self.engine, self.progress.step)
        heartbeat.mine().phase(heartbeat.FIRST, self.progress.step)
        while self.progress.step < args.max_steps and not stop:
            stop = self.step()
            step = self.progress.step
            saves = args.checkpoint_keep and (stop or due(step, args.checkpoint_every, args.max_steps))
            place = own_disk.mine()
            near = not saves and place is not None and due(step, place.every, args.max_steps)
            if self.agreement and (saves or near or due(step, args.verify_every, args.max_steps)):
                self.agreement.compare(step, self.saver)  # so nothing is saved that ranks do not agree on
            if self.data.evaluation and due(step, args.eval_every, args.max_steps):
                self.evaluate()
            if saves:
                self.save()
            elif near and place:
                self.save_on_own_disks(place)
        self.saver.settle()
        heartbeat.mine().phase(heartbeat.END)
        return stop

    def step(self) -> bool:
        """One optimizer step over the global batch; returns whether any rank was told to stop."""
        import torch

        args, engine, step = self.args, self.engine, self.progress.step + 1
        self.own.begin()
        self.this.rehearse(args, step, self.attempt)
        began = time.perf_counter()
        # like the data, dropout depends on the position alone, so that a resumed run continues exactly
        torch.manual_seed(hash((args.seed, step, self.this.rank)))
        rate = engines.advance(engine, step - 1)
        tokens = self.size.micro * args.seq_length // self.group.size
        total, norm = torch.zeros((), device=self.this.device), None
        for batch in self.fetched():
            self.own.forward(ends=False)
            loss, nats = next_token_loss(engine, batch, self.group, self.this.device)
            self.own.forward(ends=True)
            total += nats / tokens
            if self.balance is not None:  # each of the group's ranks has its part of the samples' losses
                loss = loss + self.balance.mean() * self.group.size * tokens
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
        seen = {"samples": self.digests.samples()} if self.digests else {}
        if seen or stop or step == self.steps_before + 1 or due(step, args.log_every, args.max_steps):
            self.report(mean, rate, norm, seen)
        heartbeat.mine().step(step, self.own.seconds())
        return stop

    def fetched(self) -> Iterator[Batch]:
        """The micro batches of a step, with the time that is spent on waiting for them counted."""
        import torch

        for _ in range(self.size.accumulation):
            began = time.perf_counter()
            batch = next(self.batches)
            self.unlogged_waiting += time.perf_counter() - began
            if self.digests:
                self.digests.see(torch.cat([batch.inputs, batch.labels], 1))
            yield batch

    def check_finite(self, step: int, loss: float, norm: float | None) -> None:
        """Raise Stop on every rank before a bad state can be saved. An update DeepSpeed left out did no harm."""
        bad_update = norm is not None and not 0 <= norm < math.inf and self.engine.was_step_applied()
        if not math.isfinite(loss) or bad_update:
            what = "gradient" if math.isfinite(loss) else "loss"
            raise Stop(
                f"the {what} of step {step} is not finite. Nothing of it was saved; the last complete checkpoint is "
                f"{self.saver.settle() or 'none'}. A lower --lr, more --warmup-steps or gradient_clipping may help",
                NOT_FINITE,
            )

    def report(self, loss: float, rate: float, norm: float | None, more: dict[str, str]) -> None:
        """Log the step just done, `more` of it, and the speed since the last log line."""
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
                "data_share": self.unlogged_waiting / self.unlogged_seconds,
                **self.data.samples.epochs(self.progress.samples),
                **(self.balance.figures() if self.balance is not None else {}),
                **more,
            }
        )
        self.unlogged_steps, self.unlogged_seconds, self.unlogged_waiting = 0, 0.0, 0.0

    @heartbeat.told(heartbeat.EVALUATE)
    def evaluate(self) -> None:
        """Log the loss on the held-out text."""
        import torch

        began, held_out = time.perf_counter(), self.data.evaluation
        assert held_out is not None
        self.engine.eval()
        total = torch.zeros((), device=self.this.device, dtype=torch.float64)
        with torch.no_grad():
            for batch in held_out.batches:
                _, nats, *_ = next_token_loss(self.engine, batch, self.group, self.this.device)
                total += nats
                heartbeat.mine().alive()
        self.engine.train()
        mean, _ = self.this.agree(total / held_out.tokens)
        loss = mean * self.this.world_size
        bits = loss / math.log(2) * held_out.tokens / held_out.bytes
        seconds = time.perf_counter() - began
        self.log.event("eval", self.progress.step, loss=loss, bits_per_byte=bits, seconds=seconds)
        self.log.say(f"held-out text: loss {loss:.4f}, {bits:.3f} bits per byte")

    def save(self) -> None:
        """Write a checkpoint, or begin to; its state is told as it is now."""
        keep = self.args.checkpoint_keep
        checkpoints.save(self.engine, self.saver, self.progress, self.identity, keep=keep)
        if self.digests:
            self.digests.state(self.engine, self.progress.step)

    def save_on_own_disks(self, place: own_disk.Place) -> None:
        """Write a checkpoint to each host's own disk; where one cannot, training goes on."""
        began, step = time.perf_counter(), self.progress.step
        carried = checkpoints.carried(self.progress, self.identity)

        def write(path: Path) -> None:
            folder = str(path.parent)
            self.engine.save_checkpoint(folder, tag=path.name, client_state=carried, save_latest=False)

        tag = checkpoints.tag(step)
        reasons = own_disk.save(self.engine, self.this, place, tag, carried=carried, write=write)
        own_disk.tell(self.log, step, reasons, time.perf_counter() - began)


def next_token_loss(
    engine: DeepSpeedEngine, batch: Batch, group: ulysses.Group, device: torch.device
) -> tuple[torch.Tensor, ...]:
    """What is minimized and the cross-entropy alone: sums over this rank's part of the batch, nats, scalars."""
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
