"""diff, hostfile, env, schema, doctor, completion: verbs that look and change nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

from launcher.cli.verbs import shared
from launcher.cli.verbs.shared import JOB_FAILED, OK
from launcher.errors import SpecError, did_you_mean

if TYPE_CHECKING:
    from launcher.cli import options

_MOST = 2**24  # characters: 65,536 hosts with the longest names


def diff(given: options.Diff) -> int:
    from launcher import schedulers
    from launcher.submission import pipelines, scripts

    shared.check_suffix(given.name)
    stages = shared.load_stages(given.job, given)
    name = schedulers.ALIASES.get(given.on, given.on)
    plans = pipelines.plan_all(stages, shared.planner(given.name), name)
    for plan in plans.values():
        shared.warn(plan, given.strict)
    if name == "kubernetes":
        from launcher.schedulers import kubernetes

        changes = "".join(map(kubernetes.diff, plans.values()))
    else:
        changes = "".join(scripts.diff(plan, name) for plan in plans.values())
    print(changes, end="")
    return JOB_FAILED if changes else OK  # as diff and `kubectl diff` do


def hostfile(given: options.Look) -> int:
    from launcher.rendering import hostfile as hostfiles

    text = _stdin() if given.hostlist == "-" else given.hostlist
    hosts = hostfiles.expand(text) if text is not None else _allocated_hosts()
    print(hostfiles.text(hosts, given.slots if given.slots is not None else _allocated_slots()), end="")
    return OK


def _stdin() -> str:
    if sys.stdin is None:  # it was closed
        raise SpecError("there is no standard input to read", hint="give the hosts as a word")
    text = sys.stdin.read(_MOST + 1)
    if len(text) > _MOST:
        raise SpecError(f"standard input is longer than {_MOST:,} characters", hint="give the hosts alone")
    return text


def _allocated_hosts() -> list[str]:
    """The hosts of the allocation that this process is in. Raises SpecError outside of one."""
    from launcher.rendering import hostfile as hostfiles

    nodelist = os.environ.get("SLURM_JOB_NODELIST") or os.environ.get("SLURM_NODELIST")
    if nodelist:
        return hostfiles.expand(nodelist)
    raise SpecError(
        "no HOSTLIST, and this is not inside a Slurm allocation",
        hint="for example: python -m launcher hostfile 'node[1-4]' --slots 8",
    )


def _allocated_slots() -> int:
    """Ranks per host: the allocation's GPUs per host, else this machine's. Raises SpecError when there are none."""
    for name in ("SLURM_GPUS_ON_NODE", "SLURM_GPUS_PER_NODE"):
        digits = re.search(r"([0-9]{1,6})$", os.environ.get(name, ""))
        if digits:
            return int(digits[1])
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20)
        gpus = sum(line.startswith("GPU ") for line in done.stdout.splitlines())
    except (OSError, subprocess.TimeoutExpired):
        gpus = 0
    if not gpus:
        raise SpecError("how many slots a host has is not known here", hint="add --slots N")
    return gpus


def fabric_env(given: options.Look) -> int:
    from launcher.fabrics import FABRICS, environment
    from launcher.reports import tables

    if given.fabric is None:
        print(tables.fabrics(given.json))
        return OK
    if given.fabric not in FABRICS:
        hint = did_you_mean(given.fabric, FABRICS) or "see `launcher env`"
        raise SpecError(f"unknown fabric {given.fabric!r}", hint=hint)
    fabric = FABRICS[given.fabric]
    variables = environment.environment(fabric, gpu=True, interface=None)
    if given.json:
        print(tables.variables_json(variables))
    else:
        print(f"# {fabric.name}: {fabric.title}; compared with its sources on {fabric.checked}")
        print(environment.text(variables, fabric.script), end="")
    return OK


def schema(given: options.Look) -> int:
    import json

    from launcher.files import schema as files_schema

    print(json.dumps(files_schema.schema(given.kind), indent=2))
    return OK


def doctor(given: options.Look) -> int:
    from launcher import doctor as checks
    from launcher.files import load

    python = load.load_cluster(given.cluster).python or "" if given.cluster else ""
    print(checks.report_json(python) if given.json else checks.report(python))
    return OK


def completion(given: options.Look) -> int:
    from launcher.cli import completion as completions

    print(completions.script(given.shell))
    return OK
