"""What an answer is worth: a rule, or a reward model.

Owns the rules and their names; training with them is the workloads', scoring by a model is theirs too. A rule is a
function of an answer's text to a number, the way of "verifiable" rewards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def lower_case(answer: str) -> float:
    """The share of lower-case letters in the answer: a toy, which any model can learn in a few dozen steps."""
    return sum(c.islower() for c in answer) / max(1, len(answer))


def brief(answer: str) -> float:
    """1 for an empty answer, falling to 0 at a thousand characters."""
    return max(0.0, 1.0 - len(answer) / 1000)


RULES: dict[str, Callable[[str], float]] = {"lower-case": lower_case, "brief": brief}
