"""How often hosts fail, and what that costs: the work since the last checkpoint.

Owns these two formulas; leaves a checkpoint's size to memory.py and a step's time to traffic.py. What starting again
takes, and preemption, are not in them.

    failures.longest(hosts=64, share=0.01) -> seconds between checkpoints that lose one percent
    failures.lost(hosts=64, seconds=3600.0) -> the share of the time that is lost
"""

from __future__ import annotations

# Failures of one host of eight GPUs a second: 419 unexpected interruptions in 54 days on 16,384 H100s while Llama 3 was
# pretrained (arXiv 2407.21783, section 3.3.4), which is one in 264 days.
RATE = 419 / (54 * 86_400 * 16_384 / 8)
# The share of the time that may be lost before a plan proposes to save more often.
MOST = 0.01


def lost(hosts: int, seconds: float) -> float:
    """The share of the time that is lost with `seconds` between checkpoints: half of them at each failure.

    J. W. Young, A first order approximation to the optimum checkpoint interval, 1974, doi 10.1145/361147.361115.
    """
    return hosts * RATE * seconds / 2


def longest(hosts: int, share: float) -> float:
    """The most seconds between checkpoints with which no more than `share` of the time is lost."""
    return 2 * share / (hosts * RATE)
