"""The parts of generated text: which are there already, whether another recipe wrote them, and how one is written.

A part holds the same prompts whatever the number of ranks and is there whole or not at all.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ending import NO_CHECKPOINT

from workloads import metrics
from workloads.session import Stop

if TYPE_CHECKING:
    from pathlib import Path

    from workloads.prompts import Prompt

RECIPE = "recipe.json"


@dataclass(frozen=True)
class Part:
    """Prompts that are generated and written together."""

    number: int
    prompts: list[Prompt]

    @property
    def name(self) -> str:
        return f"part-{self.number:05d}.jsonl"


def split(prompts: list[Prompt], size: int) -> list[Part]:
    """Prompts in parts of `size`; the last may be smaller."""
    firsts = range(0, len(prompts), size)
    return [Part(number, prompts[first : first + size]) for number, first in enumerate(firsts)]


def begin(folder: Path, wanted: dict[str, Any], parts: list[Part]) -> list[int]:
    """The numbers of the parts that are not there yet. Raises Stop when the folder holds text of another recipe."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / RECIPE
    before = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else wanted
    changed = [key.replace("_", " ") for key in wanted if wanted[key] != before.get(key)]
    if changed:
        raise Stop(f"{folder} holds text of another {', '.join(changed)}: give this run another folder")
    metrics.write_atomically(kept, wanted)
    return [part.number for part in parts if not (folder / part.name).exists()]


@dataclass
class Done:
    """What this rank wrote: prompts, tokens, and why it could not write more."""

    prompts: int = 0
    tokens: int = 0
    failure: Stop | None = None

    def keep(self, path: Path, rows: list[dict[str, Any]]) -> None:
        """Write a part; a failure is noted, for the other ranks must learn of it before this one ends."""
        try:
            write(path, rows)
        except OSError as error:
            self.failure = Stop(f"{path} could not be written: {error}", NO_CHECKPOINT)
        else:
            self.prompts += len(rows)
            self.tokens += sum(row["tokens"] for row in rows)

    def check(self) -> None:
        """Raise Stop (NO_CHECKPOINT) where a part could not be written."""
        if self.failure:
            raise self.failure


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write a part that is either whole or not there. Raises OSError when the disk does not take it."""
    half = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with half.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            file.flush()
            os.fsync(file.fileno())
        half.replace(path)
    finally:
        half.unlink(missing_ok=True)
