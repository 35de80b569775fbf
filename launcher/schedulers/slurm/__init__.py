"""Slurm: one self-contained batch script, submitted and followed through submitit.

Owns the scheduler's functions; the script's text is templates/slurm/job.sh.j2, sbatch's options are in `options`,
Slurm's words in `states`, its commands in `query`, and submitit in `submission`.
"""

from __future__ import annotations

import contextlib
import os
import re
from typing import TYPE_CHECKING

from launcher import atomic
from launcher.errors import LauncherError, PlanError, Problem, SubmitError, UnnamedJobError, located
from launcher.fabrics import environment
from launcher.planning import visible
from launcher.rendering import command, containers, templates
from launcher.runs import badhosts, reading
from launcher.runs import logs as runs_logs
from launcher.runs.status import Selection, Status
from launcher.schedulers import inside
from launcher.schedulers.slurm import exported, options, query, states

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from launcher.planning.plan import Plan
    from launcher.runs.record import Run
    from launcher.runs.sweeps import Sweep
    from launcher.schedulers import Files
    from launcher.schedulers.slurm.query import Seen


@located
def render(plan: Plan) -> Files:
    """`job.sh`. Raises PlanError for options that cannot be written or that the launcher owns."""
    environment.require(plan.fabric, "slurm")
    runtime, chooses = plan.cluster.slurm.container, plan.preflight and plan.stays
    text = templates.text(
        "slurm/job.sh.j2",
        options=options.of(plan),
        exported=exported.names(plan),
        node=containers.node_entry(runtime, plan, gate=plan.preflight and not chooses),
        check=containers.node_entry(runtime, plan, gate=True) if chooses else [],
        pull=containers.pull(plan),
        bundle=containers.bundle(plan),
        bad_hosts=badhosts.path(plan.workspace.runs),
        **command.script_values(plan, "slurm"),
    )
    return {"job.sh": text}


def warnings(plan: Plan) -> list[Problem]:
    """Files of this machine that ranks in a container see only where the site's own configuration brings them."""
    if plan.runtime("slurm") == "none":
        return []
    return [problem.at(plan.places) for problem in visible.problems(plan, "slurm")]


def submit(plan: Plan, files: Files) -> str:
    """Submit through submitit. Returns Slurm's job id."""
    query.need("sbatch")
    from launcher.schedulers.slurm import submission

    return submission.submit(plan.folder, files["job.sh"], plan.allocated)


def array(name: str, plans: Sequence[Plan]) -> str:
    """The script that runs each plan's own job.sh as an element of one array.

    Raises PlanError when the plans differ in sbatch's options: the elements of an array share them.
    """
    shared, *others = [{k: v for k, v in options.of(plan) if k != "job-name"} for plan in plans]
    different = sorted({k for other in others for k in {*shared, *other} if shared.get(k) != other.get(k)})
    if different:
        raise PlanError(
            f"a sweep cannot change what Slurm allocates: {', '.join(different)}",
            hint="submit these jobs one at a time",
        )
    array = {"job-name": name, **shared, "array": f"0-{len(plans) - 1}"}
    return templates.text("slurm/array.sh.j2", name=name, options=list(array.items()), plans=plans)


def submit_array(sweep: Sweep, plans: Sequence[Plan]) -> str:
    """Submit `plans`, whose folders are ready, as one array. Returns its job id; element i is `<id>_<i>`."""
    query.need("sbatch")
    from launcher.schedulers.slurm import submission

    text = array(sweep.id, plans)
    (sweep.folder / "sweep.sh").write_text(text, encoding="utf-8", errors="surrogateescape")
    return submission.submit(str(sweep.folder), text, plans[0].allocated)


def cancel_array(native_id: str) -> None:
    """Cancel every element. Raises UnnamedJobError where Slurm does not: the elements need their folders."""
    try:
        query.call("scancel", native_id)
    except LauncherError as error:
        hint = f"cancel it: scancel {native_id}"
        raise UnnamedJobError(*error.problems, Problem(f"array {native_id} is in the queue", hint)) from None


