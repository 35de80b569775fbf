"""Environment variables of the ranks: what the fabric, the cluster and the job say of them, and which are secrets."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from launcher.errors import Problem
from launcher.fabrics import environment, lint, model
from launcher.planning import data_cache, notification

if TYPE_CHECKING:
    from collections.abc import Iterable

    from launcher.fabrics.model import Fabric
    from launcher.files.cluster import Cluster
    from launcher.files.job import Job


class Secret(NamedTuple):
    """An environment variable whose value is read inside the job from secret `name` (its `key` on Kubernetes)."""

    variable: str
    name: str
    key: str


def findings(job: Job, cluster: Cluster, fabric: Fabric) -> list[lint.Diagnostic]:
    """What is doubtful or wrong about the variables that the files set, on this fabric."""
    written = {**cluster.env, **job.env}
    return lint.lint({name: v.value or "" for name, v in written.items()}, fabric)


def problems(found: Iterable[lint.Diagnostic], severity: lint.Severity, job: Job) -> list[Problem]:
    """The findings of one severity as problems of the file that wrote the variable."""
    return [
        Problem(f.message, about=("job" if f.name in job.env else "cluster", "env", f.name))
        for f in found
        if f.severity == severity
    ]


def exported(job: Job, cluster: Cluster, fabric: Fabric) -> tuple[model.Variable, ...]:
    """The fabric's variables, then the cluster's, then the job's; a later one of the same name wins."""
    of_fabric = environment.environment(fabric, gpu=cluster.gpu is not None, interface=cluster.interface)
    by_name = {v.name: v for v in (*of_fabric, *data_cache.variables(cluster))}
    for source, env in (("the cluster file", cluster.env), ("the job file", job.env)):
        for name, variable in env.items():
            if variable.value is None:
                by_name.pop(name, None)
                continue
            over = f", instead of {by_name[name].value!r}" if name in by_name else ""
            by_name[name] = model.Variable(name, variable.value, f"from {source}{over}", "")
    return tuple(by_name.values())


def secrets(job: Job, cluster: Cluster) -> tuple[Secret, ...]:
    """Those whose values are read inside the job: of the ranks, and of who is notified."""
    wanted = {**cluster.env, **job.env}
    ranks = [Secret(name, v.secret, v.key or name) for name, v in wanted.items() if v.secret]
    return (*ranks, *(Secret(*secret) for secret in notification.secrets(job, cluster)))
