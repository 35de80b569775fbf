"""What `plan` says of memory, traffic and time, also with `--max-model` and `--min-nodes`.

Owns the words, keys and bars; the figures are those of planning.fit and planning.capacity.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from launcher import units
from launcher.reports import bars
from launcher.sizing import failures, ladder, traffic, zero

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from launcher.planning.capacity import Fewest, Largest
    from launcher.planning.fit import Fit
    from launcher.sizing.ladder import Try
    from launcher.sizing.memory import Memory
    from launcher.sizing.setup import Setup


def data(fit: Fit | None) -> dict[str, Any]:
    """`fits`, `memory` and the rest of `plan --json`; bytes. The same keys, null or empty, where it is not known."""
    if fit is None:
        unknown = (
            "fits",
            "memory",
            "parameters",
            "activation_checkpointing",
            "largest_micro_batch",
            "bound",
            "checkpoints",
            "communication_by_paper",
        )
        return {**dict.fromkeys(unknown), **{name: [] for name in ("reasons", "tried", "communication")}}
    needed, machine = fit.weighed.memory, fit.machine
    slot = {k: v for k, v in needed.slot._asdict().items() if k != "moment"}
    return {
        "fits": fit.fits,
        "reasons": list(fit.weighed.reasons),
        "memory": {
            "per_slot": {**slot, "total": needed.slot.total, "capacity": machine.slot_memory},
            "per_host": {
                **needed.host._asdict(),
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
        "communication": [{**c._asdict(), "sent_per_rank": c.sent} for c in _collectives(fit)],
        "communication_by_paper": _by_paper(fit),
        "bound": fit.bound._asdict() if fit.bound else None,
        "checkpoints": {
            "bytes": fit.saving.size,
            "bytes_on_disk": fit.saving.on_disk,
            "seconds_between": fit.saving.seconds,
            "share_lost_to_failures": fit.saving.lost,
            "seconds_for_one_percent": fit.saving.longest,
            "steps_for_one_percent": fit.saving.steps,
        },
    }


def text(fit: Fit) -> str:
    """The same as text."""
    return "\n".join(_lines(fit))


def _lines(fit: Fit) -> Iterator[str]:
    needed, machine = fit.weighed.memory, fit.machine
    yield f"model: {units.count(fit.model.parameters)} parameters; {fit.rung.name}"
    slots, hosts, *disks = groups(fit)
    yield ""
    yield from bars.text(slots)
    yield f"  peak memory of {fit.rung.name} is reached in {_MOMENTS[needed.slot.moment]}:"
    yield from _parts(slots)
    marked = [dataclasses.replace(g, bars=tuple(b for b in g.bars if b.selected)) for g in (hosts, *disks)]
    for group in filter(lambda g: g.bars, marked):
        yield ""
        yield from bars.text(group)
        yield from _parts(group)
    yield ""
    largest = fit.climb.largest_micro if fit.climb else _largest(fit)
    known = machine.slot_memory is not None
    yield f"largest micro batch   {largest if known else 'unknown: the cluster file has no `memory:`'}"
    yield from _checkpoints(fit)
    yield from _time(fit)
    yield f"verdict               {'fits' if fit.fits else 'DOES NOT FIT: ' + '; '.join(fit.weighed.reasons)}"


_MOMENTS = {
    "loss": "the forward pass, when the loss is computed",
    "backward": "the backward pass, at its start",
    "end": "the backward pass, at its end",
    "step": "the optimizer step",
}


def groups(fit: Fit) -> tuple[bars.Group, ...]:
    """What is drawn: memory per GPU, per host and, where it is used, NVMe, for each configuration compared."""
    machine = fit.machine
    where = "GPU" if machine.gpu else "rank"
    tries = fit.compared
    least = min(
        tries, key=lambda t: t.memory.host.total
    )  # without offload the host's part is always the same
    hosts = [t for t in tries if t.rung == fit.rung or t.memory.host.total > least.memory.host.total]
    rest = () if len(hosts) == len(tries) else (bars.Bar("others", _host(least.memory)),)
    disks = tuple(_bar(fit, t, _nvme) for t in tries if t.memory.nvme)
    per_slot = bars.Group(
        f"memory per {where}", machine.slot_memory, tuple(_bar(fit, t, _slot) for t in tries)
    )
    per_host = bars.Group(
        "memory per host", machine.host_memory, (*rest, *(_bar(fit, t, _host) for t in hosts))
    )
    return (per_slot, per_host, *([bars.Group("NVMe per host", machine.nvme, disks)] if disks else []))


def _bar(fit: Fit, one: Try, parts: Callable[[Memory], dict[str, int]]) -> bars.Bar:
    name = one.rung.preset + (" + checkpointing" if one.rung.checkpointing else "")
    note = "; ".join(_elsewhere(fit, one.memory)) if parts is _slot else ""
    return bars.Bar(name, parts(one.memory), note, selected=one.rung == fit.rung)


def _elsewhere(fit: Fit, memory: Memory) -> Iterator[str]:
    """What else than a GPU's memory is too small."""
    limits = (
        ("host memory", memory.host.total, fit.machine.host_memory),
        ("NVMe", memory.nvme, fit.machine.nvme),
    )
    for name, needed, capacity in limits:
        if capacity is not None and needed > capacity:
            yield f"{name} over by {units.gigabytes(needed - capacity)}"


def _slot(memory: Memory) -> dict[str, int]:
    slot = memory.slot
    return {
        "parameters": slot.parameters,
        "gradients": slot.gradients,
        "optimizer": slot.optimizer,
        "activations": slot.activations,
        "logits and loss": slot.logits,
        "buffers": slot.buffers,
        "margin": slot.margin,
    }


