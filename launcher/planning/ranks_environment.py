"""The ranks' environment as the launcher hands it on: a document that the node entry reads (docker/environment.py).

Owns its text, the compile caches' names, and how much Linux takes; which variables there are is `plan`'s.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from launcher import workloads
from launcher.errors import Problem
from launcher.namedtuple import NamedTuple
from launcher.planning import own_program

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.files.cluster import Cluster
    from launcher.files.job import Job
    from launcher.planning.plan import Plan

# Before a number: the variable in which a script hands on a secret.
CARRIER = "LAUNCHER_SECRET_"
# Bytes of one variable or argument that execve(2) takes, its NUL included: 32 pages of 4 KiB.
LONGEST = 2**17
# Bytes of all together: a quarter of Linux's usual stack of 8 MiB, less an eighth of it for what hosts set themselves.
TOGETHER = 2**21 - 2**18

# The compile caches, which the node entry makes (docker/caches.py) where a job does not name a folder of its own.
CACHES = ("TORCH_EXTENSIONS_DIR", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR")


class _Part(NamedTuple):
    """What a field adds to a process's start: bytes of its longest word, and of all its words."""

    about: tuple[str, ...]
    longest: int
    total: int


def problems(job: Job, cluster: Cluster) -> Iterator[Problem]:
    """Variables and arguments that no process of Linux can be started with."""
    parts = [*_variables(job, cluster), *_arguments(job)]
    for part in parts:
        if part.longest > LONGEST:
            what = f"{'.'.join(part.about[1:])} has {part.longest:,} bytes, and Linux takes {LONGEST:,} in one piece"
            yield Problem(what, "put it into a file and give the file's name", about=part.about)
    total = sum(part.total for part in parts)
    if total > TOGETHER:
        largest = max(parts, key=lambda part: part.total)
        what = f"env and args have {total:,} bytes, most of them {'.'.join(largest.about[1:])}"
        hint = f"Linux starts a process with about {TOGETHER:,}: put values into files and give their names"
        yield Problem(what, hint, about=largest.about)


def _variables(job: Job, cluster: Cluster) -> Iterator[_Part]:
    for name, variable in {**cluster.env, **job.env}.items():
        if variable.value is not None:
            size = _size(f"{name}={variable.value}")
            yield _Part(("job" if name in job.env else "cluster", "env", name), size, size)


def _arguments(job: Job) -> Iterator[_Part]:
    for index, word in enumerate(job.command or ()):
        yield _Part(("job", "command", str(index)), _size(word), _size(word))
    for key, value in job.args.items():
        sizes = [_size(word) for word in workloads.command_line({key: value})]
        yield _Part(("job", "args", key), max(sizes, default=0), sum(sizes))


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass")) + 1


def caches(plan: Plan, image: str) -> list[str]:
    """The node entry's options for the compile caches of ranks in `image` ('' on the host itself)."""
    names = [name for name in CACHES if name not in {v.name for v in plan.environment}]
    made_by = f"{image or 'no image'}, {plan.cluster.gpu_name or 'cpu'}"
    return [f"--scratch={plan.cluster.scratch}", f"--caches={','.join(names)}", f"--caches-for={made_by}"]


def variables(plan: Plan) -> str:
    """environment.json with the plan's variables alone: each with its value and reason, on a line.

    ASCII alone, so that no locale and no reader of scripts changes a value.
    """
    return _document(_own(plan))


def document(plan: Plan) -> str:
    """The same with the run's folder, and for each secret the variable in which the script hands it on."""
    own, given = _own(plan), own_program.variables(plan, plan.workspace.runs)
    secrets = {
        secret.variable: {"secret": secret.name, "from": f"{CARRIER}{number}"}
        for number, secret in enumerate(plan.secrets)
    }
    run = {
        "RUN_DIR": {"value": plan.folder, "why": "where checkpoints and logs go"},
        "DEEPSPEED_CONFIG": {"value": f"{plan.folder}/ds_config.json"},
    }
    return _document({**{k: {"value": v} for k, v in given.items()}, **own, **secrets, **run})


def _own(plan: Plan) -> dict[str, dict[str, str]]:
    return {v.name: {"value": v.value} | ({"why": v.why} if v.why else {}) for v in plan.environment}


def _document(entries: dict[str, dict[str, str]]) -> str:
    lines = [f" {json.dumps(name)}: {json.dumps(entry)}" for name, entry in entries.items()]
    return "{\n" + ",\n".join(lines) + "\n}" if lines else "{}"
