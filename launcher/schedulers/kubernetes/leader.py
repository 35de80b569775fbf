"""The pod that leads a pipeline from inside the cluster: `kubernetes.leader` of the cluster file.

Owns its manifest, what it is told (stages.json), how it is, and which of its stages' runs are there; what it does is
docker/lead.py's, and the rights that its service account needs are rights.py's.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from typing import TYPE_CHECKING, Any

from launcher import ROOT
from launcher.errors import PlanError, Problem, SubmitError, of_field
from launcher.rendering import templates
from launcher.runs.status import Status
from launcher.schedulers import inside
from launcher.schedulers.kubernetes import (
    api,
    applying,
    configmaps,
    hosts,
    kinds,
    patching,
    pods,
    queues,
    waits,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from launcher.planning.plan import Plan
    from launcher.runs.record import Run
    from launcher.schedulers.kubernetes.applying import Place

_FOLDER = "/lead"
_MARK = "launcher/leader"  # docker/lead.py
_LONGEST = 63 - len("-abcde")  # a pod of the Job has a DNS label for its name
_NOBODY = 65534  # where the ranks are root: restricted pods are not


def require(plans: Mapping[str, Plan]) -> None:
    """Raise PlanError for stages that one pod cannot lead: of several clusters, or of several namespaces."""
    places = {(p.cluster.kubernetes.context, p.cluster.kubernetes.namespace) for p in plans.values()}
    if len(places) > 1:
        what = "leads in its own namespace, and the stages are for several contexts or namespaces"
        raise PlanError(of_field("cluster", "kubernetes.leader", what, "use --wait, or one cluster file"))


def name(pipeline: str) -> str:
    """Of the leader's objects."""
    wanted = f"{pipeline}-leader"
    if len(wanted) <= _LONGEST:
        return wanted
    digest = hashlib.sha256(pipeline.encode()).hexdigest()[:6]
    return f"{pipeline[: _LONGEST - 14].rstrip('-')}-{digest}-leader"


def manifest(
    pipeline: str, plans: Mapping[str, Plan], texts: Mapping[str, str], after: Sequence[Place] = ()
) -> str:
    """Its ConfigMaps and Job. `texts`: stage → the manifest of its run, whose plan is in `plans`.

    Raises PlanError where an object of a stage is more than a ConfigMap holds.
    """
    plan = next(iter(plans.values()))
    own = plan.cluster.kubernetes
    assert own.leader
    waited = [api.path(kinds.KINDS[at.kind], at.namespace, at.name) for at in after]
    stages, files = _stages(plans, texts)
    files["lead.py"] = (ROOT / "docker" / "lead.py").read_bytes()
    files["stages.json"] = json.dumps({"after": waited, "stages": stages}).encode()
    if (size := max(map(len, files.values()))) > configmaps.MOST:
        what = f"an object of a stage has {size:,} bytes as JSON, and a ConfigMap holds {configmaps.MOST:,}"
        raise PlanError(
            Problem(what, "use --wait, or put the largest file of the stages' code into the image")
        )
    maps = configmaps.of(name(pipeline), ((path, content, False) for path, content in files.items()))
    labels = {
        **own.labels,
        "app.kubernetes.io/name": name(pipeline),
        "app.kubernetes.io/component": "leader",
        "app.kubernetes.io/managed-by": "launcher",
        "launcher/pipeline": name(pipeline),
    }
    text = templates.text(
        "kubernetes/leader.yaml.j2",
        name=name(pipeline),
        own=own,
        labels=labels,
        object_labels=labels | queues.label(own),
        maps=maps,
        stages={"name": "stages", **configmaps.source(maps)},
        tolerations=pods.tolerations(plan),
        user=own.user or _NOBODY,
        image=own.leader.image or plan.image,
        command=[pods.literal(word) for word in inside.with_python(["-B", f"{_FOLDER}/lead.py", _FOLDER])],
        folder=_FOLDER,
    )
    return patching.beside(plan, text)


def _stages(
    plans: Mapping[str, Plan], texts: Mapping[str, str]
) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """What `stages.json` says of each, and the files that it names: an object each."""
    stages, files = [], {}
    for number, (stage, text) in enumerate(texts.items()):
        entries: list[dict[str, str]] = []
        for document in applying.objects(text):
            kind = kinds.of(document["apiVersion"], document["kind"])
            file = f"{number}-{len(entries)}.json"
            files[file] = json.dumps(document).encode()
            # the path is for whatever namespace the leader is in
            entries.append({"path": api.path(kind, "{}", document["metadata"]["name"]), "file": file})
        stages.append({"stage": stage, "run": plans[stage].id, "objects": entries})
    return stages, files


