"""A line to what sends files of a run folder: in a pod of the run, or in one of its own that mounts the claim.

Owns that pod's life: it asks for no GPU, may only read, and is gone at the end, also after Ctrl-C, SIGTERM and SIGHUP.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING

from launcher.errors import SubmitError
from launcher.rendering import templates
from launcher.schedulers import inside
from launcher.schedulers.kubernetes import (
    api,
    applying,
    ends,
    hosts,
    kinds,
    patching,
    pods,
    queues,
    security,
    storage,
    waits,
)
from launcher.schedulers.kubernetes.execution import Execution

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from launcher.planning.plan import Plan
    from launcher.runs.record import Run
    from launcher.runs.unpacking import Line
    from launcher.schedulers.kubernetes.api import Server
    from launcher.schedulers.kubernetes.applying import Place

_CONTAINER = "fetch"
_LONGEST = 12 * 3600  # seconds that a pod lives whose launcher was killed
_PATIENCE = 600.0  # seconds until it must run
_PAUSE = 1.0  # seconds between two looks at it


@contextlib.contextmanager
def sender(run: Run, plan: Plan, path: str, say: Callable[[str], None]) -> Iterator[Line]:
    """A line to docker/sender.py beside the folder of `run`. `say` is told why a pod does not run yet.

    Raises SubmitError where the folder ended with its pods, no pod can run, or the server refuses.
    """
    server, at = applying.reach(run)
    own = f"{storage.FOLDER}/{plan.id}" + ("-0" if at.kind == "leaderworkerset" else "")
    program, text = inside.sender(own, path)
    with _interrupts(), _beside(server, at, run, plan=plan, say=say) as (pod, container):
        where = f"/api/v1/namespaces/{at.namespace}/pods/{pod}/exec"
        with Execution(server, where, container, inside.with_python(program)) as line:
            line.write(text)
            yield line


@contextlib.contextmanager
def _interrupts() -> Iterator[None]:
    """Have the signals of a terminal that closes, and of `timeout` and service managers, end like Ctrl-C."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    numbers = [
        n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) == signal.SIG_DFL
    ]  # no nohup
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _beside(
    server: Server, at: Place, run: Run, *, plan: Plan, say: Callable[[str], None]
) -> Iterator[tuple[str, str]]:
    """A pod that sees the run folder, and its container."""
    first = hosts.newest(at, hosts.pods(server, at, run)).get(0)
    if first is not None and hosts.runs(
        at, first
    ):  # a claim that one node at a time may mount is there already
        yield str(first["metadata"]["name"]), kinds.KINDS[at.kind].container
        return
    if not plan.cluster.kubernetes.runs:
        raise SubmitError(
            f"the folder of {run.id} ended with its pods",
            hint="kubernetes.runs in the cluster file names a claim that keeps run folders",
        )
    name = f"{kinds.name(plan)[:50].rstrip('-')}-fetch-{os.urandom(3).hex()}"
    (document,) = applying.objects(manifest(plan, name))
    space = f"/api/v1/namespaces/{at.namespace}/pods"
    try:
        server.call("POST", space, document, fieldManager=api.MANAGER, fieldValidation="Strict")
    except BaseException as error:
        if not isinstance(error, api.Refusal) or not error.status:  # no answer, or Ctrl-C: it may be there
            _remove(server, f"{space}/{name}", say)
        raise
    try:
        say(f"pod {name} reads the claim {plan.cluster.kubernetes.runs}")
        _until_it_runs(server, at, name, say)
        yield name, _CONTAINER
    finally:
        _remove(server, f"{space}/{name}", say)


def manifest(plan: Plan, name: str) -> str:
    """The pod's text: the run's image, user, pull secrets, nodes, labels and queue, and its claim to read."""
    wait = ["-c", f"import time; time.sleep({_LONGEST})"]
    own = plan.cluster.kubernetes
    text = templates.text(
        "kubernetes/fetch.yaml.j2",
        plan=plan,
        name=name,
        labels={
            **own.labels,
            **queues.label(own),
            "app.kubernetes.io/name": plan.job.name,
            "app.kubernetes.io/component": "fetch",
            "app.kubernetes.io/managed-by": "launcher",
            "launcher/fetch": plan.id,
        },
        seconds=_LONGEST,
        # not its affinity to other pods, which may be gone
        affinity={key: value for key, value in own.affinity.items() if key == "nodeAffinity"},
        tolerations=pods.tolerations(plan),
        rights=security.rights(plan).pod,
        container=_CONTAINER,
        command=[pods.literal(word) for word in inside.with_python(wait)],
        folder=storage.FOLDER,
    )
    return patching.beside(plan, text)


def _until_it_runs(server: Server, at: Place, name: str, say: Callable[[str], None]) -> None:
    end, told = time.monotonic() + _PATIENCE, ""
    while True:
        pod = server.get(f"/api/v1/namespaces/{at.namespace}/pods/{name}")
        if any("running" in status.get("state", {}) for status in hosts.containers(pod)):
            return
        if pod.get("status", {}).get("phase") in {"Failed", "Succeeded"}:
            why = ends.by_node(pod) or "no reason given"
            raise SubmitError(f"pod {name} ended before anything was read: {why}")
        why = waits.why(server, at, pod)
        if time.monotonic() > end:
            raise SubmitError(f"pod {name} did not start within {_PATIENCE / 60:.0f} minutes: {why}")
        if why != told:
            say(f"waiting: {why}")
            told = why
        time.sleep(_PAUSE)


def _remove(server: Server, path: str, say: Callable[[str], None]) -> None:
    """Delete the pod, if it was made."""
    try:
        server.call("DELETE", path)
    except api.Refusal as refusal:
        if refusal.status != 404:
            say(f"warning: {path.rpartition('/')[2]} was not deleted: {refusal.problems[0].message}")
