"""cluster: a cluster file from what is there, and the Role that the launcher needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.cli.streams import say
from launcher.cli.verbs.shared import JOB_FAILED, OK

if TYPE_CHECKING:
    from pathlib import Path

    from launcher.cli import options


# what is printed, and of which scheduler → the options that have a meaning there
_OPTIONS = {
    "rbac": {"output", "force", "namespace", "cluster"},
    "discover slurm": {"output", "force", "update", "partition"},
    "discover kubernetes": {"output", "force", "update", "context", "namespace"},
    "discover local": {"output", "force", "update"},
}


def cluster(given: options.Cluster) -> int:
    """discover [SCHEDULER], rbac."""
    return _rbac(given) if given.action == "rbac" else _discover(given)


def _rbac(given: options.Cluster) -> int:
    from launcher.errors import SpecError
    from launcher.files import load
    from launcher.schedulers.kubernetes import rights

    if given.scheduler:
        raise SpecError(f"rbac takes no {given.scheduler!r}: it is Kubernetes'", hint="leave it out")
    _require_options(given, "rbac")
    path = _path(given, "--force overwrites it, or name another")
    own = load.load_cluster(given.cluster) if given.cluster else None
    needs = rights.needs(own) if own else rights.every()
    namespace = given.namespace or (own.kubernetes.namespace if own else None) or "default"
    _put(path, rights.role(needs, namespace), "`kubectl apply -f` it, as an administrator")
    return OK


def _require_options(given: options.Cluster, what: str) -> None:
    """Raises SpecError for options that mean nothing to `what`, or not together, and for what is no namespace."""
    from launcher.errors import Problem, SpecError
    from launcher.files import kubernetes_syntax

    every = set().union(*_OPTIONS.values())
    wrong = sorted(name for name in every - _OPTIONS[what] if getattr(given, name))
    problems = [Problem(f"cluster {what} takes no --{name}", "leave it out") for name in wrong]
    if given.update and given.force:
        problems.append(
            Problem("--update writes nothing, so --force has no meaning", "leave one of them out")
        )
    elif given.force and not given.output:
        problems.append(Problem("--force overwrites a file", "name it with -o FILE"))
    if given.namespace:
        try:
            kubernetes_syntax.label(given.namespace)
        except ValueError as error:
            problems.append(Problem(f"--namespace: {error}"))
    if problems:
        raise SpecError(*problems)


def _path(given: options.Cluster, instead: str) -> Path | None:
    """The file to write; `instead` is what else to do where it is there. Raises SpecError where it cannot be one."""
    from pathlib import Path

    from launcher.errors import SpecError

    path = Path(given.output) if given.output else None
    if path and path.is_dir():
        raise SpecError(f"-o {path}: this is a folder", hint=f"name a file: -o {path / 'cluster.yaml'}")
    if path and path.exists() and not (given.force or given.update):
        raise SpecError(f"{path} exists", hint=instead)
    return path


def _discover(given: options.Cluster) -> int:
    from launcher import discovery
    from launcher.errors import SpecError

    where = given.scheduler or discovery.here()
    where = "kubernetes" if where == "k8s" else where
    _require_options(given, f"discover {where}")
    if given.update and not given.output:
        raise SpecError("--update compares with a file", hint="name it with -o FILE")
    path = _path(given, "--update shows what would change, --force overwrites it, or name another")
    if given.update and path and path.exists():
        _require_cluster_file(path)
    text, lacks = _described(given, where)
    if given.update and path:
        return _compared(path, text)
    _put(path, text, f"`launcher check JOB --cluster {path}` tries it")
    for lack in lacks:
        say(f"not learned: {lack}")
    return OK


def _require_cluster_file(path: Path) -> None:
    """Raises SpecError for what is a file of another kind: each of a cluster has `slots`."""
    from launcher.errors import SpecError
    from launcher.files import document

    if "slots" not in document.read(path).data:
        raise SpecError(f"{path} is no cluster file: it has no `slots`", hint="name another with -o")


def _described(given: options.Cluster, where: str) -> tuple[str, list[str]]:
    """The file's text, and what it lacks."""
    from launcher.discovery import cluster_file

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


def _put(path: Path | None, text: str, then: str) -> None:
    """Print the text, or write it to `path` and say what to do `then`."""
    from launcher import atomic
    from launcher.errors import SpecError

    if path is None:
        print(text, end="")
        return
    try:
        atomic.write(path, atomic.encoded(text))
    except OSError as error:
        raise SpecError(f"{path} cannot be written: {error.strerror}", hint="name another with -o") from None
    say(f"{path}: written; {then}")
