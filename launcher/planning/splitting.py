"""How DeepSpeed's keys have the ranks of a program of one's own share a sample, or one copy of the model.

Owns how many ranks do, which the batch sizes count, and why memory is then not estimated. Our own workloads take none
of these keys (deepspeed/rules.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from launcher import workloads
from launcher.deepspeed import spellings
from launcher.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.files.cluster import Cluster
    from launcher.files.job import Job

# Ulysses: each rank has a part of the tokens, and all weights (deepspeed/runtime/config.py)
SAMPLE = ("sequence_parallel_size",)
MODEL = {
    ("tensor_parallel", "autotp_size"): "AutoTP splits layers over ranks",
    ("pipeline", "stages"): "pipeline parallelism gives ranks different layers",
}


def samples(job: Job) -> int:
    """Ranks that share each sample."""
    return _number(job, SAMPLE)


def models(job: Job) -> int:
    """Ranks that share one copy of the model."""
    product = 1
    for path in MODEL:
        product *= _number(job, path)
    return product


def reason(job: Job) -> str:
    """Why the job's memory is not estimated; empty where ranks have whole models, or ZeRO's parts of one."""
    return "; ".join(
        f"deepspeed.{'.'.join(path)} {_number(job, path)}: {why}, which is not estimated"
        for path, why in MODEL.items()
        if _number(job, path) > 1
    )


def problems(job: Job, cluster: Cluster) -> Iterator[Problem]:
    """Numbers among which the ranks do not divide."""
    world, together = job.nodes.max * cluster.slots, samples(job) * models(job)
    for path in (SAMPLE, *MODEL):
        if (number := _number(job, path)) > 1 and world % together:
            what = (
                f"deepspeed.{'.'.join(path)} {number}: {world} ranks do not divide into groups of {together}"
            )
            yield Problem(what, "use a divisor of the ranks", about=("job", "deepspeed", *path))


def _number(job: Job, path: tuple[str, ...]) -> int:
    value: Any = spellings.canonical(job.deepspeed.overrides) if workloads.is_script(job.workload) else {}
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 1 else 1
