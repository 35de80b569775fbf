"""GPUs, memory and cores that a user's own sbatch options ask for, where the launcher asks for some too.

Owns which options exclude each other: sbatch refuses typed and untyped GPUs together, and two kinds of memory or cores.
https://slurm.schedmd.com/sbatch.html
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from launcher.errors import Problem, of_field

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from launcher.planning.plan import Plan

_OF_A_HOST = ("gres", "gpus-per-node", "gpus-per-task", "tres-per-task")  # a host has one task
_GPUS = (*_OF_A_HOST, "gpus", "gpus-per-socket")
_MEMORY = ("mem-per-cpu", "mem-per-gpu")
_GPU = re.compile(r"(?:gres[/:])?gpu(?=[:=(]|$)", re.ASCII)
_COUNT = re.compile(r"(?:gres[/:])?(?:gpu[:=])?(?:[^:,=()]+:)?(\d+)(?:\(.*\))?", re.ASCII)


def replaced(given: Mapping[str, Any]) -> set[str]:
    """The launcher's own options whose place those of `given` take."""
    gpus = {"gpus-per-node"} if any(_asks(given, name) for name in _GPUS) else set()
    return gpus | ({"mem"} if any(_is_set(given, name) for name in _MEMORY) else set())


def rivals(names: set[str]) -> set[str]:
    """The options that ask for GPUs or memory in another way than those of `names`."""
    groups = (set(_GPUS), {"mem", *_MEMORY})
    return {name for group in groups if group & names for name in group}


def problems(plan: Plan) -> Iterator[Problem]:
    """What sbatch would refuse, or what gives a host other than its slots."""
    given, slots = plan.cluster.slurm.sbatch, plan.slots
    if _is_set(given, "cpus-per-gpu") and plan.cluster.cpus:
        what = "is beside `cpus:` of the cluster file, and sbatch takes one of the two"
        yield of_field("cluster", "slurm.sbatch.cpus-per-gpu", what, "leave it out")
    if not plan.gpu:
        return
    wanted = dict.fromkeys(_OF_A_HOST, slots) | (
        {} if len(plan.numbers) > 1 else {"gpus": slots * plan.allocated}
    )
    for name, number in wanted.items():
        count = _count(str(given[name])) if _asks(given, name) else None
        if count is not None and count != number:
            whose = "a host has" if name in _OF_A_HOST else "the job has"
            what = f"asks for {count} GPU{'' if count == 1 else 's'}, and {whose} {number} slots"
            yield of_field("cluster", f"slurm.sbatch.{name}", what, f"ask for {number}, or correct `slots:`")


def _asks(given: Mapping[str, Any], name: str) -> bool:
    if not _is_set(given, name):
        return False
    return name.startswith("gpus") or any(map(_GPU.match, str(given[name]).split(",")))


def _is_set(given: Mapping[str, Any], name: str) -> bool:
    """null and false leave an option out."""
    return given.get(name) not in (None, False)


def _count(text: str) -> int | None:
    """How many GPUs `gpu:h100:8`, `h100:4,a100:4` or `8` are; None for what is not understood."""
    parts = [part.strip() for part in text.split(",")]
    named = [part for part in parts if _GPU.match(part)]
    found = [_COUNT.fullmatch(part) for part in named or parts]
    return sum(int(match[1]) for match in found if match) if all(found) else None
