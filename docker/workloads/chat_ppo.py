"""Third stage of chat training with a critic: `python -m workloads.chat_ppo`, once per rank.

Owns four DeepSpeed engines: the policy and the critic learn, the reference and the reward model stand still. The
arithmetic is ppo.py's, the numbers are DeepSpeed-Chat's (kl 0.1, clip 0.2, gamma 1, lambda 0.95, score clip 5:
https://github.com/deepspeedai/DeepSpeedExamples, applications/DeepSpeed-Chat, dschat/rlhf/ppo_trainer.py).
"""

from __future__ import annotations

import argparse
import math
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workloads import architectures, chat, checkpoints, engines, judges, metrics, options, rewards, session
from workloads.checkpoints import Identity, Progress
from workloads.session import Session, Stop
from workloads.traits import Traits

if TYPE_CHECKING:
    import torch
    from deepspeed import DeepSpeedEngine


TRAITS = Traits()


def parser() -> argparse.ArgumentParser:
    """The command line; importing this module and calling this needs the standard library only."""
    made = argparse.ArgumentParser(
        prog="python -m workloads.chat_ppo",
        description="Reinforcement learning from a reward model or a rule, with a critic.",
        allow_abbrev=False,
    )
    chat.add_options(made, '{"prompt"}')
    group = made.add_argument_group("reinforcement")
    group.add_argument(
        "--reward",
        required=True,
        metavar="MODEL|RULE",
        help="a folder that chat_reward exported, which the critic starts from too; a hub name; or a rule: "
        + ", ".join(rewards.RULES),
    )
    group.add_argument(
        "--critic-lr", type=options.rate, help="highest learning rate of the critic (default: --lr)"
    )
    group.add_argument(
        "--beta", type=options.number, default=0.1, help="weight of the distance to the start (KL)"
    )
    group.add_argument(
        "--clip", type=options.rate, default=0.2, help="how far a step may move a token's probability"
    )
    group.add_argument("--score-clip", type=options.rate, default=5.0, help="largest score of an answer")
    group.add_argument("--gamma", type=options.share, default=1.0, help="discount of later rewards")
    group.add_argument("--decay", type=options.share, default=0.95, help="lambda of the advantages")
    group.add_argument(
        "--epochs", type=options.positive, default=1, metavar="N", help="updates from the same answers"
    )
    group.add_argument(
        "--offload-frozen",
        action=options.SWITCH,
        default=False,
        help="keep the parameters of reference and reward model in host memory",
    )
    options.sampling(group)
    return made


@dataclass(frozen=True)
class Answers:
    """A micro batch of prompts and answers. [rows, length] is the whole text, [rows, tokens] the answer."""

    ids: torch.Tensor
    mask: torch.Tensor
    places: torch.Tensor  # position of each token, from 0 after the padding
    answered: torch.Tensor  # [rows, tokens]: 1 up to and with the end token
    old: torch.Tensor  # log-probabilities when it was sampled
    values: torch.Tensor
    rewards: torch.Tensor
    scores: torch.Tensor  # [rows]
    distance: torch.Tensor  # [rows], log-probability over the reference's


@dataclass
class Training:
    """One attempt of a run on this rank: what it works with, and how far it has come."""

    args: argparse.Namespace
    this: Session
    stage: chat.Stage
    policy: DeepSpeedEngine
    critic: DeepSpeedEngine
    reference: DeepSpeedEngine
    score: judges.Score
    identity: Identity
    prompts: list[list[int]]
    progress: Progress
    attempt: int
    saved: str | None = None


def ppo(args: argparse.Namespace, this: Session) -> int:
    """Train on this rank until --max-steps or a signal; returns the exit code."""
    began = time.monotonic()
    stage = chat.prepare(args, this, "prompt")
    training = prepare(args, this, stage)
    log, stopped = stage.log, this.agree()[1]
    try:
        while training.progress.step < args.max_steps and not stopped:
            stopped = step(training)
            every, done = args.checkpoint_every, training.progress.step
            if stopped or done == args.max_steps or (every and done % every == 0):
                save(training)
    except Stop as stop:
        log.event("end", training.progress.step, status="failed", reason=stop.message)
        raise
    if stopped:
        log.event("saved", training.progress.step, tag=training.saved, signal=session.asked_to_stop())
        log.say(f"stopped by a signal with {training.saved or 'nothing to save'}: run it again to continue")
        return os.EX_TEMPFAIL
    if args.export:
        architectures.export(training.policy.module, stage.tokenizer, this)
        log.say(f"exported to {this.run_dir / 'export'}")
    log.event("end", training.progress.step, status="done")
    if this.rank == 0:
        summary = {
            **metrics.summary(this.run_dir),
            "world_size": this.world_size,
            "seconds": time.monotonic() - began,
        }
        metrics.write_atomically(this.run_dir / "summary.json", summary)
    log.close()
    return os.EX_OK


