"""What a run tells about itself: metrics.jsonl, the log lines of rank 0 and summary.json; standard library only.

Owns the format below and the optional TensorBoard and Weights & Biases writers (MLflow's is in mlflow_sink.py); the
numbers come from the workload.

metrics.jsonl holds one JSON object per line, is written by rank 0 alone and is flushed line by line. A restarted
run appends to it. When a run died after its last checkpoint the steps since then come twice: **the later line of a
step holds**. A line cut off by a crash is not JSON and is skipped by readers. Unknown keys may be added.

A step (every --log-every steps, and the first and last step of an attempt) has no "event" key:
  step               optimizer steps done, this one included (from 1)
  loss               mean over the whole global batch, nats per token, before this step's update
  lr                 learning rate of this step's update
  grad_norm          2-norm of the gradient before clipping; null where DeepSpeed does not compute it
  tokens_per_second  of all ranks, since the line before; checkpoints and evaluations are not counted as time
  step_seconds       seconds per step, likewise
  memory_bytes       rank 0's peak: the accelerator's allocated memory, or resident memory on CPU
  tokens             tokens trained on since the run's first step
  time               Unix time, seconds
  max_steps          the step the run ends with
  expert_shares      of a mixture of experts: the share of choices that each expert got since the line before, a mean
                     over layers; expert_share_min and _max are over all experts of all layers
  router_entropy     of the routers' distributions over experts, nats: a mean over tokens and layers
  epoch              how often the text has been seen until now: samples over samples there are; of a mixture that of
                     the source seen most often, and source_epochs has each source's, in --data's order
  data_share         of the steps since the line before: the share of their time in which this rank waited for a batch
  accuracy, reward, margin, kl   of the chat workloads: shares and means over the global batch
  samples            with --digests: of all samples of the step (evidence.py)
  skipped_steps      updates that DeepSpeed left out so far because fp16 overflowed; they count as steps

An event has "event", "step" and "time":
  start       world_size, resumed_from (a checkpoint's tag or null), parameters, attempt (from 1), max_steps; of
              pretrain also spent: seconds of rank 0 until now by phase (heartbeat.py): start, load of a checkpoint
  tokenizing  bytes, total_bytes, bytes_per_second, seconds_left: how far --data is; once a minute
  tokenized   folder, shards, tokens, documents, bytes, unigram_entropy, longest_document, seconds: tokens were made
  checkpoint  tag, seconds: a complete checkpoint was written, for which training stood still that long; of one that
              was written while training went on also paused: when it stood still last (Unix time), and written: the
              seconds that writing took in all
  waited      seconds: training waited at its end until the last checkpoint was written
  own_disk    seconds: a checkpoint was written to each host's own disk
  skipped     tag, reason: a broken checkpoint was passed over at the start
  state       with --digests, after a checkpoint was written or loaded: digests of `parameters` and `optimizer`, as the
              ranks have them, and 2-norms of the whole: parameters_norm, exp_avg_norm, exp_avg_sq_norm (evidence.py)
  corrupted   since, ranks, hosts, names, certain: these ranks differ from a majority, or (certain is false) there is
              none; all were equal after step `since` (replicas.py)
  eval        loss (nats per token), bits_per_byte, seconds; of the chat workloads those of their figures that there are
  left_out    training, held_out: how many examples are not used; reason
  chat_date   date: what a chat template that renders the date renders, in this and all later attempts
  cut         training, held_out: how many examples lose their end; tokens: the most that an example has
  score       task, and its metrics: of evaluate
  saved       tag (or null: nothing new to save), signal: the run stops on a signal and can be started again
  ready       url, seconds: a server answers there
  end         status: "done", or "failed" with a reason
"""

from __future__ import annotations

import functools
import json
import math
import os
import sys
import threading
import time
from typing import IO, TYPE_CHECKING, Any, Protocol

from workloads import packages
from workloads.mlflow_sink import Mlflow

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from pathlib import Path

    from workloads.session import Session

FILE = "metrics.jsonl"
CHAT = ("accuracy", "reward", "margin", "kl")


class Sink(Protocol):
    """Another place for the numbers."""

    def log(self, values: dict[str, float], step: int) -> None: ...

    def close(self) -> None: ...


class Log:
    """Writer of one run's metrics.jsonl. Only rank 0 has one that writes; the others' methods do nothing."""

    def __init__(self, run_dir: Path, writes: bool, sinks: tuple[Sink, ...] = ()) -> None:
        self._file = _append(run_dir / FILE) if writes else None
        self._sinks = sinks
        self._lock = threading.Lock()  # lines of the thread that writes checkpoints (saver.py) come between

    def step(self, values: dict[str, Any]) -> None:
        """Write a step's line, print it, and hand its numbers to the sinks."""
        if self._file is not None:
            self._write({**values, "time": time.time()})
            self.say(_words(values))
            self._share({key: value for key, value in values.items() if key != "step"}, values["step"])

    def event(self, event: str, step: int, **values: Any) -> None:
        """Write an event's line; an evaluation goes to the sinks too."""
        if self._file is not None:
            self._write({"event": event, "step": step, **values, "time": time.time()})
            if event == "eval":
                self._share({f"eval_{key}": value for key, value in values.items()}, step)

    def say(self, text: str) -> None:
        """Print one line for people."""
        if self._file is not None:
            print(text, flush=True)

    def close(self) -> None:
        """Close the file and the sinks."""
        if self._file is not None:
            self._file.close()
            for sink in self._sinks:
                self._try(sink, sink.close)

    def _write(self, values: dict[str, Any]) -> None:
        assert self._file is not None
        line = json.dumps(_finite(values), allow_nan=False)
        try:
            with self._lock:
                self._file.write(line + "\n")
                self._file.flush()
        except OSError as error:  # a full disk must not end the training before it can save
            print(f"{FILE}: {error}", file=sys.stderr, flush=True)

    def _share(self, values: dict[str, Any], step: int) -> None:
        numbers = {key: value for key, value in values.items() if isinstance(value, (int, float))}
        for sink in self._sinks:
            self._try(sink, functools.partial(sink.log, numbers, step))

    def _try(self, sink: Sink, work: Callable[[], object]) -> None:
        """A full disk or a server that is away ends a picture, not the training."""
        try:
            work()
        except Exception as error:  # of whatever package it is
            self._sinks = tuple(other for other in self._sinks if other is not sink)
            name = type(sink).__name__
            print(f"{name} gets no more figures: {error}", file=sys.stderr, flush=True)


