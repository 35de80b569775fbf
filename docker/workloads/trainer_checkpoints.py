"""Checkpoints of Hugging Face's Trainer: whole or not there, in the run's folder and on the hosts' own disks.

Owns how the Trainer is had to write and load them as checkpoints.py and own_disk.py do; what it writes is its own.
"""

from __future__ import annotations

import contextlib
import functools
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workloads import checkpoints, engines, own_disk, universal, writing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deepspeed import DeepSpeedEngine
    from transformers import Trainer

    from workloads import callbacks
    from workloads.checkpoint_folder import Checkpoint, Identity


@contextlib.contextmanager
def loading(trainer: Trainer, checkpoint: Checkpoint | None) -> Iterator[None]:
    """Have the Trainer's engine load a universal checkpoint as ours do (checkpoints.load), if it is one."""
    if checkpoint is None or not checkpoint.universal:
        yield
        return
    from transformers import trainer as transformers_trainer

    plugin = trainer.accelerator.state.deepspeed_plugin
    plugin.deepspeed_config["checkpoint"] = {
        **plugin.deepspeed_config.get("checkpoint", {}),
        "load_universal": True,
    }
    load = transformers_trainer.deepspeed_load_checkpoint

    def loaded(engine: DeepSpeedEngine, *given: Any, **more: Any) -> None:
        with engines.own_settings(engine):
            load(engine, *given, **more)
        engines.part_steps(engine)

    transformers_trainer.deepspeed_load_checkpoint = loaded
    try:
        yield
    finally:
        transformers_trainer.deepspeed_load_checkpoint = load


def save_whole(trainer: Trainer, reporter: callbacks.Reporter, identity: Identity) -> None:
    """Have what the Trainer saves marked as complete, once each rank has written its part of it.

    A rank that cannot write goes on, as the others wait for it. DeepSpeed's files may be written while training goes
    on; the Trainer's own, of which the weights are large, are written at once. Where only the hosts' own disks are due,
    it saves there.
    """
    from torch import distributed

    inner, inner_model = trainer._save_checkpoint, trainer._save
    folder, keep = Path(trainer.args.output_dir), reporter.args.checkpoint_keep

    def save(*args: Any, **more: Any) -> None:
        progress = reporter.progress()
        carried = checkpoints.carried(progress, identity)
        path = folder / f"checkpoint-{progress.step}"
        if reporter.near is not None:
            save_on_own_disks(trainer, reporter, reporter.near, tag=path.name, carried=carried)
            return
        done = functools.partial(checkpoints.complete, path, carried, keep=keep, unknown=True)
        with reporter.saver.checkpoint(path, progress.step, done) as now:
            if reporter.this.rank == 0:
                shutil.rmtree(path, ignore_errors=True)  # what is left of a broken one, maybe of more ranks
            distributed.barrier()
            trainer._save = now.guarded(inner_model)
            with writing.observed(trainer.deepspeed, now), without_latest(trainer.deepspeed):
                now.guarded(inner)(*args, **more)
            if reporter.this.rank == 0:
                now.guarded(point_latest)(trainer.deepspeed, path)
        reporter.saved()

    trainer._save_checkpoint = save


def save_on_own_disks(
    trainer: Trainer,
    reporter: callbacks.Reporter,
    place: own_disk.Place,
    *,
    tag: str,
    carried: dict[str, Any],
) -> None:
    """Write what the Trainer reads back to each host's own disk: DeepSpeed's files, random states, its own state."""
    began, engine = time.perf_counter(), trainer.deepspeed

    def write(path: Path) -> None:
        with without_latest(engine):
            trainer._save_optimizer_and_scheduler(str(path))
        trainer._save_rng_state(str(path))
        if place.leads:
            point_latest(engine, path)
            trainer.state.save_to_json(str(path / universal.TRAINER))

    before = trainer.args.save_on_each_node
    trainer.args.save_on_each_node = True
    try:
        reasons = own_disk.save(engine, reporter.this, place, tag, carried=carried, write=write)
    finally:
        trainer.args.save_on_each_node = before
    own_disk.tell(reporter.log, trainer.state.global_step, reasons, time.perf_counter() - began)


@contextlib.contextmanager
def without_latest(engine: DeepSpeedEngine) -> Iterator[None]:
    """Inside, DeepSpeed does not write `latest`, before a barrier in which others would wait for a rank that cannot.

    Nor would each host have it: the run's first rank alone writes it (save_checkpoint, 0.19.8).
    """
    engine.save_checkpoint = functools.partial(engine.save_checkpoint, save_latest=False)
    try:
        yield
    finally:
        del engine.save_checkpoint


def point_latest(engine: DeepSpeedEngine, path: Path) -> None:
    """Name DeepSpeed's part of a Trainer's checkpoint, for whoever loads it. Raises OSError."""
    (path / "latest").write_text(f"global_step{engine.global_steps}", encoding="utf-8")
