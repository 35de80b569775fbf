"""`profile:` of a job: DeepSpeed's own profilers, as keys of its configuration.

Owns what the two options become, and which jobs have no use for them.

https://www.deepspeed.ai/tutorials/flops-profiler/ and `wall_clock_breakdown` in
https://www.deepspeed.ai/docs/config-json/#logging
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from launcher import workloads
from launcher.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.files.job import Job


def keys(job: Job) -> dict[str, Any]:
    """DeepSpeed's keys; {} where nothing is to be profiled."""
    asked, found = job.profile, dict[str, Any]()
    if asked.flops is not None:
        # DeepSpeed counts the steps that are done before it (deepspeed/runtime/engine.py, flops_profiler_active)
        found["flops_profiler"] = {"enabled": True, "profile_step": asked.flops - 1}
    if asked.breakdown:
        found["wall_clock_breakdown"] = True
    return found


def problems(job: Job) -> Iterator[Problem]:
    """Why nothing would be profiled."""
    if not keys(job):
        return
    own = workloads.is_script(job.workload)
    if not own and workloads.traits(job.workload).learning is None:
        what = f"profile: workload {job.workload!r} does no optimizer steps"
        yield Problem(what, "leave it out", about=("job", "profile"))
        return
    last = None if own else job.args.get("max-steps")
    if job.profile.flops is not None and isinstance(last, int) and job.profile.flops > last:
        what = f"profile.flops {job.profile.flops}: the job ends with step {last}"
        yield Problem(what, "name an earlier step", about=("job", "profile", "flops"))
