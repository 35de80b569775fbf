"""What `plan` says of memory, traffic and time, also with `--max-model` and `--min-nodes`.

Owns the words, keys and bars; the figures are those of planning.fit and planning.capacity.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from launcher import units
from launcher.reports import bars
from launcher.sizing import failures, traffic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from launcher.planning.capacity import Fewest, Largest
    from launcher.planning.fit import Estimate, Saving
    from launcher.sizing.ladder import Evaluation
    from launcher.sizing.memory import Memory


def data(estimate: Estimate | None) -> dict[str, Any]:
    """`fits`, `memory` and the rest of `plan --json`; bytes. The same keys, null or empty, where it is not known."""
    if estimate is None:
        unknown = "fits memory parameters activation_checkpointing largest_micro_batch bound checkpoints"
        nulls = dict.fromkeys([*unknown.split(), "trained_parameters", "communication_by_paper"])
        return {**nulls, **{name: [] for name in ("reasons", "tried", "communication")}}
    needed, machine, saving = estimate.evaluation.memory, estimate.machine, estimate.saving
    measured = estimate.model.measured
    slot = {k: v for k, v in needed.slot._asdict().items() if k != "moment"}
    if not measured:  # the rest is a lower bound
        slot["activations"] = None
    return {
        "fits": estimate.fits if measured else estimate.fits and None,
        "reasons": list(estimate.evaluation.shortfalls),
        "memory": {
            "per_slot": {**slot, "total": needed.slot.total, "capacity": machine.slot_memory},
            "per_host": {
                **needed.host._asdict(),
                "total": needed.host.total,
                "capacity": machine.host_memory,
            },
            "nvme": needed.nvme,
            "checkpoint": saving.size if saving else None,
        },
        "parameters": estimate.model.parameters,
        "trained_parameters": estimate.trained,
        "activation_checkpointing": estimate.candidate.checkpointing,
        "largest_micro_batch": estimate.largest_micro if measured else None,
        "tried": [
            {
                "rung": t.candidate.name,
                "fits": t.fits,
                "reasons": list(t.shortfalls),
                "step_seconds": t.seconds if estimate.bound else None,
            }
            for t in (estimate.search.tried if estimate.search else ())
        ],
        "communication": [{**c._asdict(), "sent_per_rank": c.sent} for c in _collectives(estimate)],
        "communication_by_paper": _by_paper(estimate),
        "bound": estimate.bound._asdict() if estimate.bound else None,
        "checkpoints": _saving(saving) if saving else None,
    }


def _saving(saving: Saving) -> dict[str, Any]:
    return {
        "bytes": saving.size,
        "bytes_on_disk": saving.on_disk,
        "seconds_between": saving.seconds,
        "share_lost_to_failures": saving.lost,
        "seconds_for_one_percent": saving.longest,
        "steps_for_one_percent": saving.steps,
    }


def text(estimate: Estimate, forecast: Sequence[str] = ()) -> str:
    """The same as text; `forecast`: the lines beside the bound."""
    return "\n".join(_lines(estimate, forecast))


def _lines(estimate: Estimate, forecast: Sequence[str]) -> Iterator[str]:
    needed, model = estimate.evaluation.memory, estimate.model
    active = (
        f" ({units.count(model.active_parameters)} active)"
        if model.active_parameters < model.parameters
        else ""
    )
    learnt = (
        "adapters not counted" if estimate.trained is None else f"{units.count(estimate.trained)} trained"
    )
    trained = f", {learnt}" if model.adapters else ""
    yield f"model: {units.count(model.parameters)} parameters{active}{trained}; {estimate.candidate.name}"
    slots, hosts, *disks = groups(estimate)
    yield ""
    yield from bars.text(slots)
    yield f"  peak memory of {estimate.candidate.name} is reached in {_MOMENTS[needed.slot.moment]}:"
    yield from _parts(slots)
    marked = [dataclasses.replace(g, bars=tuple(b for b in g.bars if b.selected)) for g in (hosts, *disks)]
    for group in filter(lambda g: g.bars, marked):
        yield ""
        yield from bars.text(group)
        yield from _parts(group)
    yield ""
    yield f"largest micro batch   {_largest_micro(estimate)}"
    yield from _checkpoints(estimate)
    yield from _time(estimate)
    yield from forecast
    shortfalls = "; ".join(estimate.evaluation.shortfalls)
    fits = "fits" if estimate.model.measured else "fits without its activations, which are not estimated"
    yield f"verdict               {fits if estimate.fits else f'DOES NOT FIT: {shortfalls}'}"


def _largest_micro(estimate: Estimate) -> str:
    if not estimate.model.measured:
        return "not estimated, as its activations are not"
    if estimate.machine.slot_memory is None:
        return "unknown: the cluster file has no `memory:`"
    return str(estimate.largest_micro)


_MOMENTS = {
    "sampling": "the sampling of answers",
    "forward": "the forward pass, at its end",
    "loss": "the forward pass, when the loss is computed",
    "backward": "the backward pass, at its start",
    "end": "the backward pass, at its end",
    "step": "the optimizer step",
}


def groups(estimate: Estimate) -> tuple[bars.Group, ...]:
    """What is drawn: memory per GPU, per host and, where it is used, NVMe, for each configuration compared."""
    machine = estimate.machine
    where = "GPU" if machine.gpu else "rank"
    tries = estimate.compared
    least = min(
        tries, key=lambda t: t.memory.host.total
    )  # without offload the host's part is always the same
    hosts = [
        t for t in tries if t.candidate == estimate.candidate or t.memory.host.total > least.memory.host.total
    ]
    rest = () if len(hosts) == len(tries) else (bars.Bar("others", _host(least.memory)),)
    disks = tuple(_bar(estimate, t, _nvme) for t in tries if t.memory.nvme)
    per_slot = bars.Group(
        f"memory per {where}", machine.slot_memory, tuple(_bar(estimate, t, _slot) for t in tries)
    )
    per_host = bars.Group(
        "memory per host", machine.host_memory, (*rest, *(_bar(estimate, t, _host) for t in hosts))
    )
    return (per_slot, per_host, *([bars.Group("NVMe per host", machine.nvme, disks)] if disks else []))


def _bar(estimate: Estimate, one: Evaluation, parts: Callable[[Memory], dict[str, int]]) -> bars.Bar:
    name = one.candidate.preset + (" + checkpointing" if one.candidate.checkpointing else "")
    note = "; ".join(_elsewhere(estimate, one.memory)) if parts is _slot else ""
    return bars.Bar(name, parts(one.memory), note, selected=one.candidate == estimate.candidate)


def _elsewhere(estimate: Estimate, memory: Memory) -> Iterator[str]:
    """What else than a GPU's memory is too small."""
    limits = (
        ("host memory", memory.host.total, estimate.machine.host_memory),
        ("NVMe", memory.nvme, estimate.machine.nvme),
    )
    for name, needed, capacity in limits:
        if capacity is not None and needed > capacity:
            yield f"{name} over by {units.gigabytes(needed - capacity)}"


