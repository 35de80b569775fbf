"""The allocation that this process is in: its hosts and slots, as Slurm or torch's launchers tell them.

Owns the look at the environment for `hostfile`; inside a run the node entry does its own.
"""

from __future__ import annotations

import os
import re
import subprocess

from launcher.errors import SpecError
from launcher.rendering import hostfile


def hosts() -> list[str]:
    """The allocation's hosts. Raises SpecError outside of one."""
    nodelist = os.environ.get("SLURM_JOB_NODELIST") or os.environ.get("SLURM_NODELIST")
    if nodelist:
        return hostfile.expand(nodelist)
    raise SpecError(
        "no HOSTLIST, and this is not inside a Slurm allocation",
        hint="for example: python -m launcher hostfile 'node[1-4]' --slots 8",
    )


def slots() -> int:
    """Ranks per host: the allocation's GPUs per host, else this machine's. Raises SpecError when there are none."""
    for name in ("SLURM_GPUS_ON_NODE", "SLURM_GPUS_PER_NODE"):
        digits = re.search(r"(\d+)$", os.environ.get(name, ""))
        if digits:
            return int(digits[1])
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20)
        found = sum(line.startswith("GPU ") for line in done.stdout.splitlines())
    except (OSError, subprocess.TimeoutExpired):
        found = 0
    if not found:
        raise SpecError("how many slots a host has is not known here", hint="add --slots N")
    return found
