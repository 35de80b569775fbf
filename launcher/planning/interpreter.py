"""The interpreter of ranks without a container: which it is, and what it lacks of what a job needs.

Owns the question to an interpreter that is not this one; none of its packages is imported.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

from launcher import entry
from launcher.images import locks
from launcher.planning import packages

if TYPE_CHECKING:
    from collections.abc import Mapping

    from launcher.errors import PlanError
    from launcher.planning.plan import Plan

SECONDS = 30
# {name: version} of the first folder on the path that has each, as an import finds it; names as PEP 503 writes them.
_LIST = """
import json, os, re, sys
versions = {}
for folder in sys.path:
    for entry in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
        match = re.fullmatch(r"(.+?)-([^-]+)(?:-py[0-9.]+)?\\.(?:dist|egg)-info", entry)
        if match:
            versions.setdefault(re.sub(r"[-_.]+", "-", match[1]).lower(), match[2])
print(json.dumps({"python": sys.version.split()[0], "packages": versions}))
"""


def of(plan: Plan) -> str:
    """Its path; the cluster's `python:` as it is written where this machine does not have it."""
    named = plan.cluster.python
    if not named:
        return plan.workspace.python
    try:
        return str(entry.module("interpreter").resolve(named, os.environ).python)
    except entry.module("ending").Stop:
        return named


def refusal(plan: Plan) -> PlanError | None:
    """Why ranks without a container cannot run the plan; None too where their interpreter cannot be asked here."""
    python = of(plan)
    if python == sys.executable:
        return packages.in_interpreter(
            plan, python, lambda need: importlib.util.find_spec(need.module) is not None
        )
    version, held = installed(python) if plan.cluster.python else ("", {})
    return (
        packages.in_interpreter(plan, python, lambda need: locks.normal(need.package) in held)
        if version
        else None
    )


@functools.cache  # a sweep asks for each of its points
def installed(python: str) -> tuple[str, Mapping[str, str]]:
    """(version of the interpreter `python`, package → version); ('', {}) where it does not start, or is no path."""
    if not os.path.isabs(python):  # noqa: PTH117 - the name of an environment that only the hosts have
        return "", {}
    try:
        done = subprocess.run(
            [python, "-c", _LIST], capture_output=True, text=True, timeout=SECONDS, stdin=subprocess.DEVNULL
        )
        told = json.loads(done.stdout)
        return str(told["python"]), dict(sorted(told["packages"].items()))
    except (OSError, ValueError, KeyError, TypeError, subprocess.TimeoutExpired):
        return "", {}
