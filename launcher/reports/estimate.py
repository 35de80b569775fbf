"""What `plan` says of memory, traffic and time.

Owns the words and bars; the figures are planning.fit's.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from launcher import units
from launcher.reports import bars
from launcher.sizing import failures, traffic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from launcher.planning.fit import Estimate
    from launcher.sizing.ladder import Evaluation
    from launcher.sizing.memory import Memory


def data(estimate: Estimate | None) -> dict[str, Any]:
    """`fits`, `memory` and the rest of `plan --json`; bytes. The same keys, null or empty, where it is not known."""
    if estimate is None:
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
    needed, machine = estimate.evaluation.memory, estimate.machine
    slot = {k: v for k, v in needed.slot._asdict().items() if k != "moment"}
    return {
        "fits": estimate.fits,
        "reasons": list(estimate.evaluation.shortfalls),
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
        "parameters": estimate.model.parameters,
        "activation_checkpointing": estimate.candidate.checkpointing,
        "largest_micro_batch": estimate.largest_micro,
        "tried": [
            {
                "rung": t.candidate.name,
                "fits": t.fits,
                "reasons": list(t.shortfalls),
                "step_seconds": t.seconds,
            }
            for t in (estimate.search.tried if estimate.search else ())
        ],
        "communication": [{**c._asdict(), "sent_per_rank": c.sent} for c in _collectives(estimate)],
        "communication_by_paper": _by_paper(estimate),
        "bound": estimate.evaluation.bound._asdict() if estimate.evaluation.bound else None,
        "checkpoints": {
            "bytes": estimate.saving.size,
            "bytes_on_disk": estimate.saving.on_disk,
            "seconds_between": estimate.saving.seconds,
            "share_lost_to_failures": estimate.saving.lost,
            "seconds_for_one_percent": estimate.saving.longest,
            "steps_for_one_percent": estimate.saving.steps,
        },
    }


def text(estimate: Estimate) -> str:
    """The same for a person."""
    return "\n".join(_lines(estimate))


def _lines(estimate: Estimate) -> Iterator[str]:
    needed, machine = estimate.evaluation.memory, estimate.machine
    yield f"model: {units.count(estimate.model.parameters)} parameters; {estimate.candidate.name}"
    slots, hosts, *disks = groups(estimate)
    yield ""
    yield from bars.text(slots)
    yield f"  {estimate.candidate.name} is at its fullest in {_MOMENTS[needed.slot.moment]}:"
    yield from _parts(slots)
    marked = [dataclasses.replace(g, bars=tuple(b for b in g.bars if b.marked)) for g in (hosts, *disks)]
    for group in filter(lambda g: g.bars, marked):
        yield ""
        yield from bars.text(group)
        yield from _parts(group)
    yield ""
    largest = estimate.largest_micro
    known = machine.slot_memory is not None
    yield f"largest micro batch   {largest if known else 'not known: the cluster file does not say `memory:`'}"
    yield from _checkpoints(estimate)
    yield from _time(estimate)
    shortfalls = "; ".join(estimate.evaluation.shortfalls)
    yield f"verdict               {'it fits' if estimate.fits else f'IT DOES NOT FIT: {shortfalls}'}"


_MOMENTS = {
    "loss": "the forward pass, when the loss is computed",
    "backward": "the backward pass, as it begins",
    "end": "the backward pass, as it ends",
    "step": "the optimizer's step",
}


def groups(estimate: Estimate) -> tuple[bars.Group, ...]:
    """What is drawn: memory of a GPU, of a host and, where it is used, of NVMe, for each configuration compared."""
    machine = estimate.machine
    where = "GPU" if machine.gpu else "rank"
    tries = estimate.compared
    here = min(tries, key=lambda t: t.memory.host.total)  # without offload the host's part is always the same
    hosts = [
        t for t in tries if t.candidate == estimate.candidate or t.memory.host.total > here.memory.host.total
    ]
    rest = () if len(hosts) == len(tries) else (bars.Bar("the others", _host(here.memory)),)
    made = [
        bars.Group(
            f"memory of a {where}", machine.slot_memory, tuple(_bar(estimate, t, _slot) for t in tries)
        ),
        bars.Group(
            "memory of a host", machine.host_memory, (*rest, *(_bar(estimate, t, _host) for t in hosts))
        ),
    ]
    disks = tuple(_bar(estimate, t, _nvme) for t in tries if t.memory.nvme)
    return (*made, *([bars.Group("NVMe of a host", machine.nvme, disks)] if disks else []))


def _bar(estimate: Estimate, one: Evaluation, parts: Callable[[Memory], dict[str, int]]) -> bars.Bar:
    name = one.candidate.preset + (" + checkpointing" if one.candidate.checkpointing else "")
    elsewhere = [
        reason for reason in one.shortfalls if " per GPU, " not in reason and " per rank, " not in reason
    ]
    note = "; ".join(elsewhere) if parts is _slot else ""
    return bars.Bar(name, parts(one.memory), note, marked=one.candidate == estimate.candidate)


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


def html(estimate: Estimate, title: str) -> str:
    """One page that stands alone: what `text` says, and the bars of every configuration as a picture."""
    from launcher.reports import charts

    return charts.page(title, (), map(charts.stacked, groups(estimate)), text(estimate), NOTE, wide=True)


NOTE = "dashed is what there is; the configuration in bold is the one taken"


def _checkpoints(estimate: Estimate) -> Iterator[str]:
    saving = estimate.saving
    yield (
        f"checkpoint on disk    {units.gigabytes(saving.size)},"
        f" {units.gigabytes(saving.on_disk)} with the {estimate.keep} that are kept"
    )
    if saving.seconds is None or saving.lost is None or saving.longest is None:
        return
    often = "" if saving.lost <= failures.MOST else f"; use checkpoint.every={saving.steps} or less"
    share = f"{saving.lost:.2%}" if saving.lost >= 1e-4 else "less than 0.01%"
    yield (
        f"between checkpoints   {estimate.every} steps, {units.brief(saving.seconds)} at best: hosts that fail cost"
        f" {share} of the time ({failures.MOST:.0%} with {units.brief(saving.longest)}){often}"
    )


def _time(estimate: Estimate) -> Iterator[str]:
    moved = _collectives(estimate)
    if estimate.machine.world > 1:
        sent = traffic.volume(moved, "slot")
        paper = units.gigabytes(_by_paper(estimate))
        yield f"sent by a rank        {units.gigabytes(sent)} a step ({paper} by the ZeRO paper)" + (
            f", by a host over the fabric {units.gigabytes(traffic.volume(moved, 'fabric', estimate.machine.slots))}"
            if estimate.machine.hosts > 1
            else ""
        )
    bound = estimate.evaluation.bound
    if bound is None or bound.step is None or bound.mfu is None or bound.tokens_per_second is None:
        yield "step time             not known: the GPU's or the fabric's figures are missing"
        return
    yield (
        f"step, at best         {bound.step:.3g} s ({bound.tokens_per_second:,.0f} tokens/s, MFU {bound.mfu:.0%}):"
        f" compute {bound.compute:.3g} s, links {bound.intra:.3g} s, fabric {bound.fabric or 0:.3g} s"
    )


def _collectives(estimate: Estimate) -> tuple[traffic.Collective, ...]:
    return traffic.collectives(estimate.model, estimate.evaluation.settings, estimate.evaluation.setup)


def _by_paper(estimate: Estimate) -> float:
    return traffic.by_paper(estimate.model, estimate.evaluation.settings, estimate.evaluation.setup)
