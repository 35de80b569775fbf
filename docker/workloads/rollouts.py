"""What a policy answers to prompts, with all that policy optimization needs to know of the answers.

Owns the micro batch of answers and how it is made; what is learned from it is chat_ppo's.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed
from transformers import GenerationConfig

from workloads import engines, judges, policy_sampling, ppo, tokenizer
from workloads.samples import IGNORED
from workloads.session import Stop

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from deepspeed import DeepSpeedEngine

    from workloads.formats import Row
    from workloads.ppo_models import Models
    from workloads.session import Session
    from workloads.stages import Stage


@dataclass(frozen=True)
class Answers:
    """A micro batch of prompts and answers. [rows, length] is the whole text, [rows, tokens] the answer."""

    ids: torch.Tensor  # [rows, length]
    mask: torch.Tensor  # [rows, length]
    answered: torch.Tensor  # [rows, tokens]: 1 up to and with the end token
    old: torch.Tensor  # [rows, tokens]: log-probabilities when it was sampled
    reference: torch.Tensor  # [rows, tokens]: the reference's
    values: torch.Tensor  # [rows, tokens]
    scores: torch.Tensor  # [rows]: as given, neither clipped nor reduced
    ended: torch.Tensor  # [rows]: whether there is an end token

    @property
    def begin(self) -> int:
        """Where answers begin in the text."""
        return len(self.ids[0]) - len(self.answered[0])

    @property
    def given(self) -> dict[str, torch.Tensor]:
        """The text as models take it."""
        return {
            "input_ids": self.ids,
            "attention_mask": self.mask,
            "position_ids": judges.places(self.mask),
        }

    @property
    def distance(self) -> torch.Tensor:
        """Log-probability over the reference's, [rows]."""
        return ((self.old - self.reference) * self.answered).sum(dim=1)

    def rewards(self, args: argparse.Namespace, beta: float) -> torch.Tensor:
        """What each token earns, [rows, tokens]; an answer that was cut off pays for that, as in TRL's PPO."""
        scores = self.scores.clamp(-args.score_clip, args.score_clip)
        scores = scores - args.missing_eos_penalty * (~self.ended).float()
        return ppo.token_rewards(scores, self.old, self.reference, self.answered, beta=beta)


def fitting(stage: Stage) -> tuple[list[Row], list[Row]]:
    """The examples to learn from, and those held out, without the prompts that are too long.

    Raises Stop where none is left, or where the model has no positions for an answer.
    """
    room = None if stage.positions is None else stage.positions - stage.args.max_new_tokens
    if room is not None and room < 1:
        raise Stop(
            f"--max-new-tokens {stage.args.max_new_tokens} leaves no room for a prompt: the model has "
            f"{stage.positions} positions"
        )
    limit = min(stage.args.seq_length, room or stage.args.seq_length)
    training, held_out = (
        [row for row in rows if len(tokenizer.prompt_ids(stage.tokenizer, row["prompt"])) <= limit]
        for rows in (stage.training, stage.held_out)
    )
    stage.left_out(len(training), len(held_out), f"their prompts are longer than {limit} tokens")
    return training, held_out


def figures(batches: list[Answers], this: Session) -> dict[str, float]:
    """Means over all answers of the ranks: score, distance, length, share that ended, and `tokens` with the prompt."""
    rows = [
        torch.stack(
            [
                batch.scores,
                batch.distance,
                batch.answered.sum(dim=1),
                batch.ended.float(),
                batch.mask.sum(dim=1).float(),
            ]
        )
        for batch in batches
    ]
    means = torch.cat(rows, dim=1).double().mean(dim=1)
    distributed.all_reduce(means)
    names = ("reward", "kl", "answer_tokens", "ended", "tokens")
    return dict(zip(names, (means / this.world_size).tolist(), strict=True))


def answers(
    models: Models, stage: Stage, prompts: list[list[int]], seeds: Sequence[Sequence[int]]
) -> Answers:
    """The policy's answers to a micro batch of prompts, sampled with these seeds."""
    ids, mask = _left_padded(prompts, stage)
    begin, end = ids.shape[1], stage.tokenizer.eos_token_id
    with torch.no_grad():
        ids = _generate(models.policy, stage, {"input_ids": ids, "attention_mask": mask}, seeds)
        answered = before_end(ids[:, begin:], end)
        mask = torch.cat([mask, answered], dim=1)
        given = {"input_ids": ids, "attention_mask": mask, "position_ids": judges.places(mask)}
        old = log_probabilities(models.policy, given, begin)
        with _as_reference(models) as engine:
            reference = log_probabilities(engine, given, begin)
        return Answers(
            ids=ids,
            mask=mask,
            answered=answered.float(),
            old=old,
            reference=reference,
            values=models.critic(**given)[:, begin - 1 : -1],
            scores=models.score(ids, mask, begin).float(),
            ended=(ids[:, begin:] == end).any(dim=1),
        )


def before_end(tokens: torch.Tensor, end: int) -> torch.Tensor:
    """1 for the tokens up to and with the first end token of each row, else 0; as integers."""
    ended = (tokens == end).long().cumsum(dim=1)
    return ((ended == 0) | ((ended == 1) & (tokens == end))).long()


def log_probabilities(engine: DeepSpeedEngine, given: dict[str, torch.Tensor], begin: int) -> torch.Tensor:
    """Log-probability of each token from `begin` on, [rows, tokens]; 0 for padding.

    Those at --temperature, which the engine's model has from ppo_models.fused.
    """
    labels = given["input_ids"].masked_fill(given["attention_mask"] == 0, IGNORED)
    labels[:, :begin] = IGNORED
    logs: torch.Tensor = engine(**given, labels=labels, fused_lm_head=True).log_probs[:, begin - 1 :]
    return logs


def _left_padded(prompts: list[list[int]], stage: Stage) -> tuple[torch.Tensor, torch.Tensor]:
    longest, pad, device = max(map(len, prompts)), stage.tokenizer.pad_token_id, stage.this.device
    ids = [[pad] * (longest - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def _generate(
    policy: DeepSpeedEngine, stage: Stage, given: dict[str, torch.Tensor], seeds: Sequence[Sequence[int]]
) -> torch.Tensor:
    args, partitioned = stage.args, engines.stage(stage.config) == 3
    config = GenerationConfig(
        max_new_tokens=args.max_new_tokens,
        eos_token_id=stage.tokenizer.eos_token_id,
        pad_token_id=stage.tokenizer.pad_token_id,
    )
    model: Any = policy.module
    model.eval()  # with activation checkpointing, training keeps no cache
    draw = policy_sampling.draw_by_place(model, args.temperature, lambda _: seeds)
    with policy_sampling.gathered(policy, partitioned and args.gather_for_generation):
        synced = partitioned and not args.gather_for_generation
        tokens = draw(**given, generation_config=config, synced_gpus=synced)
    model.train()
    return tokens


@contextlib.contextmanager
def _as_reference(models: Models) -> Iterator[DeepSpeedEngine]:
    if models.reference is not None:
        yield models.reference
    else:
        with models.policy.module.disable_adapter():
            yield models.policy
