"""Packages that a job needs, held against what the ranks will have: an image, or an interpreter of this machine.

Owns the words of the refusal; which option needs which package is docker/workloads/packages.py's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher import workloads
from launcher.errors import PlanError, Problem
from launcher.images import locks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from workloads.packages import Need

    from launcher.images.facts import Facts
    from launcher.planning.plan import Plan


def in_image(plan: Plan, facts: Facts | None) -> Iterator[Problem]:
    """What the plan's image lacks, by its facts, else by the locks that an image of this project's is built from."""
    if facts and facts.packages is not None:
        yield from _lacking(plan, facts.packages.__contains__, f"image {plan.image} lacks ({facts.source})")
        return
    own = plan.image != plan.cluster.image and _is_meant(plan)
    target = locks.target(plan.cluster.image) if own else ""
    if target:
        flavour = "cuda" if plan.gpu else "cpu"
        held = locks.packages(target, flavour)
        where = f"image {plan.image} lacks (docker/requirements/{target}-{flavour}.txt)"
        yield from _lacking(plan, held.__contains__, where, "name an image of yours that has it")


def _is_meant(plan: Plan) -> bool:
    """Whether somebody thought of an image: one is written, or ranks enter one."""
    containers = (plan.cluster.slurm.container, plan.cluster.local.container)
    return ("image",) in plan.places["cluster"] or containers != ("none", "none")


def in_interpreter(plan: Plan, python: str, has: Callable[[Need], bool]) -> PlanError | None:
    """What `python`, the interpreter of ranks without a container, lacks. `has`: whether it has a package."""
    needs = [*workloads.stack(plan.job.workload), *_needs(plan)]
    problems = [
        _problem(plan, need, f"{python} lacks", f"`{python} -m pip install {need.package}`")
        for need in needs
        if not has(need)
    ]
    return PlanError(*problems).at(plan.places) if problems else None


def _needs(plan: Plan) -> list[Need]:
    if workloads.is_script(plan.job.workload):
        return []
    args = {**plan.args, "checkpoint-mirror": plan.job.checkpoint.mirror}
    return [*workloads.packages(plan.job.workload, args), *workloads.monitors(plan.config)]


def _lacking(plan: Plan, held: Callable[[str], bool], where: str, otherwise: str = "") -> Iterator[Problem]:
    for need in _needs(plan):
        if not held(locks.normal(need.package)):
            yield _problem(plan, need, where, otherwise or "name an image that has it")


def _problem(plan: Plan, need: Need, where: str, otherwise: str) -> Problem:
    what, about = f"workload {plan.job.workload!r}", tuple[str, ...](("job", "workload"))
    if need.option == "checkpoint-mirror":
        scheme = str(plan.job.checkpoint.mirror).partition("://")[0]
        what, about = f"checkpoint.mirror: {scheme}://", ("job", "checkpoint", "mirror")
    elif need.option.startswith("deepspeed."):
        what, about = need.option, ("job", *need.option.split("."))
    elif need.option:
        chosen = f": {plan.args[need.option]}" if need.values and need.option in plan.args else ""
        what, about = f"args.{need.option}{chosen}", ("job", "args", need.option)
    hint = ", or ".join(filter(None, (need.instead, otherwise)))
    return Problem(f"{what} needs the package {need.package}, which {where}", hint, about=about)
