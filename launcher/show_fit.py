"""What `plan` says of memory, traffic and time.

Owns the words and bars; the figures are `fit`'s.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from launcher import units
from launcher.sizing import ladder, traffic, zero

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.fit import Fit
    from launcher.limits import Fewest, Largest

_WIDTH = 40
_SHADES = "█▓▒░▚▞▪"


def data(fit: Fit | None) -> dict[str, Any]:
    """`fits`, `memory` and the rest of `plan --json`; bytes. The same keys, null or empty, where it is not known."""
    if fit is None:
        unknown = ("fits", "memory", "parameters", "activation_checkpointing", "largest_micro_batch", "bound")
        return {**dict.fromkeys(unknown), **{name: [] for name in ("reasons", "tried", "communication")}}
    needed, machine = fit.weighed.memory, fit.machine
    slot = {k: v for k, v in dataclasses.asdict(needed.slot).items() if k != "moment"}
    return {
        "fits": fit.fits,
        "reasons": list(fit.weighed.reasons),
        "memory": {
            "per_slot": {**slot, "total": needed.slot.total, "capacity": machine.slot_memory},
            "per_host": {
                **dataclasses.asdict(needed.host),
                "total": needed.host.total,
                "capacity": machine.host_memory,
            },
            "nvme": needed.nvme,
            "checkpoint": needed.checkpoint,
        },
        "parameters": fit.model.parameters,
        "activation_checkpointing": fit.rung.checkpointing,
        "largest_micro_batch": fit.climb.largest_micro if fit.climb else _largest(fit),
        "tried": [
            {"rung": t.rung.name, "fits": t.fits, "reasons": list(t.reasons), "step_seconds": t.seconds}
            for t in (fit.climb.tried if fit.climb else ())
        ],
        "communication": [{**dataclasses.asdict(c), "sent_per_rank": c.sent} for c in _collectives(fit)],
        "bound": dataclasses.asdict(fit.bound) if fit.bound else None,
    }


def largest_data(found: Largest) -> dict[str, Any]:
    """`plan --max-model --json`: the model, why larger ones do not fit, and the keys of `data`."""
    return {
        "family": found.family,
        "model": found.fit.model.name,
        "deepspeed": {"preset": found.fit.rung.preset},
        "layers": {"given": found.fit.model.layers, "most": found.layers},
        "parameters_with_most_layers": found.stretched.parameters,
        "too_large": [{"model": m.name, "parameters": m.parameters, "reason": why} for m, why in found.over],
        **data(found.fit),
    }


def largest_text(found: Largest) -> str:
    """The same for a person."""
    lines = [f"the largest {found.family} that fits: {found.fit.model.name}"]
    lines += [f"  not {m.name}, {units.count(m.parameters)} parameters: {why}" for m, why in found.over]
    if found.layers > found.fit.model.layers:
        more = f"{found.layers} layers, {units.count(found.stretched.parameters)} parameters"
        lines.append(f"  with its width: up to {more} (it has {found.fit.model.layers})")
    return "\n".join([*lines, "", text(found.fit)])


def fewest_data(found: Fewest) -> dict[str, Any]:
    """`plan --min-nodes --json`: the hosts, their batch, why fewer do not do, and the keys of `data`."""
    batch = found.batch
    return {
        "nodes": found.fit.machine.hosts,
        "world_size": found.fit.machine.world,
        "batch": {"micro": batch.micro, "accumulation": batch.accumulation, "global": batch.train},
        "deepspeed": {"preset": found.fit.rung.preset},
        "fewer": {"nodes": found.fewer[0], "reason": found.fewer[1]} if found.fewer else None,
        **data(found.fit),
    }


def fewest_text(found: Fewest) -> str:
    """The same for a person."""
    batch, there = found.batch, found.fit.machine
    lines = [f"the fewest hosts on which it fits: {there.hosts}"]
    if found.fewer:
        lines.append(f"  not {found.fewer[0]}: {found.fewer[1]}")
    step = (
        f"micro {batch.micro} × accumulation {batch.accumulation} × world size {there.world} = {batch.train}"
    )
    return "\n".join([*lines, f"  batch: {step} samples a step", "", text(found.fit)])


def text(fit: Fit) -> str:
    """The same for a person."""
    return "\n".join(_lines(fit))


def _lines(fit: Fit) -> Iterator[str]:
    needed, machine = fit.weighed.memory, fit.machine
    yield f"model: {units.count(fit.model.parameters)} parameters; {fit.rung.name}"
    for t in fit.climb.tried if fit.climb else ():
        if not t.fits:
            yield f"  not {t.rung.name}: {'; '.join(t.reasons)}"
    slot = needed.slot
    parts = {
        "parameters": slot.parameters,
        "gradients": slot.gradients,
        "optimizer": slot.optimizer,
        "activations": slot.activations,
        "logits and loss": slot.logits,
        "buffers": slot.buffers,
        "margin": slot.margin,
    }
    where = "GPU" if machine.gpu else "rank"
    yield from _bar(f"memory of a {where}, at its fullest ({slot.moment})", parts, machine.slot_memory)
    host = needed.host
    inside = {
        "optimizer": host.optimizer,
        "parameters": host.parameters,
        "gradients": host.gradients,
        "pinned": host.pinned,
        "processes": host.processes,
        "data loader": host.loader,
        "/dev/shm": host.shm,
    }
    yield from _bar("memory of a host", inside, machine.host_memory)
    if needed.nvme:
        yield from _bar("NVMe of a host", {"offloaded": needed.nvme}, machine.nvme)
    yield ""
    largest = fit.climb.largest_micro if fit.climb else _largest(fit)
    known = machine.slot_memory is not None
    yield f"largest micro batch   {largest if known else 'not known: the cluster file does not say `memory:`'}"
    yield f"checkpoint on disk    {units.gigabytes(needed.checkpoint)}"
    yield from _time(fit)
    yield f"verdict               {'it fits' if fit.fits else 'IT DOES NOT FIT: ' + '; '.join(fit.weighed.reasons)}"


def _bar(title: str, parts: dict[str, int], capacity: int | None) -> Iterator[str]:
    """A title, one bar of the parts against the capacity, and the parts that are not nothing."""
    total = sum(parts.values())
    of = f" of {units.gigabytes(capacity)}" if capacity else ""
    yield ""
    yield f"{title}: {units.gigabytes(total)}{of}"
    full = max(total, capacity or total) or 1
    bar = "".join(
        shade * round(_WIDTH * size / full) for shade, size in zip(_SHADES, parts.values(), strict=False)
    )
    edge = round(_WIDTH * (capacity or total) / full)
    yield f"  [{bar.ljust(edge, '·')[:_WIDTH].ljust(_WIDTH)}]" + (
        " over" if capacity and total > capacity else ""
    )
    for shade, (name, size) in zip(_SHADES, parts.items(), strict=False):
        if size:
            yield f"  {shade} {name:<16}{units.gigabytes(size):>10}"


def _time(fit: Fit) -> Iterator[str]:
    moved = _collectives(fit)
    if fit.machine.world > 1:
        sent = traffic.volume(moved, "slot")
        yield f"sent by a rank        {units.gigabytes(sent)} a step" + (
            f", by a host over the fabric {units.gigabytes(traffic.volume(moved, 'fabric', fit.machine.slots))}"
            if fit.machine.hosts > 1
            else ""
        )
    bound = fit.bound
    if bound is None or bound.step is None or bound.mfu is None or bound.tokens_per_second is None:
        yield "step time             not known: the GPU's or the fabric's figures are missing"
        return
    yield (
        f"step, at best         {bound.step:.3g} s ({bound.tokens_per_second:,.0f} tokens/s, MFU {bound.mfu:.0%}):"
        f" compute {bound.compute:.3g} s, links {bound.intra:.3g} s, fabric {bound.fabric or 0:.3g} s"
    )


def _collectives(fit: Fit) -> tuple[traffic.Collective, ...]:
    settings = zero.read(ladder.effective(fit.wish.base, fit.presets[fit.rung.preset], fit.machine.slots))
    return traffic.collectives(fit.model, settings, ladder.setup(fit.machine, fit.wish, fit.rung))


def _largest(fit: Fit) -> int:
    return ladder.largest_micro(fit.model, fit.machine, fit.wish, fit.presets, fit.rung)
