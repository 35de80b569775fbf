"""Checkpoints for another number of ranks: DeepSpeed's universal format, made once from one that does not fit.

Owns the folder `checkpoints/universal/` of a run: whole or not there, and gone once the run has saved a checkpoint of
its own. Converting is ds_to_universal's (https://www.deepspeed.ai/tutorials/universal-checkpointing/).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from ending import BAD_INPUT, NO_CHECKPOINT

from workloads.checkpoint_folder import Checkpoint, Identity, Progress
from workloads.session import Stop

if TYPE_CHECKING:
    from pathlib import Path

    from workloads import metrics

FOLDER = "universal"
POINTER = "latest_universal"  # DeepSpeed's own, beside the tag
SOURCE = "source.json"  # what was converted
TRAINER = "trainer_state.json"  # of Hugging Face's Trainer, in its checkpoints
LINE_EVERY, LIMIT = 30.0, 24 * 3600.0  # seconds
MOST_WORKERS = 8  # each holds a rank's states in memory


def read(folder: Path) -> Checkpoint | None:
    """The checkpoint that ds_to_universal wrote to a folder, if it did; what it carries is in DeepSpeed's files."""
    import torch

    if not (folder / POINTER).exists():
        return None
    path = folder / (folder / POINTER).read_text(encoding="utf-8").strip()
    states = sorted(path.glob("*model_states.pt"))
    if not states:
        raise Stop(f"--resume {folder}: {path} has no model states")
    carried = torch.load(states[0], map_location="cpu", mmap=True, weights_only=False)
    return Checkpoint(path, Progress(**carried["progress"]), Identity(**carried["identity"]), universal=True)


def convert(checkpoint: Checkpoint, folder: Path, log: metrics.Log) -> Checkpoint:
    """The checkpoint in the universal format, below `folder`: made now, unless an earlier attempt did.

    Raises Stop where there is no room for it, or where DeepSpeed cannot convert it.
    """
    kept, half = folder / FOLDER, folder / f".{FOLDER}"
    result = dataclasses.replace(checkpoint, path=kept / checkpoint.tag, universal=True, digests={})
    source = json.dumps({"path": str(checkpoint.path), "digests": dict(checkpoint.digests)}, sort_keys=True)
    with contextlib.suppress(OSError):
        if (kept / SOURCE).read_text(encoding="utf-8") == source:
            return result
    for old in (kept, half):
        shutil.rmtree(old, ignore_errors=True)
    states = _states(checkpoint.path)
    _require_room(states, folder)
    target = half / states.relative_to(checkpoint.path.parent)
    target.parent.mkdir(parents=True)
    began = time.monotonic()
    log.say(f"checkpoint {checkpoint.tag} is converted for another number of ranks")
    try:
        _run(states, target, log)
        _link(checkpoint.path, half / checkpoint.tag)
    except Stop:
        shutil.rmtree(half, ignore_errors=True)
        raise
    (half / SOURCE).write_text(source, encoding="utf-8")
    half.rename(kept)
    log.say(f"checkpoint {checkpoint.tag} converted in {time.monotonic() - began:.0f} s")
    return result


def _states(path: Path) -> Path:
    """Where DeepSpeed's files are: in the checkpoint, or, of the Trainer's, in a folder of it."""
    inside = [folder for folder in path.glob("global_step*") if folder.is_dir()]
    return inside[0] if inside else path


def _link(path: Path, target: Path) -> None:
    """Of the Trainer's checkpoint its own files stand beside what was converted, as it looks for them there."""
    if (path / TRAINER).exists():
        for file in path.iterdir():
            if file.is_file() and not (target / file.name).exists():
                (target / file.name).symlink_to(file.resolve())


def _require_room(path: Path, folder: Path) -> None:
    """The states of the optimizer are written twice: as pieces, and put together."""
    folder.mkdir(parents=True, exist_ok=True)
    states = [file for file in path.glob("*optim_states.pt") if file.is_file()]
    needed, free = 2 * sum(file.stat().st_size for file in states), shutil.disk_usage(folder).free
    if free < needed:
        raise Stop(
            f"{path.name} is of another number of ranks, and {folder} has no room to convert it: "
            f"{needed / 2**30:.1f} GiB are needed, {free / 2**30:.1f} are free",
            NO_CHECKPOINT,
        )


def _run(source: Path, target: Path, log: metrics.Log) -> None:
    workers = min(MOST_WORKERS, len(os.sched_getaffinity(0)))
    words = ["-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state"]
    words += [f"--num_extract_workers={workers}", f"--num_merge_workers={max(1, workers // 2)}"]
    words += [f"--input_folder={source}", f"--output_folder={target}"]
    said, end = target.with_name("output"), time.monotonic() + LIMIT
    with said.open("wb") as output:
        process = subprocess.Popen([sys.executable, *words], stdout=output, stderr=subprocess.STDOUT)
        while process.poll() is None:
            try:
                process.wait(LINE_EVERY)
            except subprocess.TimeoutExpired:
                if time.monotonic() > end:
                    process.kill()
                done = sum(1 for _ in (target / "zero").glob("*"))
                log.say(f"converting {source.name}: {done:,} parameters put together")
    if process.returncode:
        raise _failed(source, process.returncode, said.read_text(encoding="utf-8", errors="replace"))


def _failed(source: Path, code: int, said: str) -> Stop:
    """Why a conversion failed: of what it said its last line, or that it was killed, as for want of memory."""
    lines = said.strip().splitlines() or ["it said nothing"]
    reason = f"the conversion was ended by {signal.Signals(-code).name}" if code < 0 else lines[-1]
    full = code < 0 or "No space left" in said or "Disk quota" in said
    what = f"{source} cannot be converted for another number of ranks: {reason}"
    return Stop(what, NO_CHECKPOINT if full else BAD_INPUT)
