"""This machine: a bash script in the background, one node entry a host of the plan.

Owns the process; a plan of several hosts runs on the addresses 127.0.0.1, 127.0.0.2, … of this one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from launcher import exit_codes
from launcher.errors import PlanError, Problem, SubmitError, ToolMissingError, located
from launcher.planning import cards, own_program, spares
from launcher.rendering import command, containers, hostfile, templates
from launcher.runs import logs as runs_logs
from launcher.runs import reading
from launcher.runs.status import Selection, State, Status

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from launcher.planning.plan import Plan
    from launcher.runs.record import Run
    from launcher.schedulers import Files

_MAX_HOSTS = 16


@located
def render(plan: Plan) -> Files:
    """`job.sh`. Raises PlanError for several hosts with GPUs, spares, or more hosts than make sense on one machine."""
    spares.require_none(plan, "one machine has no other host", "use `launcher slurm`, or leave spares out")
    if plan.nodes > 1 and plan.gpu:
        what = f"{plan.nodes} hosts of {plan.slots} GPUs cannot run on this machine"
        hint = "use --set nodes=1, or --cluster laptop to try it on CPU ranks"
        raise PlanError(Problem(what, hint, about=("job", "nodes")))
    if plan.nodes > _MAX_HOSTS:
        what, hint = f"{plan.nodes} hosts on one machine", f"use --set nodes={_MAX_HOSTS} or fewer"
        raise PlanError(Problem(what, hint, about=("job", "nodes")))
    text = templates.text(
        "local/job.sh.j2",
        node=containers.node_entry(plan.cluster.local.container, plan),
        hostfile=hostfile.text(_addresses(plan.nodes), plan.slots),
        **command.script_values(plan, "local"),
    )
    return {"job.sh": text}


def warnings(plan: Plan) -> list[Problem]:
    """Where this machine has other GPUs than the plan counts on, and what it does not do."""
    found = [*cards.warnings(plan), *own_program.warnings(plan, "this machine ends no run at its walltime")]
    if plan.job.preflight:
        what, about = "preflight is not done: it checks the hosts of a cluster", ("job", "preflight")
        found.append(Problem(what, "leave it out, or run the job on Slurm or Kubernetes", about=about))
    return [problem.at(plan.places) for problem in found]


def submit(plan: Plan, files: Files) -> str:
    """Start the script in its own session. Returns `pid:start-time`, so a reused pid is never taken for the run."""
    del files
    runtime = plan.cluster.local.container
    if runtime != "none" and not shutil.which(runtime):
        raise ToolMissingError(
            f"{runtime} is not installed", hint="install it, or use --set cluster.local.container=none"
        )
    return _start(plan.folder)


def resume(run: Run, exclude: Sequence[str], after: Sequence[str]) -> str:
    """Start the run's own script once more, which waits by itself. Returns the new native id."""
    del exclude, after  # there is one machine
    return _start(str(run.folder))


def _start(folder: str) -> str:
    try:
        process = subprocess.Popen(
            ["bash", f"{folder}/job.sh"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        raise SubmitError(f"bash did not start: {error.strerror}") from None
    return native_id(process.pid)


def native_id(pid: int) -> str:
    """The id of a run whose script has `pid`: a reused pid is never taken for it."""
    return f"{pid}:{_started(pid)}"


def status(run: Run) -> Status:
    """From the run's exit file, else from whether its process lives."""
    code, hosts = runs_logs.exit_code(run.folder), _addresses(run.nodes)
    if code is None and _pid(run) is not None:
        waits = _waits(run)
        return Status("PENDING", waits) if waits else Status("RUNNING", hosts=hosts)
    if code is None:
        code = runs_logs.exit_code(run.folder)  # it may have ended between the two looks
    unfinished: State = "CANCELLED" if (run.folder / "cancelled").exists() else "FAILED"
    if code is None:
        gone = "its process no longer exists and left no exit code"
        return Status(unfinished, gone if unfinished == "FAILED" else "", None, hosts)
    waited = _waits(run)  # it never started
    saved = "saved a checkpoint before it was finished; resume it" if code == exit_codes.SAVED else ""
    state: State = unfinished if code else "SUCCEEDED"
    return Status(state, waited or saved, code, () if waited else hosts)


def logs(run: Run, selection: Selection) -> Iterator[str]:
    """The lines of the job's log, or of one rank's or host's."""
    return runs_logs.lines(run, selection, lambda: status(run).state)


def shell(run: Run, plan: Plan, selection: Selection, terminal: bool) -> list[str]:
    """The command that becomes a shell beside a rank."""
    from launcher.schedulers import local_shell

    return local_shell.words(run, plan, selection, terminal)


def cancel(run: Run) -> None:
    """SIGTERM to the script, which passes it on; SIGKILL after ten seconds. A run that ended is left as it is."""
    if _pid(run) is None:
        return
    with contextlib.suppress(OSError):  # a full disk keeps no run alive
        (run.folder / "cancelled").touch()
    for number, patience in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0)):
        pid = _pid(run)
        if pid is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number) if number == signal.SIGTERM else os.killpg(pid, number)
        deadline = time.monotonic() + patience
        while _pid(run) is not None and time.monotonic() < deadline:
            time.sleep(0.05)


def _waits(run: Run) -> str:
    """What a run says while it waits for another one, and after it waited in vain."""
    try:
        return reading.text(run.folder / "waiting", errors="replace").strip()
    except OSError:
        return ""


def _addresses(hosts: int) -> tuple[str, ...]:
    return tuple(f"127.0.0.{i + 1}" for i in range(hosts))


def _pid(run: Run) -> int | None:
    """The script's pid while it lives."""
    pid, _, started = run.native_id.partition(":")
    return int(pid) if started and _started(int(pid)) == started else None


def _started(pid: int) -> str:
    """A live process's start time in clock ticks, as /proc tells it; '' when it is gone or a zombie.

    Where there is no /proc (macOS), any live process has the start time 'live'.
    """
    if not Path("/proc/self/stat").exists():
        with contextlib.suppress(OSError):
            os.waitpid(pid, os.WNOHANG)
        with contextlib.suppress(OSError):
            os.kill(pid, 0)
            return "live"
        return ""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    return ""
