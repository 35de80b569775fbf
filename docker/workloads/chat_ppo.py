"""Third stage of chat training with a critic: `python -m workloads.chat_ppo`, once per rank.

Owns the loop around DeepSpeed's engines: the policy and the critic learn, the reference and the reward model stand
still. The arithmetic is ppo.py's, answers are rollouts.py's, the numbers are DeepSpeed-Chat's (kl 0.1, clip 0.2,
gamma 1, lambda 0.95, score clip 5: https://github.com/deepspeedai/DeepSpeedExamples, applications/DeepSpeed-Chat,
dschat/rlhf/ppo_trainer.py); but advantages are whitened over the step, as in Ouyang et al.'s code and TRL's.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from typing import TYPE_CHECKING

import heartbeat
from ending import NOT_FINITE, SAVED

from workloads import (
    architectures,
    cache,
    chat,
    checkpoints,
    corpus,
    examples,
    formats,
    metrics,
    options,
    policy_options,
    rewards,
    samples,
    session,
    stages,
    tiers,
    tokenizer,
)
from workloads.session import Stop
from workloads.traits import Learning, Traits

if TYPE_CHECKING:
    from workloads.ppo_training import Training
    from workloads.session import Session
    from workloads.stages import Stage


TRAITS = Traits(
    packages=chat.PACKAGES,
    learning=Learning(loss="tiles", padded=True, reference=True, judge=True, critic=True, sampled="micro"),
)


def parser() -> argparse.ArgumentParser:
    """The command line; importing this module and calling this needs the standard library only."""
    command = argparse.ArgumentParser(
        prog="python -m workloads.chat_ppo",
        description="Reinforcement learning from a reward model or a rule, with a critic.",
        allow_abbrev=False,
    )
    chat.add_options(command, '{"prompt"}')
    group = command.add_argument_group("reinforcement")
    group.add_argument(
        "--reward",
        type=options.HubName(weights=True, others=tuple(rewards.RULES)),
        required=True,
        metavar="MODEL|RULE",
        help="a folder that chat_reward exported, which the critic starts from too; a hub name; or a rule: "
        + ", ".join(rewards.RULES),
    )
    policy_options.policy_optimization(group)
    policy_options.sampling(group)
    return command


def refusal(words: list[str], hosts: int, slots: int) -> str | None:
    """Why this command line cannot run, as far as it can be told before: None if it can."""
    del hosts, slots
    return stages.refusal(parser(), words, formats.PROMPTS)


def ppo(args: argparse.Namespace, this: Session) -> int:
    """Train on this rank until --max-steps or a signal; returns the exit code."""
    began = time.monotonic()
    training = prepare(chat.prepare(args, this, formats.PROMPTS))
    log, stopped = training.stage.log, this.agree()[1]
    heartbeat.mine().phase(heartbeat.FIRST, training.progress.step)
    try:
        while training.progress.step < args.max_steps and not stopped:
            stopped = step(training)
            done = training.progress.step
            heartbeat.mine().step(done)
            if args.eval_every and (done == args.max_steps or done % args.eval_every == 0):
                training.evaluate()
            every = args.checkpoint_every
            if stopped or done == args.max_steps or (every and done % every == 0):
                training.save()
        training.saver.settle()
        heartbeat.mine().phase(heartbeat.END)
    except Stop as stop:
        log.event("end", training.progress.step, status="failed", reason=stop.message)
        raise
    if stopped:
        log.event("saved", training.progress.step, tag=training.saver.saved, signal=session.asked_to_stop())
        log.say(
            f"stopped by a signal with {training.saver.saved or 'nothing to save'}: run it again to continue"
        )
        return SAVED
    finish(training, began)
    log.close()
    return os.EX_OK


def prepare(stage: Stage) -> Training:
    """The models and prompts, with the newest checkpoint loaded. Raises Stop for mistakes in the job."""
    from workloads import averages, ppo_models, ppo_training, rollouts, saver

    args, this, size = stage.args, stage.this, stage.size
    prompts, held_out = (
        [tokenizer.prompt_ids(stage.tokenizer, row["prompt"]) for row in rows]
        for rows in rollouts.fitting(stage)
    )
    plain_text = text_samples(stage) if args.ptx_data else None
    models = ppo_models.build(stage)
    identity = checkpoints.identity(
        args.model,
        models.policy.module,
        stage.tokenizer,
        config=stage.config,
        world_size=this.world_size,
    )
    checkpoint = tiers.nearest(this, args, identity, stage.log)
    checkpoints.describe(this, models.policy.module, stage.tokenizer)
    training = ppo_training.Training(
        stage=stage,
        models=models,
        identity=identity,
        attempt=this.first(lambda: metrics.attempts(this.run_dir) + 1),
        prompts=prompts,
        order=examples.order(len(prompts), args.max_steps * size.total, args.seed),
        held_out=held_out,
        beta=args.beta,
        average=averages.MovingAverage(models.policy, args.ema) if args.ema else None,
        plain_text=plain_text,
        saver=saver.Saver(this, stage.log, goes_on=args.checkpoint_async),
    )
    if checkpoint:
        training.resume(checkpoint)
    stage.log.event(
        "start",
        training.progress.step,
        world_size=this.world_size,
        resumed_from=training.saver.saved,
        parameters=architectures.parameters(models.policy.module),
        attempt=training.attempt,
        max_steps=args.max_steps,
    )
    stage.log.say(
        f"{identity.model}, reward {args.reward}; {this.world_size} ranks, ZeRO-{identity.zero_stage}, "
        f"{identity.precision}; "
        + (f"resumed from {training.saver.saved}" if checkpoint else "from the start")
    )
    return training


def text_samples(stage: Stage) -> samples.Samples:
    """Samples of --ptx-data, each of --seq-length tokens. Raises Stop where they are too few for a step."""
    args, this = stage.args, stage.this
    tokens = corpus.prepare(this, args.ptx_data, stage.tokenizer, cache.place(None, this.run_dir))
    plain_text = samples.Samples(tokens.split()[0], stage.length, args.seed)
    this.together(lambda: samples.check_lengths(plain_text, stage.size.total, stage.settings))
    return plain_text


def step(training: Training) -> bool:
    """Sample a global batch of answers and learn from it; returns whether any rank was told to stop."""
    args, this, number = training.args, training.stage.this, training.progress.step + 1
    this.rehearse(args, number, training.attempt)
    began, tokens = time.perf_counter(), training.progress.tokens
    figures = training.step()
    loss, stop = this.agree(figures.pop("loss"))
    norm = figures.pop("grad_norm")
    bad_update = norm is not None and not math.isfinite(norm) and training.models.policy.was_step_applied()
    if not math.isfinite(loss) or bad_update:
        raise Stop(
            f"the loss or gradient of step {number} is not finite. Nothing of it was saved; the last complete "
            f"checkpoint is {training.saver.settle() or 'none'}. A lower --lr may help",
            NOT_FINITE,
        )
    seconds, tokens = time.perf_counter() - began, training.progress.tokens - tokens
    first = number == training.steps_before + 1
    if stop or first or number == args.max_steps or number % args.log_every == 0:
        training.stage.log.step(
            {
                "step": number,
                "loss": loss,
                "lr": figures.pop("lr"),
                "grad_norm": norm,
                "tokens_per_second": tokens / seconds,
                "step_seconds": seconds,
                "memory_bytes": this.peak_memory(),
                "tokens": training.progress.tokens,
                "max_steps": args.max_steps,
                "skipped_steps": training.models.policy.skipped_steps,
                **figures,
                **training.models.routers(),
            }
        )
    return stop


def finish(training: Training, began: float) -> None:
    """Export the policy, or its moving average, if asked to, and write summary.json: the run is done."""
    this, log = training.stage.this, training.stage.log
    policy = training.models.policy.module
    if training.average is not None and (training.args.export or training.args.lora_rank):
        training.average.put()
    stages.export(training.stage, policy)
    facts = {
        "parameters": architectures.parameters(policy),
        "trained_parameters": architectures.trained_parameters(policy),
        "world_size": this.world_size,
        "seconds": time.monotonic() - began,
    }
    metrics.finish(log, this, training.progress.step, facts)


def main() -> None:
    """Run this rank; exits with a code of session.py."""
    session.run(parser(), ppo)


if __name__ == "__main__":
    main()
