"""What a Trainer says of its steps, evaluations and checkpoints, as lines of metrics.jsonl.

Owns the Trainer's callback: signals, losses that are not finite and ranks that do not agree stop it, and it says where
a checkpoint goes. The bridge from a job to the Trainer is trainers.py.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import heartbeat
from ending import NOT_FINITE
from transformers import TrainerCallback

from workloads import engines, metrics, own_disk, own_time
from workloads.checkpoint_folder import Progress
from workloads.session import Stop
from workloads.training import due

if TYPE_CHECKING:
    from transformers import Trainer, TrainerControl, TrainerState

    from workloads import balancing, evidence, replicas
    from workloads.saver import Saver
    from workloads.stages import Stage

# TRL's names of figures as metrics.py has them
PLAIN = {
    "mean_token_accuracy": "accuracy",
    "rewards/accuracies": "accuracy",
    "rewards/margins": "margin",
}


class Reporter(TrainerCallback):  # type: ignore[misc]
    """Writes what the Trainer tells to metrics.jsonl, and stops it on a signal or when the loss is not finite."""

    def __init__(
        self,
        trainer: Trainer,
        stage: Stage,
        saver: Saver,
        *,
        attempt: int,
        balance: balancing.Balance | None,
        agreement: replicas.Replicas | None,
        digests: evidence.Evidence | None,
    ) -> None:
        self.trainer, self.saver, self.attempt, self.balance = trainer, saver, attempt, balance
        self.agreement, self.digests = agreement, digests
        # where the checkpoint goes that is due, if not to the run's folder
        self.near: own_disk.Place | None = None
        self.args, self.this, self.log = stage.args, stage.this, stage.log
        self.stopped = False
        self._began, self._rate = 0.0, 0.0
        self._seconds, self._steps, self._tokens = 0.0, 0, 0

    def on_train_begin(self, _: Any, state: TrainerState, control: TrainerControl, **more: Any) -> None:
        del control, more
        if self.agreement:
            self.agreement.check(state.global_step)
        if self.digests and self.saver.saved:
            self.digests.state(self.trainer.deepspeed, state.global_step)
        heartbeat.mine().phase(heartbeat.FIRST, state.global_step)
        own, module = own_time.of(self.trainer.deepspeed), self.trainer.deepspeed.module
        module.register_forward_pre_hook(lambda *_: own.forward(ends=False) if module.training else None)
        module.register_forward_hook(lambda *_: own.forward(ends=True) if module.training else None)
        self._own = own
        self._tokens = int(state.num_input_tokens_seen)  # those of earlier attempts are not this one's speed

    def on_step_begin(self, _: Any, state: TrainerState, control: TrainerControl, **more: Any) -> None:
        del control, more
        self._own.begin()
        self.this.rehearse(self.args, state.global_step + 1, self.attempt)
        # DeepSpeed moves the schedule on inside the backward pass: what the Trainer logs is the next step's rate
        self._rate = engines.advance(self.trainer.deepspeed, state.global_step)
        self._began = time.perf_counter()

    def on_step_end(self, _: Any, state: TrainerState, control: TrainerControl, **more: Any) -> None:
        del more
        _, self.stopped = self.this.agree()
        self._seconds += time.perf_counter() - self._began
        self._steps += 1
        last = state.global_step >= self.args.max_steps
        if self.stopped or last:
            control.should_training_stop = control.should_log = True
            control.should_save = control.should_save or bool(self.args.checkpoint_keep)
        self._place(state.global_step, control)
        # what is saved is logged before, so that a loss that is not finite is never saved
        control.should_log = control.should_log or control.should_save or self.digests is not None
        beat = heartbeat.mine()
        beat.step(state.global_step, self._own.seconds())
        if control.should_evaluate or control.should_save:
            beat.phase(heartbeat.EVALUATE if control.should_evaluate else heartbeat.CHECKPOINT)

    def _place(self, step: int, control: TrainerControl) -> None:
        """Say where a checkpoint goes that is due, once the ranks agree on what would be in it."""
        place, last = own_disk.mine(), self.args.max_steps
        self.near = place if place and not control.should_save and due(step, place.every, last) else None
        control.should_save = control.should_save or self.near is not None
        if self.agreement and (control.should_save or due(step, self.args.verify_every, last)):
            self.agreement.compare(step, self.saver)

    def saved(self) -> None:
        """A checkpoint is written, or is about to be, to the run's folder."""
        if self.digests:
            self.digests.state(self.trainer.deepspeed, self.trainer.state.global_step)

    def on_prediction_step(self, *given: Any, **more: Any) -> None:
        del given, more
        heartbeat.mine().alive()

    def on_evaluate(self, _: Any, state: TrainerState, control: TrainerControl, **more: Any) -> None:
        del state, more
        heartbeat.mine().phase(heartbeat.CHECKPOINT if control.should_save else heartbeat.STEP)

    def on_train_end(self, _: Any, state: TrainerState, control: TrainerControl, **more: Any) -> None:
        del state, control, more
        heartbeat.mine().phase(heartbeat.END)

    def on_log(
        self, _: Any, state: TrainerState, control: TrainerControl, logs: dict[str, Any], **more: Any
    ) -> None:
        del control, more
        if "eval_loss" in logs:
            values = {_plain(k.removeprefix("eval_")): v for k, v in logs.items() if k.startswith("eval_")}
            values = {key: values[key] for key in ("loss", *metrics.CHAT) if key in values}
            seconds = {"seconds": logs["eval_runtime"]} if "eval_runtime" in logs else {}
            self.log.event("eval", state.global_step, **values, **seconds)
            self.log.say(f"held-out examples: loss {values['loss']:.4f}{metrics.chat(values)}")
        elif "loss" in logs:
            self._step(logs, state)

    def _step(self, logs: dict[str, Any], state: TrainerState) -> None:
        loss, norm = float(logs["loss"]), logs.get("grad_norm")
        norm = None if norm is None else float(norm)
        engine = self.trainer.deepspeed
        # an update that DeepSpeed left out because fp16 overflowed did no harm
        if not math.isfinite(loss) or (
            norm is not None and not math.isfinite(norm) and engine.was_step_applied()
        ):
            what = "gradient" if math.isfinite(loss) else "loss"
            raise Stop(
                f"the {what} of step {state.global_step} is not finite. Nothing of it was saved; the last complete "
                f"checkpoint is {self.saver.settle() or 'none'}. A lower --lr, more --warmup-steps or "
                "gradient_clipping may help",
                NOT_FINITE,
            )
        tokens = int(state.num_input_tokens_seen)
        seconds = self._seconds / max(1, self._steps)
        seen = {"samples": self.digests.samples()} if self.digests else {}
        self.log.step(
            {
                "step": state.global_step,
                "loss": loss,
                "lr": self._rate,
                "grad_norm": norm,
                "tokens_per_second": (tokens - self._tokens) / max(self._seconds, 1e-9),
                "step_seconds": seconds,
                "memory_bytes": self.this.peak_memory(),
                "tokens": tokens,
                "max_steps": self.args.max_steps,
                "skipped_steps": engine.skipped_steps,
                **{_plain(key): logs[key] for key in logs if _plain(key) in metrics.CHAT},
                **(self.balance.figures() if self.balance is not None else {}),
                **seen,
            }
        )
        self._seconds, self._steps, self._tokens = 0.0, 0, tokens

    def on_save(self, _: Any, state: TrainerState, control: TrainerControl, **more: Any) -> None:
        del state, control, more
        heartbeat.mine().phase(heartbeat.STEP)

    def progress(self) -> Progress:
        """How far the Trainer is."""
        state, given = self.trainer.state, self.trainer.args
        batch = given.train_batch_size * given.gradient_accumulation_steps * self.this.world_size
        return Progress(state.global_step, state.global_step * batch, int(state.num_input_tokens_seen))


def _plain(key: str) -> str:
    """TRL's name of a figure as metrics.py has it."""
    return PLAIN.get(key, key)