def _slot(memory: Memory) -> dict[str, int]:
    parts = memory.slot._asdict()
    del parts["moment"]
    return {"logits and loss" if part == "logits" else part: size for part, size in parts.items()}


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
        "checkpoint copies": host.copies,
    }


def _nvme(memory: Memory) -> dict[str, int]:
    return {"offloaded": memory.nvme}


def _parts(group: bars.Group) -> Iterator[str]:
    """The parts of the selected bar, with their shades."""
    for bar in (b for b in group.bars if b.selected):
        for shade, (name, size) in zip(bars.SHADES, bar.parts.items(), strict=False):
            if size:
                yield f"    {shade} {name:<16}{units.gigabytes(size):>10}"


def _checkpoints(estimate: Estimate) -> Iterator[str]:
    saving = estimate.saving
    if saving is None:
        return
    yield (
        f"checkpoint on disk    {units.gigabytes(saving.size)},"
        f" {units.gigabytes(saving.on_disk)} while the newest {estimate.keep} are kept"
    )
    if saving.seconds is None or saving.lost is None or saving.longest is None:
        return
    often = "" if saving.lost <= failures.MOST else f"; use checkpoint.every={saving.steps} or less"
    share = f"{saving.lost:.2%}" if saving.lost >= 1e-4 else "less than 0.01%"
    yield (
        f"checkpoint interval   {estimate.every} steps, at least {units.brief(saving.seconds)};"
        f" host failures cost {share} of the time ({failures.MOST:.0%} with {units.brief(saving.longest)}){often}"
    )


