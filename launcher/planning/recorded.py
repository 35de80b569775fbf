"""The plan of a run that was, from its plan.json: decided anew, and held to what was decided then.

Owns what of a record stands above today's tables: DeepSpeed's configuration, args, batch, environment and image.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from launcher.deepspeed.config import BatchSizes
from launcher.errors import LauncherError, PlanError
from launcher.fabrics.model import Variable
from launcher.files import restored, validation
from launcher.files.cluster import Cluster
from launcher.files.job import Job
from launcher.files.load import Loaded
from launcher.planning import plan as plans

if TYPE_CHECKING:
    from launcher.planning.plan import Plan, Workspace


Spellings = dict[str, list[restored.Spelling]]


def spellings(plan: Plan) -> Spellings:
    """What of a plan's numbers JSON does not keep, for `plan` below."""
    files = {"job": plan.job, "cluster": plan.cluster}
    data = {name: validation.written(file) for name, file in files.items()} | {"args": plan.args}
    return {name: list(restored.spellings(part)) for name, part in data.items()}


def plan(record: dict[str, Any], spellings: Spellings, workspace: Workspace) -> Plan:
    """The plan of a run's plan.json on `workspace`. Raises PlanError where this launcher cannot make one of it."""
    try:
        job = restored.restore(Job, record["job"], spellings.get("job", ()))
        cluster = restored.restore(Cluster, record["cluster"], spellings.get("cluster", ()))
        decided = plans.make(Loaded(job, cluster), workspace)
        reasons = {v.name: v for v in decided.variables}
        variables = tuple(
            reasons[name]._replace(value=value)
            if name in reasons
            else Variable(name, value, "as in the run before", "")
            for name, value in record["environment"].items()
        )
        return decided._replace(
            id=_stem(str(record["id"])),
            batch=BatchSizes(**record["batch"]),
            preset=record["deepspeed"]["preset"],
            config=record["deepspeed"]["config"],
            precision=record["precision"],
            args=restored.restore(dict, record["args"], spellings.get("args", ())),
            variables=variables,
            image=record["image"],
        )
    except LauncherError as error:
        raise PlanError(*error.problems) from None
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise PlanError(
            f"its plan.json is not one that this launcher reads: {type(error).__name__}: {error}"
        ) from None


def _stem(run: str) -> str:
    """A run's id without the number that told it from earlier runs of the same plan."""
    return re.sub(r"(-[0-9a-f]{6})-[0-9]+$", r"\1", run)
