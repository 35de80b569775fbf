"""A pipeline file: jobs that start one after the other, each from what earlier ones left in their run folders.

    name: chat
    pipeline:
      sft: {job: chat/sft.yaml}
      reward: {job: chat/reward.yaml, set: {model: $sft/export}}

Owns field names and help texts. `$sft` in a value is the run folder of the stage sft, and makes the stage wait for it,
so the order follows from the data. How the file becomes stages is stages.py's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from launcher.files.fields import Name, Text, Then, field
from launcher.frozen import dataclass

_REFERENCE = re.compile(r"\$(?:(\$)|(\w[-\w]*)|\{(\w[-\w]*)\})", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Entry:
    job: Text = field(description="A job file; a path starts at this file's folder.")
    set: dict[str, Any] = field(
        dict,
        "Fields of the job, as --set names them; $STAGE is that stage's run folder.",
    )


def _some(stages: dict[str, Entry]) -> dict[str, Entry]:
    if not stages:
        raise ValueError("there are no stages; write pipeline: {sft: {job: chat/sft.yaml}}")
    if "cluster" in stages:  # --set cluster.… is for all stages
        raise ValueError("no stage can be called 'cluster'; give it another name")
    return stages


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """Jobs that start one after the other."""

    name: Name = field(description="Starts the pipeline's id: lower case, digits and dashes.")
    cluster: Text | None = field(None, "Where all stages run, instead of their own cluster.")
    pipeline: Annotated[dict[Name, Entry], Then(_some)] = field(
        description="The stages, each with its job, in an order in which each comes after those it needs."
    )


def references(value: Any) -> list[str]:
    """The stages that a value names, each once, in order."""
    if isinstance(value, str):
        names = [match[2] or match[3] for match in _REFERENCE.finditer(value)]
        return list(dict.fromkeys(filter(None, names)))
    inside = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return list(dict.fromkeys(name for entry in inside for name in references(entry)))


def filled(value: Any, folders: Mapping[str, str]) -> Any:
    """`value` with the run folder of each stage that it names."""
    if isinstance(value, str):
        return _REFERENCE.sub(lambda m: "$" if m[1] else folders[m[2] or m[3]], value)
    if isinstance(value, Mapping):
        return {key: filled(entry, folders) for key, entry in value.items()}
    return [filled(entry, folders) for entry in value] if isinstance(value, list) else value
