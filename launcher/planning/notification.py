"""Whom the node entry tells of what happens to a run: the cluster's targets, then the job's.

Owns the option of docker/notify.py, and the variables in which addresses that are secrets come.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.files.cluster import Cluster
    from launcher.files.job import Job
    from launcher.files.shared import Notify

# Before a number: an address of docker/notify.py.
VARIABLE = "LAUNCHER_NOTIFY_"
_KEY = "url"  # of a Secret on Kubernetes


def option(job: Job, cluster: Cluster) -> list[str]:
    """`--notify=JSON`, or nothing where nobody is to be told."""
    told = [_target(number, target) for number, target in enumerate(_targets(job, cluster))]
    return [f"--notify={json.dumps(told)}"] if told else []


def secrets(job: Job, cluster: Cluster) -> Iterator[tuple[str, str, str]]:
    """(variable, secret, key) of each address that is one."""
    for number, target in enumerate(_targets(job, cluster)):
        if target.webhook and target.webhook.secret:
            yield f"{VARIABLE}{number}", target.webhook.secret, target.webhook.key or _KEY


def _targets(job: Job, cluster: Cluster) -> list[Notify]:
    return [*cluster.notify, *job.notify]


def _target(number: int, target: Notify) -> dict[str, Any]:
    on = {"on": list(target.on)}
    if target.command:
        return {**on, "command": list(target.command)}
    assert target.webhook is not None
    value = target.webhook.value
    return {**on, "variable": f"{VARIABLE}{number}"} if value is None else {**on, "url": value}
