"""What `plan` says of memory, traffic and time.

Owns the words and bars; the figures are `fit`'s.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from launcher import units
from launcher.reports import bars
from launcher.sizing import failures, ladder, traffic, zero

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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
    """The same for a person."""
    return "\n".join(_lines(fit))


def _lines(fit: Fit) -> Iterator[str]:
    needed, machine = fit.weighed.memory, fit.machine
    yield f"model: {units.count(fit.model.parameters)} parameters; {fit.rung.name}"
    slots, hosts, *disks = groups(fit)
    yield ""
    yield from bars.text(slots)
    yield f"  {fit.rung.name} is at its fullest in {_MOMENTS[needed.slot.moment]}:"
    yield from _parts(slots)
    marked = [dataclasses.replace(g, bars=tuple(b for b in g.bars if b.marked)) for g in (hosts, *disks)]
    for group in filter(lambda g: g.bars, marked):
        yield ""
        yield from bars.text(group)
        yield from _parts(group)
    yield ""
    largest = fit.climb.largest_micro if fit.climb else _largest(fit)
    known = machine.slot_memory is not None
    yield f"largest micro batch   {largest if known else 'not known: the cluster file does not say `memory:`'}"
    yield from _checkpoints(fit)
    yield from _time(fit)
    yield f"verdict               {'it fits' if fit.fits else 'IT DOES NOT FIT: ' + '; '.join(fit.weighed.reasons)}"


_MOMENTS = {
    "loss": "the forward pass, when the loss is computed",
    "backward": "the backward pass, as it begins",
    "end": "the backward pass, as it ends",
    "step": "the optimizer's step",
}


def groups(fit: Fit) -> tuple[bars.Group, ...]:
    """What is drawn: memory of a GPU, of a host and, where it is used, of NVMe, for each configuration compared."""
    machine = fit.machine
    where = "GPU" if machine.gpu else "rank"
    tries = fit.compared
    here = min(tries, key=lambda t: t.memory.host.total)  # without offload the host's part is always the same
    hosts = [t for t in tries if t.rung == fit.rung or t.memory.host.total > here.memory.host.total]
    rest = () if len(hosts) == len(tries) else (bars.Bar("the others", _host(here.memory)),)
    made = [
        bars.Group(f"memory of a {where}", machine.slot_memory, tuple(_bar(fit, t, _slot) for t in tries)),
        bars.Group("memory of a host", machine.host_memory, (*rest, *(_bar(fit, t, _host) for t in hosts))),
    ]
    disks = tuple(_bar(fit, t, _nvme) for t in tries if t.memory.nvme)
    return (*made, *([bars.Group("NVMe of a host", machine.nvme, disks)] if disks else []))


def _bar(fit: Fit, one: Try, parts: Callable[[Memory], dict[str, int]]) -> bars.Bar:
    name = one.rung.preset + (" + checkpointing" if one.rung.checkpointing else "")
    elsewhere = [reason for reason in one.reasons if not reason.startswith("a slot")]
    note = "; ".join(elsewhere) if parts is _slot else ""
    return bars.Bar(name, parts(one.memory), note, marked=one.rung == fit.rung)


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
    """The parts of the bar that counts, with their shades."""
    for bar in (b for b in group.bars if b.marked):
        for shade, (name, size) in zip(bars.SHADES, bar.parts.items(), strict=False):
            if size:
                yield f"    {shade} {name:<16}{units.gigabytes(size):>10}"


def html(fit: Fit, title: str) -> str:
    """One page that stands alone: what `text` says, and the bars of every configuration as a picture."""
    from launcher.reports import charts

    return charts.page(title, (), map(charts.stacked, groups(fit)), text(fit), NOTE, wide=True)


NOTE = "dashed is what there is; the configuration in bold is the one taken"


def _checkpoints(fit: Fit) -> Iterator[str]:
    saving = fit.saving
    yield (
        f"checkpoint on disk    {units.gigabytes(saving.size)},"
        f" {units.gigabytes(saving.on_disk)} with the {fit.keep} that are kept"
    )
    if saving.seconds is None or saving.lost is None or saving.longest is None:
        return
    often = "" if saving.lost <= failures.MOST else f"; use checkpoint.every={saving.steps} or less"
    share = f"{saving.lost:.2%}" if saving.lost >= 1e-4 else "less than 0.01%"
    yield (
        f"between checkpoints   {fit.every} steps, {units.brief(saving.seconds)} at best: hosts that fail cost"
        f" {share} of the time ({failures.MOST:.0%} with {units.brief(saving.longest)}){often}"
    )


def _time(fit: Fit) -> Iterator[str]:
    moved = _collectives(fit)
    if fit.machine.world > 1:
        sent = traffic.volume(moved, "slot")
        paper = units.gigabytes(_by_paper(fit))
        yield f"sent by a rank        {units.gigabytes(sent)} a step ({paper} by the ZeRO paper)" + (
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
    return traffic.collectives(fit.model, *_settings(fit))


def _by_paper(fit: Fit) -> float:
    return traffic.by_paper(fit.model, *_settings(fit))


def _settings(fit: Fit) -> tuple[zero.Zero, Setup]:
    config = ladder.effective(fit.wish.base, fit.presets[fit.rung.preset], fit.machine.slots)
    return zero.read(config), ladder.setup(fit.machine, fit.wish, fit.rung)


def _largest(fit: Fit) -> int:
    return ladder.largest_micro(fit.model, fit.machine, fit.wish, fit.presets, fit.rung)
