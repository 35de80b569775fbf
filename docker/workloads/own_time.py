"""How long a rank needs in a step before it has to wait for others: what makes one rank slow, and not all.

Owns the two moments: the step's begin, when all ranks have just met, and the first moment at which the rank needs
another. That is the end of the first forward pass; where the forward pass itself gathers or exchanges (ZeRO-3, sequence
or expert parallel ranks) it is its begin, so that a slow loader or host is seen there, and a slow GPU is not. On an
accelerator events on its stream tell the time, read when the step is over: nothing is synchronized for it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine


class OwnTime:
    """A stopwatch for one step at a time."""

    def __init__(self, exchanges: bool) -> None:
        """`exchanges`: whether ranks need each other in the forward pass."""
        from deepspeed.accelerator import get_accelerator

        self.exchanges = exchanges
        accelerator = get_accelerator()
        self._event: Any = None if accelerator.device_name() == "cpu" else accelerator.Event
        self._began, self._met = 0.0, 0.0
        self._events: list[Any] = []

    def begin(self) -> None:
        """The step begins."""
        self._met, self._events = 0.0, []
        self._began = time.perf_counter()
        self._mark()

    def forward(self, ends: bool) -> None:
        """A forward pass begins, or `ends`: the first such moment counts that is followed by waiting."""
        if not self._met and ends is not self.exchanges:
            self._met = time.perf_counter()
            self._mark()

    def seconds(self) -> float:
        """Of the step that has just ended, on all ranks; 0 where it is not known."""
        if not self._met:
            return 0.0
        if len(self._events) == 2 and not self.exchanges:
            return float(self._events[0].elapsed_time(self._events[1])) / 1000
        return self._met - self._began

    def _mark(self) -> None:
        if self._event is not None:
            event = self._event(enable_timing=True)
            event.record()
            self._events.append(event)


def of(engine: DeepSpeedEngine, shared: bool = False) -> OwnTime:
    """The stopwatch for an engine's steps; `shared`: ranks share samples."""
    return OwnTime(shared or engine.zero_optimization_stage() == 3 or bool(engine.has_moe_layers))
