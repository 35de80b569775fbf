"""Hugging Face's Trainer, and TRL's on top of it, as a run of ours: DeepSpeed config, metrics, checkpoints, signals.

Owns the bridge between the two: a DeepSpeed config whose numbers the Trainer must agree with and whose `auto` values
it fills in; metrics.jsonl instead of its own logs; checkpoints that are whole or not resumed. Which Trainer, model and
data is the workload's.
"""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ending import NOT_FINITE, SAVED
from transformers import PrinterCallback, TrainerCallback

from workloads import architectures, checkpoints, engines, metrics, session
from workloads.checkpoints import Identity, Progress
from workloads.session import Session, Stop

if TYPE_CHECKING:
    import argparse

    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerControl, TrainerState


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
        "output_dir": str(this.run_dir / checkpoints.FOLDER),
        "deepspeed": whole,
        "per_device_train_batch_size": size.micro,
        "per_device_eval_batch_size": size.micro,
        "gradient_accumulation_steps": size.accumulation,
        "max_grad_norm": config.get("gradient_clipping", 0.0),
        "bf16": engines.precision(config) == "bf16",
        "fp16": engines.precision(config) == "fp16",
        "use_cpu": this.device.type == "cpu",
        "dataloader_pin_memory": this.device.type != "cpu",
        "learning_rate": _number(given, "lr", args.lr),
        "weight_decay": _number(given, "weight_decay", args.weight_decay),
        "adam_epsilon": _number(given, "eps", 1e-8),
        "adam_beta1": beta1,
        "adam_beta2": beta2,
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr": args.min_lr},
        "warmup_steps": args.warmup_steps,
        "max_steps": args.max_steps,
        "seed": args.seed,
        "activation_checkpointing": args.activation_checkpointing,
        "save_strategy": "steps" if args.checkpoint_every else "no",
        "save_steps": args.checkpoint_every or 1,
        "save_total_limit": None,  # checkpoints.vouch deletes the old ones, once the new one is whole
        "eval_strategy": "steps" if args.eval_every else "no",
        "eval_steps": args.eval_every or 1,
        "logging_steps": args.log_every,
        "logging_first_step": True,
        "logging_nan_inf_filter": False,
        "include_num_input_tokens_seen": "non_padding",
        "disable_tqdm": True,
        "report_to": [],
    }


def _number(given: dict[str, Any], key: str, otherwise: Any) -> Any:
    value = given.get(key, "auto")
    return otherwise if value == "auto" else value


def run(
    trainer: Trainer, args: argparse.Namespace, this: Session, log: metrics.Log, by: PreTrainedTokenizerBase
) -> int:
    """Train from the newest complete checkpoint to the last step; returns the exit code (SAVED after a signal)."""
    began = time.monotonic()
    trainer.remove_callback(PrinterCallback)
    identity = checkpoints.identity(args.model, trainer.model, by, trainer.args.deepspeed, this.world_size)
    found = checkpoints.find(this, args.resume, identity, log)
    attempt = this.first(lambda: metrics.attempts(this.run_dir) + 1)
    log.say(
        f"{identity.model}, tokenizer {identity.tokenizer}; {this.world_size} ranks, ZeRO-{identity.zero_stage}, "
        f"{identity.precision}; " + (f"resumed from {found.tag}" if found else "from the start")
    )
    log.event(
        "start",
        found.progress.step if found else 0,
        world_size=this.world_size,
        resumed_from=found.tag if found else None,
        parameters=architectures.parameters(trainer.model),
        attempt=attempt,
        max_steps=args.max_steps,
    )
    reporter = Reporter(args, this, log, identity, attempt)
    trainer.add_callback(reporter)
    note_failures(trainer, reporter.failures)
    try:
        trainer.train(resume_from_checkpoint=str(found.path) if found else None)
        if not reporter.stopped:
            finish(trainer, args, this, log, by, began)
    except Stop as stop:
        log.event("end", trainer.state.global_step, status="failed", reason=stop.message)
        raise
    if reporter.stopped:
        log.event("saved", trainer.state.global_step, tag=reporter.saved, signal=session.asked_to_stop())
        log.say(f"stopped by a signal with {reporter.saved or 'nothing to save'}: run it again to continue")
    log.close()
    return SAVED if reporter.stopped else os.EX_OK


