"""Where a host's processes stand among all, and the variables that tell them.

Owns the environment of ranks; the job's own variables are environment.py's, what launchers read program.py's.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import program

if TYPE_CHECKING:
    from interpreter import Interpreter


@dataclass(frozen=True)
class Team:
    """All ranks of the run, as this host sees them: host → slots, this host's index, and rank 0's port."""

    hosts: dict[str, int]
    index: int
    port: int
    hostfile: str = ""


def of_rank(team: Team, local_rank: int) -> dict[str, str]:
    """What tells a rank from the others: the variables of deepspeed.launcher.launch, and LOCAL_WORLD_SIZE.

    CUDA_VISIBLE_DEVICES stays as the scheduler set it; DeepSpeed's 0…N-1 may be another job's GPUs.
    """
    hosts, index = team.hosts, team.index
    slots = list(hosts.values())[index]
    return {
        # One host alone needs no name service.
        "MASTER_ADDR": next(iter(hosts)) if len(hosts) > 1 else "127.0.0.1",
        "MASTER_PORT": str(team.port),
        "WORLD_SIZE": str(sum(hosts.values())),
        "RANK": str(index * slots + local_rank),
        "LOCAL_RANK": str(local_rank),
        "LOCAL_SIZE": str(slots),
        "LOCAL_WORLD_SIZE": str(slots),
        "CROSS_RANK": str(index),
        "CROSS_SIZE": str(len(hosts)),
    }


def defaults(variables: dict[str, str], slots: int, ours: bool = True) -> dict[str, str]:
    """`variables` with what every rank of this host needs beside them; `ours`: it may import what lies here."""
    # All of the host's cores in every rank, torch's default, makes ranks fight for them.
    threads = {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // slots))}
    if not ours:
        return threads | variables
    code = str(Path(__file__).resolve().parent)
    path = variables.get("PYTHONPATH", "")
    if code not in path.split(os.pathsep):  # else carried.py has put it behind the user's own
        path = os.pathsep.join(filter(None, (code, path)))
    return {**threads, **variables, "PYTHONPATH": path}


def variables(
    what: program.Program, inherited: dict[str, str], team: Team, active: Interpreter | None
) -> dict[str, str]:
    """What all processes of this host have."""
    slots = list(team.hosts.values())[team.index]
    shared = defaults(inherited, slots, ours=not what.alone)
    shared = active.environment(shared) if active else shared
    if what.own:
        shared |= program.of_host(slots, len(team.hosts), team.index, team.hostfile)
    if what.per_host:
        own = of_rank(team, 0)
        shared = {name: value for name, value in shared.items() if name not in own}
        shared |= {name: own[name] for name in ("MASTER_ADDR", "MASTER_PORT")}
        shared = {"FORCE_TORCHRUN": "1", **shared, **program.for_launchers(shared)}
    return shared


def known(what: program.Program, env: dict[str, str], own: dict[str, str]) -> dict[str, str]:
    """The values of names in a process's words."""
    return env | {"WORLD_SIZE": own["WORLD_SIZE"]} if what.per_host else env
