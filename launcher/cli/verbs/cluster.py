"""cluster: a cluster file from what is there, what its hosts do, and the Role that the launcher needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.cli.streams import say
from launcher.cli.verbs.shared import JOB_FAILED, OK

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from launcher.cli import options
    from launcher.discovery.facts import Lack
    from launcher.files.measured import Measured

    Write = Callable[[Measured | None], str]


# what is printed, and of which scheduler → the options that have a meaning there
_OPTIONS = {
    "rbac": {"output", "force", "namespace", "cluster"},
    "discover slurm": {"output", "force", "update", "probe", "nodes", "settings", "partition"},
    "discover kubernetes": {
        "output",
        "force",
        "update",
        "probe",
        "nodes",
        "settings",
        "context",
        "namespace",
    },
    "discover local": {"output", "force", "update", "probe", "settings"},
    "probe": {"on", "nodes", "settings"},
    "measured": {"from"},
}
_FLAGS = {"settings": "set"}  # where an option is called otherwise


def cluster(given: options.Cluster) -> int:
    """discover [SCHEDULER], probe CLUSTER, measured CLUSTER, rbac."""
    if given.action in ("probe", "measured"):
        from launcher.cli.verbs import probe

        _require_options(given, given.action)
        return probe.probe(given) if given.action == "probe" else probe.measured(given)
    return _rbac(given) if given.action == "rbac" else _discover(given)


def _rbac(given: options.Cluster) -> int:
    from launcher.errors import SpecError
    from launcher.files import load
    from launcher.schedulers.kubernetes import rights

    if given.subject:
        raise SpecError(f"rbac takes no {given.subject!r}: it is Kubernetes'", hint="leave it out")
    _require_options(given, "rbac")
    path = _path(given, "--force overwrites it, or name another")
    own = load.load_cluster(given.cluster) if given.cluster else None
    needs = rights.needs(own) if own else rights.every()
    namespace = given.namespace or (own.kubernetes.namespace if own else None) or "default"
    leader = own.kubernetes.leader.service_account if own and own.kubernetes.leader else ""
    _put(path, rights.role(needs, namespace, leader), "`kubectl apply -f` it, as an administrator")
    return OK


def _require_options(given: options.Cluster, what: str) -> None:
    """Raises SpecError for options that mean nothing to `what`, or not together, and for what is no namespace."""
    from launcher.errors import Problem, SpecError
    from launcher.files import kubernetes_syntax

    every = set().union(*_OPTIONS.values())
    wrong = sorted(_FLAGS.get(name, name) for name in every - _OPTIONS[what] if getattr(given, name))
    problems = [Problem(f"cluster {what} takes no --{name}", "leave it out") for name in wrong]
    if given.update and given.force:
        problems.append(
            Problem("--update writes nothing, so --force has no meaning", "leave one of them out")
        )
    if given.probe and (given.update or not given.output):
        problems.append(
            Problem("--probe completes a file that is written", "name it with -o FILE, without --update")
        )
    if given.nodes is not None and given.nodes < 1:
        problems.append(
            Problem(f"--nodes {given.nodes}: at least one host measures", "leave it out for the default")
        )
    if given.force and not given.output:
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
    from launcher import discovery, schedulers
    from launcher.errors import SpecError, did_you_mean

    where = given.subject or discovery.here()
    where = schedulers.ALIASES.get(where, where)
    if where not in schedulers.SCHEDULERS:
        raise SpecError(f"unknown scheduler {where!r}", hint=did_you_mean(where, schedulers.SCHEDULERS))
    _require_options(given, f"discover {where}")
    if given.update and not given.output:
        raise SpecError("--update compares with a file", hint="name it with -o FILE")
    path = _path(given, "--update shows what would change, --force overwrites it, or name another")
    if given.update and path and path.exists():
        _require_cluster_file(path)
    write, lacks = _learned(given, where)
    text = write(None)
    if given.update and path:
        return _compared(path, text)
    _put(path, text, f"`launcher check JOB --cluster {path}` tries it")
    for lack in lacks:
        say(f"not learned: {lack}")
    if given.probe and path:
        from launcher.cli.verbs import probe

        return probe.complete(path, where, given, write)
    return OK


def _require_cluster_file(path: Path) -> None:
    """Raises SpecError for what is a file of another kind: each of a cluster has `slots`."""
    from launcher.errors import SpecError
    from launcher.files import document

    if "slots" not in document.read(path).data:
        raise SpecError(f"{path} is no cluster file: it has no `slots`", hint="name another with -o")


def _learned(given: options.Cluster, where: str) -> tuple[Write, list[str]]:
    """What writes the file's text, with what was measured of its hosts or without, and what it lacks."""
    from launcher.discovery import cluster_file

    if where == "slurm":
        from launcher.discovery import slurm

        seen = slurm.learn()
        return lambda found: cluster_file.of_slurm(seen, given.partition, found), _words(seen.lacks)
    if where == "local":
        from launcher.discovery import local

        machine = local.learn()
        return lambda found: cluster_file.of_machine(machine, found), _words(machine.lacks)
    from launcher.discovery import kubernetes

    there = kubernetes.learn(given.context, given.namespace)
    return lambda found: cluster_file.of_kubernetes(there, found), _words(there.lacks)


def _words(lacks: Sequence[Lack]) -> list[str]:
    return [f"{lack.what}: {lack.why}" for lack in lacks]


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
