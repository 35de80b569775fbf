"""The files and folders that a run reads, as its lock names them: each with its fingerprint.

Owns which words of a plan are paths, the sources of mixtures among them, and where the host has what ranks see at one.
A cache of tokenized texts is named without a fingerprint: runs add to it, and whatever it lacks is made anew.
"""

from __future__ import annotations

import posixpath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.planning import data_cache, own_program
from launcher.runs import fingerprints

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.planning.plan import Plan

_CACHE = "data-cache"  # the workloads' option


def entries(plan: Plan) -> list[dict[str, Any]]:
    """Every file and folder that args, a command, `model:` and `checkpoint.resume` name, as far as it is here."""
    resumed = own_program.resume_folder(plan.job.checkpoint.resume, plan.workspace.runs)
    named = [("model", plan.job.model), ("checkpoint.resume", resumed), *_command(plan), *_arguments(plan)]
    read = [entry for name, value in named if isinstance(value, str) and (entry := _datum(plan, name, value))]
    return [*read, *_caches(plan)]


def _command(plan: Plan) -> Iterator[tuple[str, Any]]:
    for number, word in enumerate(plan.job.command or ()):
        yield f"command.{number}", word.rpartition("=")[2] if word.startswith("-") else word


def _arguments(plan: Plan) -> Iterator[tuple[str, Any]]:
    for name, value in plan.args.items():
        for entry in () if name == _CACHE else value if isinstance(value, list) else [value]:
            yield f"args.{name}", str(entry.get("path", "")) if isinstance(entry, dict) else entry


def _caches(plan: Plan) -> Iterator[dict[str, Any]]:
    """The one that the workload looks into: an option goes before the variable."""
    option = plan.args.get(_CACHE)
    variable = next((v.value for v in plan.environment if v.name == data_cache.VARIABLE), None)
    for name, path in ((f"args.{_CACHE}", option), (f"environment.{data_cache.VARIABLE}", variable)):
        if isinstance(path, str) and path:
            host = str(Path(on_host(plan, path)).absolute())
            yield {"named": name, "path": path, "host": host, "fingerprint": None}
            return


def _datum(plan: Plan, name: str, value: str) -> dict[str, Any] | None:
    """The fingerprint of a path; None for a word that is none. What is not on this machine has no fingerprint."""
    if not value or len(value) > 4096 or "\0" in value:
        return None
    if not value.startswith("/") and (plan.code or name.startswith("command.")):
        return None  # ranks start in their code, whose snapshot has it; the command itself is on their PATH
    host = on_host(plan, value)
    found = fingerprints.of(Path(host))
    if found is None and not value.startswith(("/", "./", "../")):
        return None
    return {"named": name, "path": value, "host": str(Path(host).absolute()), "fingerprint": found}


def on_host(plan: Plan, path: str) -> str:
    """Where what ranks see at `path` lies on the host."""
    plain = posixpath.normpath(path) if path.startswith("/") else path
    for mount in plan.mounts:
        if mount.host and (plain == mount.inside or plain.startswith(f"{mount.inside.rstrip('/')}/")):
            return mount.host + plain[len(mount.inside.rstrip("/")) :]
    return path
