"""What a job tokenizes before it trains: said before it is submitted, and refused where GPUs would wait too long."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from launcher.cli.streams import say

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from launcher.cli import options
    from launcher.planning.plan import Plan


def require(
    given: options.Job, plans: Mapping[str, Plan], needs: Mapping[str, Sequence[str]] = MappingProxyType({})
) -> None:
    """Say what each plan tokenizes first; `needs`: the stages that a stage waits for.

    Raises PlanError where that is above the limit; with `--force` only warns.
    """
    from launcher.submission import tokenizing

    for name, plan in plans.items():
        wait = tokenizing.look(plan, [plans[other] for other in needs.get(name, ())])
        if wait is None or not wait.text:
            continue
        if not wait.refused:
            say(f"note: {wait.text}")
            continue
        scheduler = getattr(given, "scheduler", "slurm")
        refusal = tokenizing.refusal(plan, wait, scheduler, given.cluster).at(plan.places)
        if not getattr(given, "force", False):
            raise refusal
        say(f"warning: {refusal}")