def prepare(args: argparse.Namespace, this: Session, stage: chat.Stage) -> Training:
    """The four engines, with the newest checkpoint loaded. Raises Stop for mistakes in the job."""
    from peft import get_peft_model
    from transformers.integrations import HfDeepSpeedConfig

    config, by = stage.config, stage.tokenizer
    # tells transformers to partition what it loads; it is held weakly
    partitioned = HfDeepSpeedConfig(config) if engines.stage(config) == 3 else None
    policy = this.together(lambda: chat.policy(stage.model, config))
    reference = this.together(lambda: chat.policy(stage.model, config))
    ruled, critic_start = (
        args.reward in rewards.RULES,
        stage.model if args.reward in rewards.RULES else args.reward,
    )
    critic = this.together(lambda: chat.judge(critic_start, config, by, args.seed if ruled else None))
    adapters = chat.lora(args)
    policy = get_peft_model(policy, adapters) if adapters else policy
    if args.activation_checkpointing:
        policy.activation_checkpointing_enable()
    identity = checkpoints.identity(args.model, policy, by, config, this.world_size)
    found = checkpoints.find(this, args.resume, identity, stage.log)
    attempt = this.first(lambda: metrics.attempts(this.run_dir) + 1)
    slower = argparse.Namespace(**{**vars(args), "lr": args.critic_lr or args.lr})
    score = judges.rule_score(args, stage) if ruled else judges.model_score(args, this, stage)
    training = Training(
        args,
        this,
        stage,
        policy=engines.start(policy, config, args),
        critic=engines.start(judges.critic(critic), config, slower),
        reference=judges.frozen(reference, stage, args),
        score=score,
        identity=identity,
        prompts=[
            by.encode(row["prompt"], add_special_tokens=False)[-args.seq_length :] for row in stage.training
        ],
        progress=Progress(),
        attempt=attempt,
    )
    training.policy.partitioned = partitioned
    if found:
        training.progress = checkpoints.restore(training.policy, found)
        checkpoints.restore(training.critic, found, "critic")
        training.saved = found.tag
    begin = training.progress.step
    stage.log.event(
        "start",
        begin,
        world_size=this.world_size,
        resumed_from=training.saved,
        parameters=architectures.parameters(policy),
        attempt=attempt,
        max_steps=args.max_steps,
    )
    stage.log.say(
        f"{identity.model}, reward {args.reward}; {this.world_size} ranks, ZeRO-{identity.zero_stage}, "
        f"{identity.precision}; " + (f"resumed from {training.saved}" if found else "from the start")
    )
    return training


def sample(training: Training, prompts: list[list[int]]) -> Answers:
    """Answers of the policy to some prompts, with all that the update needs to know of them."""
    import torch

    from workloads import ppo as arithmetic

    args, by, device = training.args, training.stage.tokenizer, training.this.device
    longest, width = max(map(len, prompts)), args.max_new_tokens
    ids = torch.tensor([[by.pad_token_id] * (longest - len(p)) + p for p in prompts], device=device)
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=device)
    training.policy.eval()
    training.critic.eval()
    with torch.no_grad():
        ids = training.policy.module.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=width,
            do_sample=True,
            temperature=args.temperature,
            top_k=0,
            top_p=1.0,
            eos_token_id=by.eos_token_id,
            pad_token_id=by.pad_token_id,
            synced_gpus=engines.stage(training.stage.config) == 3,
            use_cache=True,
        )
        answered = before_end(ids[:, longest:], by.eos_token_id)
        mask = torch.cat([mask, answered], dim=1)
        places = (mask.cumsum(dim=1) - 1).clamp(min=0)
        given = {"input_ids": ids, "attention_mask": mask, "position_ids": places}
        old = token_log_probabilities(training.policy, given, longest, args.temperature)
        reference = token_log_probabilities(training.reference, given, longest, args.temperature)
        values = training.critic(**given)[:, longest - 1 : -1]
        scores = training.score(ids, mask, places, longest).clamp(-args.score_clip, args.score_clip)
    weights = answered.float()
    rewarded = arithmetic.token_rewards(scores, old, reference, weights, args.beta)
    distance = ((old - reference) * weights).sum(dim=1)
    training.policy.train()
    training.critic.train()
    return Answers(ids, mask, places, weights, old, values, rewarded, scores, distance)


