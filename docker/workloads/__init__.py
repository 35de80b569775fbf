"""What ranks run: one module a workload, and what a program of one's own may call."""

from __future__ import annotations

import heartbeat as _heartbeat


def heartbeat(step: int, phase: str | None = None) -> None:
    """Tell the node entry that `step` is done, or that this rank now does `phase`, one of heartbeat.PHASES.

    Fifteen microseconds; nothing where no node entry has started this process. Imports no torch.
    """
    if phase is None:
        _heartbeat.mine().step(step)
    else:
        _heartbeat.mine().phase(phase, step)
