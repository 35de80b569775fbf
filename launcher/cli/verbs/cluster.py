"""cluster: a cluster file from what is there, and the Role that the launcher needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.cli.streams import say
from launcher.cli.verbs.shared import JOB_FAILED, OK

if TYPE_CHECKING:
    from pathlib import Path

    from launcher.cli import options


def cluster(given: options.Cluster) -> int:
    """discover [SCHEDULER], rbac."""
    return _rbac(given) if given.action == "rbac" else _discover(given)


def _rbac(given: options.Cluster) -> int:
    from launcher.files import load
    from launcher.schedulers.kubernetes import rights

    own = load.load_cluster(given.cluster) if given.cluster else None
    needs = rights.needs(own) if own else rights.every()
    namespace = given.namespace or (own.kubernetes.namespace if own else None) or "default"
    print(rights.role(needs, namespace), end="")
    return OK


def _discover(given: options.Cluster) -> int:
    from pathlib import Path

    from launcher.errors import SpecError

    path = Path(given.output) if given.output else None
    if given.update and path is None:
        raise SpecError("--update compares with a file", hint="name it with -o FILE")
    if path and path.exists() and not (given.force or given.update):
        raise SpecError(
            f"{path} exists", hint="--update shows what would change, --force overwrites it, or name another"
        )
    text, lacks = _described(given)
    if given.update and path:
        return _compared(path, text)
    if path is None:
        print(text, end="")
    else:
        _write(path, text)
        say(f"{path}: written; `launcher check JOB --cluster {path}` tries it")
    for lack in lacks:
        say(f"not learned: {lack}")
    return OK


def _described(given: options.Cluster) -> tuple[str, list[str]]:
    """The file's text, and what it lacks."""
    from launcher import discovery
    from launcher.discovery import cluster_file

    where = given.scheduler or discovery.here()
    if where == "slurm":
        from launcher.discovery import slurm

        seen = slurm.learn()
        text, lacks = cluster_file.of_slurm(seen, given.partition), seen.lacks
    elif where == "local":
        from launcher.discovery import local

        machine = local.learn()
        text, lacks = cluster_file.of_machine(machine), machine.lacks
    else:
        from launcher.discovery import kubernetes

        found = kubernetes.learn(given.context, given.namespace)
        text, lacks = cluster_file.of_kubernetes(found), found.lacks
    return text, [f"{lack.what}: {lack.why}" for lack in lacks]


def _compared(path: Path, text: str) -> int:
    """Show how the file at `path` would change. As diff does: 1 when it would."""
    import difflib

    old = path.read_text(encoding="utf-8") if path.exists() else ""
    lines = difflib.unified_diff(
        old.splitlines(keepends=True), text.splitlines(keepends=True), str(path), "discovered"
    )
    changes = "".join(lines)
    print(changes, end="")
    return JOB_FAILED if changes else OK


def _write(path: Path, text: str) -> None:
    from launcher import atomic
    from launcher.errors import SpecError

    try:
        atomic.write(path, atomic.encoded(text))
    except OSError as error:
        raise SpecError(f"{path} cannot be written: {error.strerror}", hint="name another with -o") from None