def before_end(tokens: torch.Tensor, end: int) -> torch.Tensor:
    """1 for the tokens up to and with the first end token of each row, else 0; as integers."""
    ended = (tokens == end).long().cumsum(dim=1)
    return ((ended == 0) | ((ended == 1) & (tokens == end))).long()


def token_log_probabilities(
    engine: DeepSpeedEngine, given: dict[str, torch.Tensor], begin: int, temperature: float
) -> torch.Tensor:
    """Log-probability of each token from `begin` on, [rows, tokens]."""
    from workloads import ppo as arithmetic

    logits = engine(**given, use_cache=False).logits[:, begin - 1 : -1] / temperature
    return arithmetic.log_probabilities(logits, given["input_ids"][:, begin:])


def step(training: Training) -> bool:
    """Sample a global batch of answers and learn from it; returns whether any rank was told to stop."""
    import torch

    args, this, size = training.args, training.this, training.stage.size
    number = training.progress.step + 1
    this.rehearse(args, number, training.attempt)
    began = time.perf_counter()
    torch.manual_seed(hash((args.seed, number, this.rank)))  # so that a resumed run continues exactly
    rate = training.policy.get_lr()[0]
    batches = []
    for index in range(size.accumulation):
        first = training.progress.samples + (index * this.world_size + this.rank) * size.micro
        chosen = [training.prompts[n % len(training.prompts)] for n in range(first, first + size.micro)]
        batches.append(sample(training, chosen))
    losses = [learn(training, batch) for _ in range(args.epochs) for batch in batches]

    def average(values: list[float]) -> float:
        return this.agree(sum(values) / len(values))[0]

    loss, stop = this.agree(sum(policy for policy, _ in losses) / len(losses))
    norm = training.policy.get_global_grad_norm()
    norm = None if norm is None else float(norm)
    if not math.isfinite(loss) or (norm is not None and not math.isfinite(norm)):
        raise Stop(
            f"the loss or gradient of step {number} is not finite. Nothing of it was saved; the last complete "
            f"checkpoint is {training.saved or 'none'}. A lower --lr may help",
            os.EX_DATAERR,
        )
    tokens = round(average([float(batch.mask.sum()) for batch in batches]) * this.world_size * len(batches))
    before = training.progress
    training.progress = Progress(number, before.samples + size.total, before.tokens + tokens)
    figures = {
        "reward": average([float(batch.scores.mean()) for batch in batches]),
        "kl": average([float(batch.distance.mean()) for batch in batches]),
        "critic_loss": average([critic for _, critic in losses]),
        "answer_tokens": average([float(batch.answered.sum(dim=1).mean()) for batch in batches]),
    }
    seconds = time.perf_counter() - began
    if stop or number in (1, args.max_steps) or number % args.log_every == 0:
        training.stage.log.step(
            {
                "step": number,
                "loss": loss,
                "lr": rate,
                "grad_norm": norm,
                "tokens_per_second": tokens / seconds,
                "step_seconds": seconds,
                "memory_bytes": this.peak_memory(),
                "tokens": training.progress.tokens,
                "max_steps": args.max_steps,
                **figures,
            }
        )
    return stop


def learn(training: Training, batch: Answers) -> tuple[float, float]:
    """One backward pass of policy and critic over a micro batch; returns their losses."""
    from workloads import ppo as arithmetic

    args, begin = training.args, batch.ids.shape[1] - batch.answered.shape[1]
    given = {"input_ids": batch.ids, "attention_mask": batch.mask, "position_ids": batch.places}
    gained, returns = arithmetic.advantages(
        batch.rewards, batch.values, batch.answered, args.gamma, args.decay
    )
    gained = arithmetic.whitened(gained, batch.answered)
    new = token_log_probabilities(training.policy, given, begin, args.temperature)
    policy = arithmetic.policy_loss(new, batch.old, gained, batch.answered, args.clip)
    training.policy.backward(policy)
    training.policy.step()
    values = training.critic(**given)[:, begin - 1 : -1]
    critic = arithmetic.value_loss(values, batch.values, returns, batch.answered, args.clip)
    training.critic.backward(critic)
    training.critic.step()
    return float(policy.detach()), float(critic.detach())


def save(training: Training) -> None:
    """Write a checkpoint of policy and critic."""
    training.saved = checkpoints.save(
        training.policy,
        training.this,
        training.progress,
        training.identity,
        training.args.checkpoint_keep,
        {"critic": training.critic},
    )
    training.stage.log.event("checkpoint", training.progress.step, tag=training.saved)
    training.stage.log.say(f"checkpoint {training.saved} saved")


def main() -> None:
    """Run this rank; exits with a code of session.py."""
    session.run(parser(), ppo)


if __name__ == "__main__":
    main()
