"""The calls to a Kubernetes API server, and its refusals in words.

Owns the `kubernetes` client, which takes a quarter of a second to import; what is applied is kubernetes.py's.
"""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

from kubernetes import client, config, dynamic
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException
from kubernetes.dynamic.exceptions import DynamicApiError, ResourceNotFoundError
from ruamel.yaml import YAML
from urllib3.exceptions import HTTPError

from launcher.errors import LauncherError, RunNotFoundError, SubmitError, ToolMissingError
from launcher.schedulers import Selection, Status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.plan import Plan
    from launcher.runs import Run

MANAGER = "launcher"


def connect(context: str | None) -> client.ApiClient:
    """A client for `context` (default: the current one), or for the cluster that this pod is in.

    Raises ToolMissingError when there is neither.
    """
    try:
        return config.new_client_from_config(context=context or None)
    except ConfigException as error:
        with contextlib.suppress(ConfigException):
            config.load_incluster_config()
            return client.ApiClient()
        raise ToolMissingError(
            f"no Kubernetes cluster to talk to: {str(error).rstrip('.')}",
            hint="set KUBECONFIG, or kubernetes.context; --dry-run works without one",
        ) from None


def apply(plan: Plan, manifest: str) -> str:
    """Create the manifest's objects, server-side. Returns the main object's uid; removes what it made on failure."""
    documents = [d for d in YAML(typ="safe", pure=True).load_all(manifest) if d]
    api = connect(plan.cluster.kubernetes.context)
    done: list[Any] = []
    with _words():
        dynamic_client = dynamic.DynamicClient(api)
        try:
            for document in documents:
                kind = dynamic_client.resources.get(api_version=document["apiVersion"], kind=document["kind"])
                space = document["metadata"].get("namespace")
                made = kind.server_side_apply(
                    body=document, name=document["metadata"]["name"], namespace=space, field_manager=MANAGER
                )
                done.append((kind, made))
        except BaseException:
            for kind, made in reversed(done):
                with contextlib.suppress(Exception):
                    kind.delete(name=made.metadata.name, namespace=made.metadata.namespace)
            raise
    return str(done[-1][1].metadata.uid)


@contextlib.contextmanager
def _words() -> Iterator[None]:
    """Turns the client's exceptions into one message each."""
    try:
        yield
    except ResourceNotFoundError as error:
        raise SubmitError(f"the cluster does not know this kind: {error}", hint="install its CRD") from None
    except (ApiException, DynamicApiError) as error:
        message = error.reason
        with contextlib.suppress(ValueError, TypeError, KeyError):
            message = json.loads(error.body)["message"]
        raise SubmitError(f"the API server refused: {message} ({error.status})") from None
    except (HTTPError, OSError) as error:
        raise SubmitError(
            f"the API server does not answer: {error}", hint="check the kubeconfig and network"
        ) from None


def _job(run: Run) -> Any:
    api = connect(run.place.get("context"))
    with _words():
        return client.BatchV1Api(api).read_namespaced_job(run.id, run.place["namespace"])


def status(run: Run) -> Status:
    """PENDING until a pod is ready, then RUNNING; the Job's conditions say how it ended."""
    try:
        job = _job(run)
    except SubmitError as error:
        if "(404)" in str(error):
            return Status("CANCELLED", "the Job is gone")
        raise
    hosts = tuple(f"{run.id}-{i}.{run.id}" for i in range(run.nodes))
    for condition in job.status.conditions or []:
        if condition.status == "True" and condition.type in {"Complete", "Failed"}:
            state = "SUCCEEDED" if condition.type == "Complete" else "FAILED"
            return Status(state, condition.message or "", 0 if state == "SUCCEEDED" else 1, hosts)
    if job.status.ready:
        return Status("RUNNING", f"{job.status.ready} of {run.nodes} pods ready", None, hosts)
    return Status(
        "PENDING", "suspended: waiting for admission" if job.spec.suspend else "waiting for pods", None, hosts
    )


def logs(run: Run, selection: Selection) -> Iterator[str]:
    """The lines of one pod's log; every line starts with its rank."""
    index = 0
    if selection.rank is not None:
        index = selection.rank // run.slots
    elif selection.host is not None:
        names = [f"{run.id}-{i}" for i in range(run.nodes)]
        if selection.host.partition(".")[0] not in names:
            raise RunNotFoundError(f"{run.id} has no host {selection.host!r}", hint=", ".join(names[:8]))
        index = names.index(selection.host.partition(".")[0])
    api = client.CoreV1Api(connect(run.place.get("context")))
    label = f"launcher/run={run.id},batch.kubernetes.io/job-completion-index={index}"
    with _words():
        pods = api.list_namespaced_pod(run.place["namespace"], label_selector=label).items
        if not pods:
            raise RunNotFoundError(f"host {index} of {run.id} has no pod yet", hint="see `status`")
        newest = max(pods, key=lambda p: p.metadata.creation_timestamp)
        stream = api.read_namespaced_pod_log(
            newest.metadata.name, run.place["namespace"], follow=selection.follow, _preload_content=False
        )
        wanted = f"[{selection.rank}] " if selection.rank is not None else ""
        for line in _lines(stream):
            if line.startswith(wanted):
                yield line.removeprefix(wanted)


def _lines(stream: Any) -> Iterator[str]:
    pending = b""
    for chunk in stream.stream():
        *whole, pending = (pending + chunk).split(b"\n")
        yield from (line.decode("utf-8", "replace") for line in whole)
    if pending:
        yield pending.decode("utf-8", "replace")


def cancel(run: Run) -> None:
    """Delete the Job with its pods, the Service and the ConfigMap; what is gone already is passed over."""
    api = connect(run.place.get("context"))
    space = run.place["namespace"]
    deletions = (
        lambda: client.BatchV1Api(api).delete_namespaced_job(run.id, space, propagation_policy="Foreground"),
        lambda: client.CoreV1Api(api).delete_namespaced_service(run.id, space),
        lambda: client.CoreV1Api(api).delete_namespaced_config_map(run.id, space),
    )
    for delete in deletions:
        try:
            with _words():
                delete()
        except LauncherError as error:
            if "(404)" not in str(error):
                raise
