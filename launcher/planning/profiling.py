"""`profile:` of a job: DeepSpeed's own profilers, as keys of its configuration, and Nsight Systems around its ranks.

Owns what DeepSpeed's two become, and which jobs have no use for them; docker/nsys.py starts ranks under nsys.

https://www.deepspeed.ai/tutorials/flops-profiler/ and `wall_clock_breakdown` in
https://www.deepspeed.ai/docs/config-json/#logging
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from launcher import workloads
from launcher.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.files.cluster import Cluster
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


def problems(job: Job, cluster: Cluster) -> Iterator[Problem]:
    """Why nothing would be profiled."""
    asked = job.profile
    if not (keys(job) or asked.nsys):
        return
    own = workloads.is_script(job.workload)
    if not own and workloads.traits(job.workload).learning is None:
        what = f"profile: workload {job.workload!r} does no optimizer steps"
        yield Problem(what, "leave it out", about=("job", "profile"))
        return
    last = None if own else job.args.get("max-steps")
    if asked.flops is not None and isinstance(last, int) and asked.flops > last:
        what = f"profile.flops {asked.flops}: the job ends with step {last}"
        yield Problem(what, "name an earlier step", about=("job", "profile", "flops"))
    about = ("job", "profile", "nsys")
    if asked.nsys and not cluster.gpu_name:
        what = "profile.nsys: ranks on CPUs open no range that nsys records"
        yield Problem(what, "leave it out: `launcher profile RUN` takes torch's profiler", about=about)
    if asked.nsys and job.processes == "host":
        what = "profile.nsys: with `processes: host` the program starts the ranks itself"
        yield Problem(what, "put nsys into its command, or let the launcher start each rank", about=about)