def resume(run: Run, exclude: Sequence[str], after: Sequence[str]) -> str:
    """Submit the run's own script once more, away from the hosts `exclude`. Returns the new job id.

    It waits for the jobs `after`; those it waited for the first time may be gone.
    """
    query.need("sbatch")
    from launcher.schedulers.slurm import submission

    text = re.sub(r"^#SBATCH --dependency=.*\n", "", _script(run), flags=re.MULTILINE)
    return submission.submit(str(run.folder), text, run.nodes, exclude=exclude, after=after)


def waited_for(run: Run) -> list[str]:
    """The ids of the jobs that the run's script was submitted after."""
    found = re.search(r"^#SBATCH --dependency=afterok:([0-9_:]+)$", _script(run), re.MULTILINE)
    return found[1].split(":") if found else []


def _script(run: Run) -> str:
    return reading.text(run.folder / "job.sh", errors="surrogateescape")


def status(run: Run) -> Status:
    """What squeue says while Slurm knows the job, else what accounting says, else the run's own exit file."""
    return statuses([run])[run.id]


def statuses(runs: Sequence[Run]) -> dict[str, Status]:
    """Run id → status: one look at Slurm for all of them."""
    seen = query.look([run.native_id for run in runs]) if runs else {}
    return {run.id: _status(run, seen.get(run.native_id)) for run in runs}


def _status(run: Run, seen: Seen | None) -> Status:
    hosts, code = tuple(runs_logs.host_names(run.folder)), runs_logs.exit_code(run.folder)
    if seen:
        state, spares = states.state(seen.word), tuple(runs_logs.spare_names(run.folder))
        ended = code if state in {"SUCCEEDED", "FAILED"} else None
        idle = spares if state == "RUNNING" else ()
        return Status(state, states.explain(seen), ended, hosts=hosts, spares=idle)
    if (run.folder / "cancelled").exists() and code != 0:
        return Status("CANCELLED", "", code, hosts)
    if code is not None:
        return Status("FAILED" if code else "SUCCEEDED", "", code, hosts)
    return Status("UNKNOWN", "Slurm no longer knows the job, and it left no exit code", None, hosts)


def logs(run: Run, selection: Selection) -> Iterator[str]:
    """The lines of the job's log, or of one rank's or host's, from the shared run folder."""
    return runs_logs.lines(run, selection, lambda: status(run).state)


def shell(run: Run, plan: Plan, selection: Selection, terminal: bool) -> list[str]:
    """The step that becomes a shell beside a rank: in the run's own allocation, on what its ranks already have."""
    seat, runtime = inside.seat(run, selection), plan.cluster.slurm.container
    entry, program = containers.RUNTIMES[runtime](plan), inside.program(str(run.folder), seat.rank)
    python = inside.with_python(program) if containers.inside(runtime) else [plan.workspace.python, *program]
    cpus = [f"--cpus-per-task={plan.cluster.cpus}"] if plan.cluster.cpus else []
    place = [f"--jobid={runs_logs.slurm_job(run.folder) or run.native_id}", f"--nodelist={seat.host}"]
    words = ["srun", *place, "--nodes=1", "--ntasks=1", *cpus, "--overlap", *(["--pty"] if terminal else [])]
    # in the shell of another allocation srun would ask for what that one has
    hidden = [f"--unset={name}" for name in exported.kept_back("", os.environ)]
    if hidden:
        query.need("srun")
        words = ["env", *hidden, *words]
    return [*words, *entry.step, *entry.command, *python]


def cancel(run: Run) -> None:
    """scancel the job; one that ended is left as it is."""
    query.need("scancel")
    if status(run).state not in {"PENDING", "RUNNING", "UNKNOWN"}:
        return
    # Slurm forgets why a job ended, where there is no accounting; the script reads here which job is meant
    mark = run.folder / "cancelled"
    was_there = mark.exists()
    with contextlib.suppress(OSError):  # a full disk keeps no job alive
        atomic.write(mark, f"{run.native_id}\n".encode())
    try:
        query.call("scancel", run.native_id)
    except SubmitError as error:
        # the job goes on, unless Slurm has heard and its answer was lost
        if not was_there and "timed out" not in str(error):
            with contextlib.suppress(OSError):
                mark.unlink()
        raise
