"""The NVIDIA GPUs of this machine, as nvidia-smi shows them, and what a cluster file calls them.

Owns the look, and what is said where the machine has other GPUs than the plan counts on; figures are sizing/gpus.py's.
"""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING, NamedTuple

from launcher.errors import Problem
from launcher.sizing import gpus

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.planning.plan import Plan

_QUERY = ("nvidia-smi", "--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader,nounits")
_SECONDS = 20
# CUDA shows up to 4 % less memory than nvidia-smi, which counts what the driver keeps for itself.
_SHARE = 0.96


class Card(NamedTuple):
    """One GPU: its name, its memory in bytes as nvidia-smi counts it, its compute capability ('' where not told)."""

    model: str
    memory: int
    capability: str

    @property
    def entry(self) -> str:
        """The table's name of it; empty where it has none."""
        return gpus.fitting(self.model, self.memory)

    @property
    def written(self) -> str:
        """What the cluster file says of it: a name of the table, or its figures."""
        if self.entry:
            return f"gpu: {self.entry}"
        name = (
            re.sub(r"[^a-z0-9]+", "-", self.model.lower().removeprefix("nvidia ")).strip("-")[:60].strip("-")
        )
        gib = int(self.memory * _SHARE / 2**30 * 10) / 10
        return f"gpu: {{name: {name or 'gpu'}, memory: {gib}GiB, capability: {self.capability or '8.0'}}}"


def here() -> list[Card]:
    """This machine's cards; none where there is no driver, or nvidia-smi says nothing of use."""
    try:
        done = subprocess.run(_QUERY, capture_output=True, text=True, timeout=_SECONDS, errors="replace")
    except (OSError, subprocess.TimeoutExpired):
        return []
    rows = [[part.strip() for part in line.rsplit(",", 2)] for line in done.stdout.splitlines()]
    return [
        Card(model, int(mib) * 2**20, capability if re.fullmatch(r"[0-9]{1,2}\.[0-9]", capability) else "")
        for model, mib, capability in (row for row in rows if len(row) == 3)
        if re.fullmatch("[0-9]{1,9}", mib)
    ]


def warnings(plan: Plan) -> Iterator[Problem]:
    """Where ranks on this machine would not find the GPUs that the plan counts on."""
    card = plan.cluster.card
    if card is None or card.vendor != "nvidia" or plan.nodes > 1:
        return  # several hosts with GPUs are no machine, which is said elsewhere
    cards, about = here(), ("cluster", "gpu")
    if not cards:
        what = f"nvidia-smi shows no GPU here, and the ranks want {plan.slots} of {plan.cluster.gpu_name}"
        yield Problem(
            what, "use --cluster laptop for ranks on the CPU; `launcher doctor` tells more", about=about
        )
        return
    if len(cards) < plan.slots:
        number = "1 GPU" if len(cards) == 1 else f"{len(cards)} GPUs"
        what = f"this machine has {number}, and the cluster file says {plan.slots} slots"
        yield Problem(what, f"use slots: {len(cards)}", about=("cluster", "slots"))
    smallest = min(cards, key=lambda own: own.memory)
    if smallest.memory < card.memory:
        size = f"{smallest.memory / 2**30:.1f} GiB"
        what = f"this machine has {smallest.model} with {size}, and the plan is for {plan.cluster.gpu_name}"
        yield Problem(what, f"write {smallest.written}", about=about)