class Reporter(TrainerCallback):  # type: ignore[misc]
    """Writes what the Trainer tells to metrics.jsonl, and stops it on a signal or when the loss is not finite."""

    def __init__(
        self, args: argparse.Namespace, this: Session, log: metrics.Log, identity: Identity, attempt: int
    ) -> None:
        self.args, self.this, self.log, self.identity, self.attempt = args, this, log, identity, attempt
        self.stopped = False
        self.saved: str | None = None
        self.failures: list[str] = []  # to write a checkpoint, on this rank
        self._began = 0.0
        self._seconds, self._steps, self._tokens = 0.0, 0, 0

    def on_step_begin(self, _: Any, state: TrainerState, control: TrainerControl, **more: Any) -> None:
        del control, more
        self.this.rehearse(self.args, state.global_step + 1, self.attempt)
        self._began = time.perf_counter()

    def on_step_end(self, _: Any, state: TrainerState, control: TrainerControl, **more: Any) -> None:
        del more
        _, self.stopped = self.this.agree()
        self._seconds += time.perf_counter() - self._began
        self._steps += 1
        last = state.global_step >= self.args.max_steps
        if self.stopped or last:
            control.should_save = control.should_training_stop = True
        # what is saved is logged before, so that a loss that is not finite is never saved
        control.should_log = control.should_log or control.should_save

    def on_log(
        self, _: Any, state: TrainerState, control: TrainerControl, logs: dict[str, Any], **more: Any
    ) -> None:
        del control, more
        if "eval_loss" in logs:
            values = {_plain(k.removeprefix("eval_")): v for k, v in logs.items() if k.startswith("eval_")}
            self.log.event("eval", state.global_step, **values)
            self.log.say(f"held-out examples: loss {values['loss']:.4f}{metrics.chat(values)}")
        elif "loss" in logs:
            self._step(logs, state)

    def _step(self, logs: dict[str, Any], state: TrainerState) -> None:
        loss, norm = float(logs["loss"]), logs.get("grad_norm")
        norm = None if norm is None else float(norm)
        if not math.isfinite(loss) or (norm is not None and not math.isfinite(norm)):
            raise Stop(
                f"the {'gradient' if math.isfinite(loss) else 'loss'} of step {state.global_step} is not finite. "
                f"Nothing of it was saved; the last complete checkpoint is {self.saved or 'none'}. A lower --lr, more "
                "--warmup-steps or gradient_clipping may help",
                NOT_FINITE,
            )
        tokens = int(logs.get("num_tokens", state.num_input_tokens_seen))
        seconds = self._seconds / max(1, self._steps)
        self.log.step(
            {
                "step": state.global_step,
                "loss": loss,
                "lr": float(logs["learning_rate"]),
                "grad_norm": norm,
                "tokens_per_second": (tokens - self._tokens) / max(self._seconds, 1e-9),
                "step_seconds": seconds,
                "memory_bytes": self.this.peak_memory(),
                "tokens": tokens,
                "max_steps": self.args.max_steps,
                **{_plain(key): logs[key] for key in logs if _plain(key) in metrics.CHAT},
            }
        )
        self._seconds, self._steps, self._tokens = 0.0, 0, tokens

    def on_save(self, given: Any, state: TrainerState, control: TrainerControl, **more: Any) -> None:
        del control, more
        path = self.this.run_dir / checkpoints.FOLDER / f"checkpoint-{state.global_step}"
        samples = (
            state.global_step
            * given.train_batch_size
            * given.gradient_accumulation_steps
            * self.this.world_size
        )
        progress = Progress(state.global_step, samples, int(state.num_input_tokens_seen))
        keep = self.args.checkpoint_keep
        checkpoints.vouch(self.this, path, progress, self.identity, keep, self.failures)
        self.saved = path.name
        self.log.event("checkpoint", state.global_step, tag=path.name)
        self.log.say(f"checkpoint {path.name} saved")


def note_failures(trainer: Trainer, failures: list[str]) -> None:
    """Let this rank go on when it cannot write a part of a checkpoint, and note why: the others wait for it."""
    inner = checkpoints.guarded(trainer._save_checkpoint, failures)

    def save(*args: Any, **more: Any) -> None:
        path = Path(trainer.args.output_dir) / f"checkpoint-{trainer.state.global_step}"
        with checkpoints.observed(trainer.deepspeed, path, {}, failures):
            inner(*args, **more)

    trainer._save = checkpoints.guarded(trainer._save, failures)
    trainer._save_checkpoint = save


def _plain(key: str) -> str:
    """TRL's name of a figure as metrics.py has it."""
    return {
        "mean_token_accuracy": "accuracy",
        "rewards/accuracies": "accuracy",
        "rewards/margins": "margin",
    }.get(key, key)


def finish(
    trainer: Trainer,
    args: argparse.Namespace,
    this: Session,
    log: metrics.Log,
    by: PreTrainedTokenizerBase,
    began: float,
) -> None:
    """Export the model if asked to, and write summary.json: the run is done."""
    model: PreTrainedModel = trainer.accelerator.unwrap_model(trainer.model)
    if args.export:
        architectures.export(model, by, this)
        log.say(f"exported to {this.run_dir / 'export'}")
    log.event("end", trainer.state.global_step, status="done")
    facts = {
        "parameters": architectures.parameters(model),
        "trained_parameters": architectures.trained_parameters(model),
        "world_size": this.world_size,
        "seconds": time.monotonic() - began,
    }
    target = this.run_dir / "summary.json"
    this.first(lambda: metrics.write_atomically(target, {**metrics.summary(this.run_dir), **facts}))