def start(args: argparse.Namespace, run_dir: Path, rank: int) -> Log:
    """The run's log with the sinks that the options ask for. Raises Stop when a sink's package is missing."""
    for option in ("tensorboard", "wandb", "mlflow"):
        packages.require_for(option, getattr(args, option))
    sinks: list[Sink] = []
    if args.tensorboard and rank == 0:
        sinks.append(TensorBoard(run_dir / "tensorboard"))
    if args.wandb and rank == 0:
        sinks.append(Wandb(args.wandb, run_dir, vars(args)))
    if args.mlflow and rank == 0:
        sinks.append(Mlflow(args.mlflow, run_dir, vars(args)))
    return Log(run_dir, rank == 0, tuple(sinks))


def read(run_dir: Path) -> list[dict[str, Any]]:
    """Every whole line of a run's metrics.jsonl in the order written; none if there is no file."""
    lines = []
    if (run_dir / FILE).exists():
        for text in (run_dir / FILE).read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(text))
            except ValueError:  # the last line of a run that was killed
                continue
    return lines


def steps(run_dir: Path) -> list[dict[str, Any]]:
    """The steps of a run in order, each once: the later line of a step holds."""
    latest = {line["step"]: line for line in read(run_dir) if "event" not in line}
    return [latest[step] for step in sorted(latest)]


def attempts(run_dir: Path) -> int:
    """How many times the run has been started."""
    return sum(line.get("event") == "start" for line in read(run_dir))


def summary(run_dir: Path) -> dict[str, Any]:
    """What summary.json says of the steps: how many, first loss, mean of the last ten logged, median speed."""
    import statistics  # slow to import, and options alone are read from this module too

    lines = steps(run_dir)
    losses = [line["loss"] for line in lines]
    speeds = [line["tokens_per_second"] for line in lines]
    return {
        "steps": lines[-1]["step"] if lines else 0,
        "loss_first": losses[0] if lines else None,
        "loss_last": statistics.fmean(losses[-10:]) if lines else None,
        "tokens": lines[-1]["tokens"] if lines else 0,
        "tokens_per_second": statistics.median(speeds) if lines else None,
    }


def finish(log: Log, session: Session, step: int, facts: dict[str, Any]) -> None:
    """Log the end at `step` and write summary.json with `facts`: the run is done. All ranks must call it."""
    log.event("end", step, status="done")
    target = session.run_dir / "summary.json"
    session.first(lambda: write_atomically(target, {**summary(session.run_dir), **facts}))


def write_atomically(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON file that is either whole or not there."""
    half = path.with_name(f".{path.name}.{os.getpid()}")
    with half.open("w", encoding="utf-8") as file:
        json.dump(_finite(values), file, indent=2, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())
    half.replace(path)


class TensorBoard:
    """Sink that writes TensorBoard files to a folder; needs the package tensorboard."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder))

    def log(self, values: dict[str, float], step: int) -> None:
        for key, value in values.items():
            self._writer.add_scalar(key, value, step)

    def close(self) -> None:
        self._writer.close()


class Wandb:
    """Sink that logs to Weights & Biases under the run folder's name; a restart continues the same run."""

    def __init__(self, project: str, run_dir: Path, config: dict[str, Any]) -> None:
        import wandb

        name = run_dir.resolve().name
        self._run = wandb.init(
            project=project, id=name, name=name, dir=run_dir, config=config, resume="allow"
        )

    def log(self, values: dict[str, float], step: int) -> None:
        self._run.log(values, step=step)

    def close(self) -> None:
        self._run.finish()


def chat(values: dict[str, Any]) -> str:
    """Those of the chat workloads' figures that there are, for a log line."""
    return "".join(f"  {key} {values[key]:.3f}" for key in CHAT if values.get(key) is not None)


def table(rows: list[tuple[str, ...]]) -> str:
    """Rows in columns, two blanks apart."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _append(path: Path) -> IO[str]:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a+b")
    if file.tell() and file.seek(-1, os.SEEK_END) is not None and file.read(1) != b"\n":
        file.write(b"\n")  # the last line of a killed run is cut off: keep it apart
    file.close()
    return path.open("a", encoding="utf-8")


def _finite(value: Any) -> Any:
    """`value` as JSON takes it: nothing in the place of what is no number, however deep."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _words(step: dict[str, Any]) -> str:
    digits = len(str(step["max_steps"]))
    norm = "" if step["grad_norm"] is None else f"  norm {step['grad_norm']:.2f}"
    experts = "" if (lowest := step.get("expert_share_min")) is None else f"  experts {lowest:.1%} and more"
    return (
        f"step {step['step']:{digits}}/{step['max_steps']}  loss {step['loss']:.4f}  lr {step['lr']:.2e}{norm}"
        f"{chat(step)}{experts}  {step['tokens_per_second']:,.0f} tokens/s  {step['step_seconds']:.3f} s/step"
        f"  {step['memory_bytes'] / 2**30:.2f} GiB"
    )
