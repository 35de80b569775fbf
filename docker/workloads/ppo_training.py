"""One attempt of a run of policy optimization with a critic: its models, how far it has come, and a step of it.

Owns what a checkpoint of such a run keeps. The loop around it is chat_ppo's.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import heartbeat
import numpy as np
import torch
from torch import distributed

from workloads import (
    averages,
    checkpoint_folder,
    checkpoints,
    engines,
    examples,
    metrics,
    ppo,
    ppo_models,
    rollouts,
    samples,
)
from workloads.checkpoint_folder import Identity, Progress

if TYPE_CHECKING:
    import argparse

    from workloads.rollouts import Answers
    from workloads.saver import Saver
    from workloads.stages import Stage

    Lesson = tuple[torch.Tensor, torch.Tensor]  # advantages and returns, [rows, tokens]


TRAINING, HELD_OUT = 0, 1  # of an answer's random numbers: which prompts its place counts


@dataclass
class Training:
    """One attempt on this rank: what it works with, and how far it has come."""

    stage: Stage
    models: ppo_models.Models
    identity: Identity
    attempt: int
    prompts: list[list[int]]
    order: np.ndarray  # which prompt is at each position of the run
    held_out: list[list[int]]
    beta: float  # weight of the distance to the reference
    average: averages.MovingAverage | None
    plain_text: samples.Samples | None
    saver: Saver
    progress: Progress = field(default_factory=Progress)
    steps_before: int = 0  # this attempt

    @property
    def args(self) -> argparse.Namespace:
        return self.stage.args

    def step(self) -> dict[str, Any]:
        """Sample a global batch of answers and learn from it; returns its figures, `loss` as this rank's own."""
        args, this, size = self.args, self.stage.this, self.stage.size
        batches = [self.sample(places) for places in self.places()]
        lessons, share = self.lessons(batches)
        losses, rate = [], 0.0
        for epoch in range(args.epochs):
            for engine in (self.models.critic, self.models.policy):
                rate = engines.advance(engine, self.progress.step * args.epochs + epoch)
            for index, (batch, lesson) in enumerate(zip(batches, lessons, strict=True)):
                plain = self.learn_plain_text(self.places()[index])
                ends = index == size.accumulation - 1
                losses.append((*self.learn(batch, lesson, share, ends), plain))
        if self.average is not None:
            self.average.update()
        policy, critic, plain = (sum(part) / len(losses) for part in zip(*losses, strict=True))
        norm = self.models.policy.get_global_grad_norm()
        figures: dict[str, Any] = rollouts.figures(batches, this)
        self.progress = Progress(
            self.progress.step + 1,
            self.progress.samples + size.total,
            self.progress.tokens + round(figures.pop("tokens") * size.total),
        )
        figures |= {
            "loss": policy,
            "lr": rate,
            "grad_norm": None if norm is None else float(norm),
            "critic_loss": this.agree(critic)[0],
            "beta": self.beta,
        }
        if self.plain_text is not None:
            figures["ptx_loss"] = this.agree(plain)[0]
        if args.target_kl is not None:
            self.beta = ppo.next_beta(self.beta, figures["kl"], args.target_kl)
        return figures

    def places(self) -> list[np.ndarray]:
        """The positions, in the run, of the samples of each of this rank's micro batches of the step."""
        size, this = self.stage.size, self.stage.this
        starts = [(index * this.world_size + this.rank) * size.micro for index in range(size.accumulation)]
        return [self.progress.samples + start + np.arange(size.micro) for start in starts]

    def sample(self, places: np.ndarray) -> Answers:
        """The answers to the prompts at these positions."""
        prompts = [self.prompts[number] for number in self.order[places]]
        seeds = [(self.args.seed, TRAINING, place) for place in places.tolist()]
        return rollouts.answers(self.models, self.stage, prompts, seeds)

    def lessons(self, batches: list[Answers]) -> tuple[list[Lesson], float]:
        """Advantages, whitened over the step, and returns of each batch; and the step's tokens for each batch."""
        args = self.args
        how = {"gamma": args.gamma, "gae_lambda": args.gae_lambda}
        estimates = [
            ppo.advantages(batch.rewards(args, self.beta), batch.values, batch.answered, **how)
            for batch in batches
        ]
        pairs = list(zip(estimates, batches, strict=True))
        totals = torch.stack([ppo.sums(gains, batch.answered) for (gains, _), batch in pairs]).sum(dim=0)
        distributed.all_reduce(totals)
        lessons = [
            (ppo.whitened(gains, batch.answered, totals), returns) for (gains, returns), batch in pairs
        ]
        return lessons, float(totals[0]) / (len(batches) * self.stage.this.world_size)

    def learn(self, batch: Answers, lesson: Lesson, share: float, ends: bool) -> tuple[float, float]:
        """One backward pass of policy and critic over a micro batch, which `ends` an update; returns their losses."""
        args, models, (gains, returns) = self.args, self.models, lesson
        of_policy, of_critic = models.balances
        new = rollouts.log_probabilities(models.policy, batch.given, batch.begin)
        losses = ppo.policy_losses(new, batch.old, gains, batch.answered, clip=args.clip)
        policy = ppo.mean(losses, batch.answered, share)
        models.policy.set_gradient_accumulation_boundary(ends)
        models.policy.backward(policy if of_policy is None else policy + of_policy.mean())
        models.policy.step()
        values = models.critic(**batch.given)[:, batch.begin - 1 : -1]
        losses = ppo.value_losses(values, batch.values, returns, clip=args.clip)
        critic = ppo.mean(losses, batch.answered, share)
        models.critic.backward(critic if of_critic is None else critic + of_critic.mean())
        models.critic.step()
        return float(policy.detach()), float(critic.detach())

    def learn_plain_text(self, places: np.ndarray) -> float:
        """One backward pass of the policy over as many samples of --ptx-data as there are answers; returns their loss.

        In nats a token; 0 without such data. Ouyang et al. 2022, https://arxiv.org/abs/2203.02155, equation 2.
        """
        if self.plain_text is None:
            return 0.0
        policy = self.models.policy
        batch = self.plain_text.batch(places)
        inputs, labels = batch.inputs.to(self.stage.this.device), batch.labels.to(self.stage.this.device)
        loss = policy(input_ids=inputs, shift_labels=labels, use_cache=False).loss
        balance = self.models.balances[0]
        policy.set_gradient_accumulation_boundary(False)  # of the same update as the answers
        policy.backward(self.args.ptx_weight * (loss if balance is None else loss + balance.mean()))
        return float(loss.detach())

    @heartbeat.told(heartbeat.EVALUATE)
    def evaluate(self) -> None:
        """Log what the held-out prompts' answers are worth, each time sampled by the same random numbers."""
        this, size, began = self.stage.this, self.stage.size, time.perf_counter()
        evaluated = examples.evaluated(len(self.held_out), size.total, this.world_size)
        rows = len(evaluated) // this.world_size
        places = np.array(evaluated[this.rank * rows :][:rows])
        batches = []
        for part in np.split(places, rows // math.gcd(size.micro, rows)):
            prompts = [self.held_out[place] for place in part]
            seeds = [(self.args.seed, HELD_OUT, place) for place in part.tolist()]
            batches.append(rollouts.answers(self.models, self.stage, prompts, seeds))
            heartbeat.mine().alive()
        figures = rollouts.figures(batches, this)
        figures.pop("tokens")
        seconds = time.perf_counter() - began
        self.stage.log.event("eval", self.progress.step, **figures, seconds=seconds)
        self.stage.log.say(f"held-out prompts:{metrics.chat(figures)}")

    def save(self) -> None:
        """Write a checkpoint of policy and critic, or begin to, unless none is kept."""
        if not self.args.checkpoint_keep:
            return
        kept = {"beta": self.beta, "average": self.average and self.average.state()}
        checkpoints.save(
            self.models.policy,
            self.saver,
            self.progress,
            self.identity,
            keep=self.args.checkpoint_keep,
            others={"critic": self.models.critic},
            more=kept,
        )

    def resume(self, checkpoint: checkpoint_folder.Checkpoint) -> None:
        """Continue from a checkpoint."""
        carried = checkpoints.load(self.models.policy, checkpoint)
        checkpoints.load(self.models.critic, checkpoint, "critic")
        self.progress, self.saver.saved = Progress(**carried["progress"]), checkpoint.tag
        self.beta, self.steps_before = carried["beta"], self.progress.step
        if self.average is not None:
            self.average.load(carried["average"])