def _host(memory: Memory) -> dict[str, int]:
    host = memory.host
    return {
        "parameters": host.parameters,
        "gradients": host.gradients,
        "optimizer": host.optimizer,
        "pinned buffers": host.pinned + host.rounding,
        "processes": host.processes,
        "data loaders": host.loader,
        "/dev/shm": host.shm,
    }


def _nvme(memory: Memory) -> dict[str, int]:
    return {"offloaded": memory.nvme}


def _parts(group: bars.Group) -> Iterator[str]:
    """The parts of the selected bar, with their shades."""
    for bar in (b for b in group.bars if b.selected):
        for shade, (name, size) in zip(bars.SHADES, bar.parts.items(), strict=False):
            if size:
                yield f"    {shade} {name:<16}{units.gigabytes(size):>10}"


def _checkpoints(fit: Fit) -> Iterator[str]:
    saving = fit.saving
    yield (
        f"checkpoint on disk    {units.gigabytes(saving.size)},"
        f" {units.gigabytes(saving.on_disk)} while the newest {fit.keep} are kept"
    )
    if saving.seconds is None or saving.lost is None or saving.longest is None:
        return
    often = "" if saving.lost <= failures.MOST else f"; use checkpoint.every={saving.steps} or less"
    share = f"{saving.lost:.2%}" if saving.lost >= 1e-4 else "less than 0.01%"
    yield (
        f"checkpoint interval   {fit.every} steps, at least {units.brief(saving.seconds)}; host failures cost {share}"
        f" of the time ({failures.MOST:.0%} with {units.brief(saving.longest)}){often}"
    )


def _time(fit: Fit) -> Iterator[str]:
    moved = _collectives(fit)
    if fit.machine.world > 1:
        sent = traffic.volume(moved, "slot")
        paper = units.gigabytes(_by_paper(fit))
        yield f"sent per rank         {units.gigabytes(sent)} per step ({paper} by the ZeRO paper)" + (
            f", per host over the fabric {units.gigabytes(traffic.volume(moved, 'fabric', fit.machine.slots))}"
            if fit.machine.hosts > 1
            else ""
        )
    bound = fit.bound
    if bound is None or bound.step is None or bound.mfu is None or bound.tokens_per_second is None:
        yield "step time             unknown: no figures of the GPU or the fabric"
        return
    yield (
        f"step time             at least {bound.step:.3g} s"
        f" ({bound.tokens_per_second:,.0f} tokens/s, MFU {bound.mfu:.0%}):"
        f" compute {bound.compute:.3g} s, links {bound.intra:.3g} s, fabric {bound.fabric or 0:.3g} s"
    )


def _collectives(fit: Fit) -> tuple[traffic.Collective, ...]:
    return traffic.collectives(fit.model, *_settings(fit))


def _by_paper(fit: Fit) -> float:
    return traffic.by_paper(fit.model, *_settings(fit))


def _settings(fit: Fit) -> tuple[zero.Zero, Setup]:
    config = ladder.effective(fit.wish.base, fit.presets[fit.rung.preset], fit.machine.slots)
    return zero.read(config), ladder.setup(fit.machine, fit.wish, fit.rung)


def _largest(fit: Fit) -> int:
    return ladder.largest_micro(fit.model, fit.machine, fit.wish, fit.presets, fit.rung)


def largest_data(limit: Largest) -> dict[str, Any]:
    """`plan --max-model --json`: the model, why larger ones do not fit, and the keys of a plan's."""
    return {
        "family": limit.family,
        "model": limit.fit.model.name,
        "deepspeed": {"preset": limit.fit.rung.preset},
        "layers": {"given": limit.fit.model.layers, "most": limit.layers},
        "parameters_with_most_layers": limit.stretched.parameters,
        "too_large": [{"model": m.name, "parameters": m.parameters, "reason": why} for m, why in limit.over],
        **data(limit.fit),
    }


def largest_text(limit: Largest) -> str:
    """The same as text."""
    lines = [f"the largest {limit.family} that fits: {limit.fit.model.name}"]
    lines += [f"  not {m.name}, {units.count(m.parameters)} parameters: {why}" for m, why in limit.over]
    if limit.layers > limit.fit.model.layers:
        more = f"{limit.layers} layers, {units.count(limit.stretched.parameters)} parameters"
        lines.append(f"  with its width: up to {more} (it has {limit.fit.model.layers})")
    return "\n".join([*lines, "", text(limit.fit)])


def fewest_data(limit: Fewest) -> dict[str, Any]:
    """`plan --min-nodes --json`: the hosts, their batch, why fewer do not do, and the keys of a plan's."""
    batch = limit.batch
    return {
        "nodes": limit.fit.machine.hosts,
        "world_size": limit.fit.machine.world,
        "batch": {"micro": batch.micro, "accumulation": batch.accumulation, "global": batch.train},
        "deepspeed": {"preset": limit.fit.rung.preset},
        "fewer": {"nodes": limit.fewer[0], "reason": limit.fewer[1]} if limit.fewer else None,
        **data(limit.fit),
    }


def fewest_text(limit: Fewest) -> str:
    """The same as text."""
    batch, machine = limit.batch, limit.fit.machine
    lines = [f"the fewest hosts on which it fits: {machine.hosts}"]
    if limit.fewer:
        lines.append(f"  not {limit.fewer[0]}: {limit.fewer[1]}")
    step = f"micro {batch.micro} × accumulation {batch.accumulation} × world size {machine.world} = {batch.train}"
    return "\n".join([*lines, f"  batch: {step} samples per step", "", text(limit.fit)])