def _time(estimate: Estimate) -> Iterator[str]:
    moved = _collectives(estimate)
    if moved:
        sent = traffic.volume(moved, "slot")
        paper = units.gigabytes(_by_paper(estimate) or 0)
        yield f"sent per rank         {units.gigabytes(sent)} per step ({paper} by the ZeRO paper)" + (
            f", per host over the fabric {units.gigabytes(traffic.volume(moved, 'fabric', estimate.machine.slots))}"
            if estimate.machine.hosts > 1
            else ""
        )
    bound = estimate.bound
    if estimate.evaluation.setup.learning.sampled:
        yield "step time             not estimated: a step samples answers, and other models judge them"
        return
    if not estimate.known_length:
        yield "step time             not estimated: how many tokens a sample has is not known"
        return
    if bound is None or bound.step is None or bound.mfu is None or bound.tokens_per_second is None:
        yield "step time             unknown: no figures of the GPU or the fabric"
        return
    yield (
        f"step time             at least {bound.step:.3g} s"
        f" ({bound.tokens_per_second:,.0f} tokens/s, MFU {bound.mfu:.0%}):"
        f" compute {bound.compute:.3g} s, links {bound.intra:.3g} s, fabric {bound.fabric or 0:.3g} s,"
        f" update {bound.optimizer:.3g} s"
    )


def _collectives(estimate: Estimate) -> tuple[traffic.Collective, ...]:
    """Nothing where not all of it is known."""
    if estimate.trained is None:
        return ()
    return traffic.collectives(estimate.model, estimate.evaluation.settings, estimate.evaluation.setup)


def _by_paper(estimate: Estimate) -> float | None:
    if estimate.trained is None:
        return None
    return traffic.by_paper(estimate.model, estimate.evaluation.settings, estimate.evaluation.setup)


def largest_data(limit: Largest) -> dict[str, Any]:
    """`plan --max-model --json`: the model, why larger ones do not fit, and the keys of a plan's."""
    return {
        "family": limit.family,
        "model": limit.estimate.model.name,
        "deepspeed": {"preset": limit.estimate.candidate.preset},
        "layers": {"given": limit.estimate.model.layers, "most": limit.layers},
        "parameters_with_most_layers": limit.stretched.parameters,
        "too_large": [
            {"model": m.name, "parameters": m.parameters, "reason": why} for m, why in limit.too_large
        ],
        **data(limit.estimate),
    }


def largest_text(limit: Largest) -> str:
    """The same as text."""
    lines = [f"the largest {limit.family} that fits: {limit.estimate.model.name}"]
    lines += [f"  not {m.name}, {units.count(m.parameters)} parameters: {why}" for m, why in limit.too_large]
    if limit.layers > limit.estimate.model.layers:
        more = f"{limit.layers} layers, {units.count(limit.stretched.parameters)} parameters"
        lines.append(f"  with its width: up to {more} (it has {limit.estimate.model.layers})")
    return "\n".join([*lines, "", text(limit.estimate)])


def fewest_data(limit: Fewest) -> dict[str, Any]:
    """`plan --min-nodes --json`: the hosts, their batch, why fewer do not do, and the keys of a plan's."""
    batch = limit.batch
    return {
        "nodes": limit.estimate.machine.hosts,
        "world_size": limit.estimate.machine.world,
        "batch": {"micro": batch.micro, "accumulation": batch.accumulation, "global": batch.train},
        "deepspeed": {"preset": limit.estimate.candidate.preset},
        "fewer": {"nodes": limit.fewer[0], "reason": limit.fewer[1]} if limit.fewer else None,
        **data(limit.estimate),
    }


def fewest_text(limit: Fewest) -> str:
    """The same as text."""
    batch, machine = limit.batch, limit.estimate.machine
    lines = [f"the fewest hosts on which it fits: {machine.hosts}"]
    if limit.fewer:
        lines.append(f"  not {limit.fewer[0]}: {limit.fewer[1]}")
    step = f"micro {batch.micro} × accumulation {batch.accumulation} × world size {machine.world} = {batch.train}"
    return "\n".join([*lines, f"  batch: {step} samples per step", "", text(limit.estimate)])
