"""What a run was made of, so that it can be run again and told from another: lock.json in its folder.

Owns that file. It is written when the run is submitted; hosts and drivers are added once the node entries have said
them (docker/inventory.py). Values of variables and secrets are not in it: names, hashes, versions and paths are.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher import __version__, units, workloads
from launcher.images import registry
from launcher.planning import inline_secrets, interpreter
from launcher.runs import fingerprints, folders, locked_data, logs, reading, record

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from launcher.planning.plan import Plan

FILE = "lock.json"
HOSTS = "hosts"  # the folder of what each host says of itself
_KINDS: dict[str, type] = {
    **dict.fromkeys(("hosts", "data"), list),
    **dict.fromkeys(("code", "image", "python", "packages", "seeds", "environment", "secrets"), dict),
    **dict.fromkeys(("spellings", "drivers"), dict),
}
# Variables that change what ranks do where they come from the shell that submits, not from the job.
_INHERITED = (
    *("CUDA_", "CUBLAS_", "DS_", "GLOO_", "HF_", "HIP_", "LD_", "MKL_", "NCCL_", "OMP_", "PYTHON"),
    *("PYTORCH_", "ROCR_", "TOKENIZERS_", "TORCH", "TRANSFORMERS_", "TRITON_"),
)


def write(plan: Plan, scheduler: str, docker: str = "") -> None:
    """Write lock.json into the prepared folder of `plan`. `docker`: the state of docker/ that its ranks have."""
    folders.write_files(Path(plan.folder), {FILE: text(of(plan, scheduler, docker))})


def text(lock: dict[str, Any]) -> str:
    """lock.json, a line a key, and in a list a line an entry."""
    return units.escaped(json.dumps(lock, indent=1, ensure_ascii=False)) + "\n"


def of(plan: Plan, scheduler: str, docker: str = "") -> dict[str, Any]:
    """What `plan` would run with now. Of a run that was prepared its code snapshot too."""
    from launcher.planning import image_check, recorded  # they read YAML, which `status` does without

    inside = image_check.used(plan, scheduler)
    facts = (plan.image_facts or registry.facts(plan.image)[0]) if inside else None
    held = dict(facts.versions) if facts else {}
    python, installed = ("", held) if inside else interpreter.installed(interpreter.of(plan))
    return {
        "launcher": __version__,
        "code": _code(plan, docker),
        "image": _image(plan, scheduler) if inside else None,
        "python": None if inside else {"path": interpreter.of(plan), "version": python},
        "packages": installed,
        "data": locked_data.entries(plan),
        "seeds": seeds(plan),
        "deepspeed": fingerprints.text(json.dumps(plan.config, sort_keys=True)),
        "environment": _inherited(plan) if scheduler == "local" and not inside else {},
        "secrets": {secret.variable: f"{secret.name}, key {secret.key}" for secret in plan.secrets},
        "spellings": recorded.spellings(plan),
        "hosts": [],
        "drivers": {},
    }


def read(folder: Path) -> dict[str, Any]:
    """The lock of the run in `folder`; {} where there is none that can be read."""
    try:
        lock = record.strict_json(reading.text(folder / FILE))
    except (OSError, ValueError, RecursionError):
        return {}
    return _shaped(lock) if isinstance(lock, dict) else {}


def _shaped(lock: dict[str, Any]) -> dict[str, Any]:
    """Of a file that others can write, what has the kind that this module gives it."""
    kept: dict[str, Any] = {
        key: value
        for key, value in lock.items()
        if value is None or isinstance(value, _KINDS.get(key, object))
    }
    if "data" in kept:
        kept["data"] = [entry for entry in kept["data"] or () if _is_datum(entry)]
    for section, key in (("code", "program"), ("image", "file")):
        part = kept.get(section) or {}
        if not isinstance(part.get(key), (dict, type(None))):
            kept[section] = {k: v for k, v in part.items() if k != key}
    return kept


def _is_datum(entry: object) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("fingerprint"), (dict, type(None)))


def complete(folder: Path, hosts: Sequence[str] = ()) -> dict[str, Any]:
    """The lock of the run in `folder`, with the hosts that it started on written into it; {} where there is none.

    `hosts`: as its scheduler names them, where no hostfile says it.
    """
    lock = read(folder)
    named = logs.host_names(folder) or list(hosts)
    if not lock or not named:
        return lock
    said = {str(fact.get("host", "")): str(fact.get("driver", "")) for fact in _said(folder)}
    now = {**lock, "hosts": named, "drivers": {host: driver for host, driver in said.items() if driver}}
    if now != lock:
        with contextlib.suppress(OSError):  # another user's run may be looked at all the same
            folders.write_files(folder, {FILE: text(now)})
    return now


def _said(folder: Path) -> Iterator[dict[str, Any]]:
    """What each host of the run said of itself, in the order of their indices."""
    paths = (folder / HOSTS).glob("[0-9]*.json")
    for path in sorted(paths, key=lambda p: (len(p.name), p.name)):
        with contextlib.suppress(OSError, ValueError, RecursionError):
            fact = record.strict_json(reading.text(path))
            if isinstance(fact, dict):
                yield fact


def seeds(plan: Plan) -> dict[str, Any]:
    """Where a seed is set → its value, the workload's own default too."""
    args = dict(plan.args)
    default = None if workloads.is_script(plan.job.workload) else workloads.default(plan.job.workload, "seed")
    if default is not None:
        args.setdefault("seed", default)
    variables = {v.name: v.value for v in plan.environment if "SEED" in v.name}
    return {f"args.{name}": value for name, value in args.items() if name.endswith("seed")} | {
        f"environment.{name}": value for name, value in variables.items()
    }


def _code(plan: Plan, docker: str) -> dict[str, Any]:
    """Hashes of what ranks run: our programs, the user's, and the snapshot's."""
    is_script = workloads.is_script(plan.job.workload) and plan.job.command is None
    own = Path(plan.job.workload) if is_script and not plan.code else None
    program = fingerprints.of(own) if own else None
    return {
        "docker": docker,
        "commit": plan.workspace.commit,
        "program": program and {"path": str(own and own.absolute()), **program},
        "snapshot": _snapshot(Path(plan.folder)),
    }


def _snapshot(folder: Path) -> str | None:
    """The hash of the user's code that the run carries, as code.json has it; of what was put there alone."""
    try:
        facts = json.loads(reading.text(folder / "code.json"))
        return str(facts["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _image(plan: Plan, scheduler: str) -> dict[str, Any]:
    """The image's name, and what its tag stands for now: a registry's digest, or of a file its fingerprint."""
    known = {"name": plan.image, "ours": plan.image_facts is not None}
    if plan.image.startswith("/"):
        return {**known, "digest": "", "file": fingerprints.of(Path(plan.image))}
    engine = plan.cluster.local.container if scheduler == "local" else ""
    digest = registry.local_digest(engine, plan.image) if engine else registry.digest(plan.image)
    return {**known, "digest": digest}


def _inherited(plan: Plan) -> dict[str, str]:
    """Name → a hash, of the submitting shell's variables that ranks get and that change what they do."""
    own = {v.name for v in plan.environment} | {secret.variable for secret in plan.secrets}
    return {
        name: fingerprints.text(value)[:12]
        for name, value in sorted(os.environ.items())
        if name.startswith(_INHERITED) and name not in own and not inline_secrets.looks_secret(name, value)
    }
