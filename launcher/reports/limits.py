"""What `plan --max-model` and `plan --min-nodes` say.

Owns their words and keys; the figures are those of planning.capacity, and a model's memory is shown by estimate.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from launcher import units
from launcher.reports import estimate

if TYPE_CHECKING:
    from launcher.planning.capacity import Fewest, Largest


def largest_data(found: Largest) -> dict[str, Any]:
    """`plan --max-model --json`: the model, why larger ones do not fit, and the keys of a plan's."""
    return {
        "family": found.family,
        "model": found.estimate.model.name,
        "deepspeed": {"preset": found.estimate.candidate.preset},
        "layers": {"given": found.estimate.model.layers, "most": found.layers},
        "parameters_with_most_layers": found.stretched.parameters,
        "too_large": [
            {"model": m.name, "parameters": m.parameters, "reason": why} for m, why in found.too_large
        ],
        **estimate.data(found.estimate),
    }


def largest_text(found: Largest) -> str:
    """The same for a person."""
    lines = [f"the largest {found.family} that fits: {found.estimate.model.name}"]
    lines += [f"  not {m.name}, {units.count(m.parameters)} parameters: {why}" for m, why in found.too_large]
    if found.layers > found.estimate.model.layers:
        more = f"{found.layers} layers, {units.count(found.stretched.parameters)} parameters"
        lines.append(f"  with its width: up to {more} (it has {found.estimate.model.layers})")
    return "\n".join([*lines, "", estimate.text(found.estimate)])


def fewest_data(found: Fewest) -> dict[str, Any]:
    """`plan --min-nodes --json`: the hosts, their batch, why fewer do not do, and the keys of a plan's."""
    batch = found.batch
    return {
        "nodes": found.estimate.machine.hosts,
        "world_size": found.estimate.machine.world,
        "batch": {"micro": batch.micro, "accumulation": batch.accumulation, "global": batch.train},
        "deepspeed": {"preset": found.estimate.candidate.preset},
        "fewer": {"nodes": found.fewer[0], "reason": found.fewer[1]} if found.fewer else None,
        **estimate.data(found.estimate),
    }


def fewest_text(found: Fewest) -> str:
    """The same for a person."""
    batch, there = found.batch, found.estimate.machine
    lines = [f"the fewest hosts on which it fits: {there.hosts}"]
    if found.fewer:
        lines.append(f"  not {found.fewer[0]}: {found.fewer[1]}")
    step = (
        f"micro {batch.micro} × accumulation {batch.accumulation} × world size {there.world} = {batch.train}"
    )
    return "\n".join([*lines, f"  batch: {step} samples a step", "", estimate.text(found.estimate)])