def start(text: str, plan: Plan, stages: Iterable[str], after: Iterable[Place] = ()) -> str:
    """Create the leader's objects. Returns where it is, as a run's native id.

    Raises SubmitError with the server's refusal, where another run has the name of one of `stages`, manifests, and for
    what it waits for in another namespace, of which its service account sees nothing.
    """
    own = plan.cluster.kubernetes
    server = api.connect(own.context)
    namespace = own.namespace or server.namespace
    if far := [at for at in after if (at.namespace, at.context) != (namespace, server.context)]:
        what = f"--after {far[0].name}: it is not in namespace {namespace}, where the pod leads"
        raise SubmitError(what, hint="use --wait")
    for stage in stages:
        applying.require_free(server, namespace, applying.objects(stage)[-1])
    return applying.apply(text, own.context, own.namespace)


def status(native_id: str) -> Status:
    """How the leader is. Raises as `api.connect` does, and Refusal when the server does not answer."""
    at = applying.named(native_id)
    server = applying.there(at)
    try:
        main = server.get(api.path(kinds.KINDS["job"], at.namespace, at.name))
    except api.Refusal as refusal:
        if refusal.status == 404:
            return Status("CANCELLED", "its Job was deleted")
        raise
    if main["metadata"]["uid"] != at.uid:
        return Status("CANCELLED", "its Job was deleted; another one has its name")
    if hosts.condition(main, "Complete", "True"):
        return Status("SUCCEEDED")
    label = f"launcher/pipeline={at.name}"
    found = server.get(f"/api/v1/namespaces/{at.namespace}/pods", labelSelector=label).get("items", [])
    if over := hosts.condition(main, "Failed", "True"):
        return Status("FAILED", _last_words(found) or str(over.get("message") or ""))
    if any("running" in c.get("state", {}) for pod in found for c in hosts.containers(pod)):
        return Status("RUNNING")
    why = next((words for pod in found if (words := waits.why(server, at, pod))), "")
    if not why and main["spec"].get("suspend"):
        why = waits.suspended(server, at, main)
    return Status("PENDING", why or waits.not_made(server, at, main) or "its pod is starting")


def _last_words(found: list[dict[str, Any]]) -> str:
    """The last line of what the leader said, as the kubelet keeps it (terminationMessagePolicy)."""
    ends = [c.get("state", {}).get("terminated", {}) for pod in found for c in hosts.containers(pod)]
    said = [line for end in ends for line in str(end.get("message") or "").splitlines() if line.strip()]
    return said[-1] if said else ""


def stop(native_id: str) -> None:
    """Delete the leader, so that nothing more is submitted; the stages stay as they are. One that is gone is fine."""
    at = applying.named(native_id)
    path = api.path(kinds.KINDS["job"], at.namespace, at.name)
    # with its ConfigMaps, which it owns
    applying.remove(applying.there(at), path, at.uid, propagationPolicy="Foreground")


def submitted(native_id: str, run: Run) -> str | None:
    """Where the run of a stage is, as its native id; None where the leader has not submitted it, or none is seen."""
    with contextlib.suppress(api.Refusal):
        at = applying.named(native_id)
        documents = applying.objects((run.folder / "manifest.yaml").read_text(encoding="utf-8"))
        live = applying.find(applying.there(at), at.namespace, documents[-1])
        if live and live["metadata"].get("annotations", {}).get(_MARK) == at.uid:
            kind = documents[-1]["kind"].lower()
            uid, named = live["metadata"]["uid"], live["metadata"]["name"]
            return str(applying.Place(at.namespace, kind, named, uid=uid, context=at.context))
    return None


def discard(native_id: str, run: Run) -> None:
    """Delete what the leader has made of a stage that it then could not submit. Raises Refusal."""
    at = applying.named(native_id)
    server = applying.there(at)
    for document in applying.objects((run.folder / "manifest.yaml").read_text(encoding="utf-8"))[:-1]:
        live = applying.find(server, at.namespace, document)
        if live and live["metadata"].get("annotations", {}).get(_MARK) == at.uid:
            kind = kinds.of(document["apiVersion"], document["kind"])
            path = api.path(kind, at.namespace, document["metadata"]["name"])
            applying.remove(server, path, live["metadata"]["uid"])
