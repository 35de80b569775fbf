"""A cluster file from what is there: `launcher cluster discover`.

A module a scheduler asks (slurm, kubernetes, local) and returns frozen facts (facts.py); cluster_file.py is the pure
way from facts to commented YAML, whose text is templates/clusters/. What could not be learned is a `Lack`: it becomes a
comment that says where to look, never a guess.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.errors import SpecError, ToolMissingError

if TYPE_CHECKING:
    from launcher.planning.plan import Plan
    from launcher.schedulers import Files


def here(words: str = "cluster discover") -> str:
    """The one scheduler of which this machine has signs. Raises ToolMissingError without, SpecError with two.

    `words`: what stands before a scheduler's name where a person says which.
    """
    config = os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
    signs = {
        "slurm": bool(shutil.which("sinfo")),
        "kubernetes": any(Path(part).is_file() for part in config.split(os.pathsep) if part),
    }
    found = [name for name, there in signs.items() if there]
    if not found:
        raise ToolMissingError(
            "there is neither Slurm (sinfo) nor a kubeconfig here",
            hint=f"run it on a login host, or `{words} local` for this machine",
        )
    if len(found) > 1:
        raise SpecError("there are Slurm and a kubeconfig here", hint=f"say which: `{words} slurm`")
    return found[0]


def live(scheduler: str, plan: Plan, files: Files) -> str:
    """What `scheduler` says of a plan whose files are rendered: when it would start, or that it takes it.

    Raises SubmitError with all that keeps it from starting, ToolMissingError when the scheduler is not here.
    """
    if scheduler == "slurm":
        from launcher.discovery import live_slurm

        return live_slurm.check(plan, files["job.sh"])
    if scheduler == "kubernetes":
        from launcher.discovery import live_kubernetes

        return live_kubernetes.check(plan, files["manifest.yaml"])
    return "this machine has no queue: it would start at once"
