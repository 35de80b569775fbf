"""Objects to a cluster and back: apply, rehearse, compare, delete.

Owns that nothing is half-applied and nobody else's run is overwritten; the requests' form and refusals are api.py's.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from ruamel.yaml import YAML

from launcher.errors import Problem, SubmitError
from launcher.schedulers.kubernetes import api, kinds, unfit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from launcher.planning.plan import Plan
    from launcher.runs.record import Run
    from launcher.schedulers import Files

Object = dict[str, Any]
_TRIES = 10
_GONE_SECONDS = 60
_PAUSE = 0.5  # seconds between two tries
_NO_CLUSTER = "set KUBECONFIG, or kubernetes.context; --dry-run works without one"


class Place(NamedTuple):
    """Where a run's main object is. As text it is a Run's `native_id`; people are shown what stands before the ':'."""

    namespace: str
    kind: str  # one of kinds.KINDS
    name: str
    uid: str
    context: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.kind}/{self.name}:{self.uid} {self.context}"


def place(run: Run) -> Place:
    """Where `run` is."""
    return named(run.native_id)


def named(native_id: str) -> Place:
    """The Place of its text."""
    shown, _, rest = native_id.partition(":")
    uid, _, context = rest.partition(" ")
    namespace, kind, name = shown.split("/")
    return Place(namespace, kind, name, uid=uid, context=context)


def reach(run: Run) -> tuple[api.Server, Place]:
    """The server that has `run`, and where on it. Raises as `api.connect` does."""
    return there(place(run)), place(run)


def there(at: Place) -> api.Server:
    """The server of a Place. Raises as `api.connect` does."""
    return api.connect(at.context or None)


def objects(manifest: str) -> list[Object]:
    """The documents of a manifest, in their order."""
    return [document for document in YAML(typ="safe", pure=True).load_all(manifest) if document]


def avoiding(manifest: str, nodes: Sequence[str]) -> str:
    """The manifest with its pods kept off `nodes`. Raises SubmitError for pods of a runtime of the cluster."""
    documents = objects(manifest)
    if not unfit.avoid(documents, nodes):
        hint = "`kubectl cordon NODE` keeps new pods off a node"
        raise SubmitError("--exclude-bad: the pods are those of a runtime of the cluster", hint=hint)
    return "---\n".join(map(_yaml, documents))


def apply(manifest: str, context: str | None, namespace: str | None) -> str:
    """Create the manifest's objects. Returns the main one's Place as text; on failure removes what it made.

    Without `context` and `namespace` they are the kubeconfig's. Raises SubmitError with the server's refusal, and with
    the names of what could not be removed.
    """
    server = api.connect(context, _NO_CLUSTER)
    namespace = namespace or server.namespace
    documents = objects(manifest)
    done: list[Object] = []
    try:
        # The first is created, not applied: of two runs of one name, only one can have it.
        _say(documents[0], _create(server, namespace, documents[0]))
        done.append(documents[0])
        for document in documents[1:]:
            require_free(server, namespace, document)
            done.append(document)  # an answer that is lost does not unmake it
            try:
                main, warnings = _patiently(server, namespace, document)
            except api.Refusal as refusal:
                if 0 < refusal.status < 500:
                    done.pop()
                raise
            _say(document, warnings)
        owner = {k: documents[-1][k] for k in ("apiVersion", "kind")} | {
            k: main["metadata"][k] for k in ("name", "uid")
        }
        for document in documents[:-1]:
            # so that `kubectl delete` of the main object, or its time to live, takes all of the run away
            with contextlib.suppress(api.Refusal):
                patch = {"metadata": {"ownerReferences": [owner]}}
                server.call("PATCH", _path(namespace, document), patch, api.MERGE, fieldManager=api.MANAGER)
    except BaseException as error:
        left = [_title(d) for d in reversed(done) if not _is_deleted(server, namespace, d)]
        if left and isinstance(error, SubmitError):
            hint = f"delete them: kubectl -n {namespace} delete {' '.join(left)}"
            behind = Problem(f"left behind in {namespace}: {', '.join(left)}", hint)
            raise SubmitError(*error.problems, behind) from None
        raise
    kind = documents[-1]["kind"].lower()
    return str(Place(namespace, kind, owner["name"], uid=owner["uid"], context=server.context))


def replace(run: Run, manifest: str) -> str:
    """Delete what is left of an ended run, and create its manifest's objects again. Returns the new Place as text.

    Raises SubmitError where another run has their names.
    """
    cancel(run)
    server, at = reach(run)
    deadline = time.monotonic() + _GONE_SECONDS
    while any(_is_left(server, at, document) for document in objects(manifest)):
        if time.monotonic() > deadline:
            hint = "try again when its pods have ended"
            raise SubmitError(f"objects of {run.id} are still being deleted", hint=hint)
        time.sleep(_PAUSE)
    return apply(manifest, at.context or None, at.namespace)


def is_anothers(server: api.Server, at: Place) -> bool:
    """Whether another run has the name of the run at `at`, so that pods of that name are not its own."""
    live = _known(server, api.path(kinds.KINDS[at.kind], at.namespace, at.name))
    return live is not None and not _is_of(live, at)


def _is_left(server: api.Server, at: Place, document: Object) -> bool:
    live = find(server, at.namespace, document)
    if live is not None and not _is_of(live, at):
        raise _taken(document, at.namespace)
    return live is not None


def _is_of(live: Object, at: Place) -> bool:
    """Whether an object of the run's names is the run's: equal jobs of two people have equal names."""
    if not at.uid or live["metadata"]["uid"] == at.uid:
        return True
    owners = live["metadata"].get("ownerReferences", [])
    is_main = _title(live) == f"{at.kind}/{at.name}"
    return any(owner["uid"] == at.uid for owner in owners) or not (owners or is_main)


def _say(document: Object, warnings: list[str]) -> None:
    """Show what the server accepted with a warning: pods that Pod Security forbids are only refused later."""
    for text in warnings:
        print(f"warning: {_title(document)}: {text}", file=sys.stderr, flush=True)


def _patiently(server: api.Server, namespace: str, document: Object) -> tuple[Object, list[str]]:
    """Apply. A TrainJob is refused until Trainer's webhook has seen the runtime that was made a moment before."""
    for _ in range(_TRIES):
        try:
            return _apply(server, namespace, document)
        except api.Refusal as refusal:
            if not _lacks_runtime(document, refusal):
                raise
        time.sleep(_PAUSE)
    return _apply(server, namespace, document)


def _lacks_runtime(document: Object, refusal: api.Refusal) -> bool:
    """Whether a TrainJob is refused because the run's own runtime is not there, or not yet."""
    own = document["kind"] == "TrainJob" and document["spec"]["runtimeRef"]["kind"] == "TrainingRuntime"
    return own and "TrainingRuntime" in str(refusal) and "not found" in str(refusal)


def require_free(server: api.Server, namespace: str, document: Object) -> None:
    """Raise SubmitError where there is an object of the document's name."""
    if find(server, namespace, document) is not None:
        raise _taken(document, namespace)


def _taken(document: Object, namespace: str) -> SubmitError:
    return SubmitError(
        f"{_title(document)} exists already in namespace {namespace}",
        hint="use --name SUFFIX for another run, or cancel that one",
    )


def rehearse(plan: Plan, manifest: str) -> list[str]:
    """A line an object, of a server-side dry run. Raises SubmitError with every refusal."""
    server = api.connect(plan.cluster.kubernetes.context, _NO_CLUSTER)
    namespace = plan.cluster.kubernetes.namespace or server.namespace
    lines, problems = [], []
    for document in objects(manifest):
        try:
            _, warnings = _apply(server, namespace, document, dryRun="All")
        except api.Refusal as refusal:
            if refusal.status == 0 or refusal.status == 401:  # the same for every object
                raise
            if _lacks_runtime(document, refusal):
                what = "not checked: Trainer wants to see its runtime first, which a dry run does not make"
                lines.append(f"{_title(document)} {what}")
                continue
            problems += [Problem(f"{_title(document)}: {p.message}", p.hint) for p in refusal.problems]
        else:
            lines += [f"{_title(document)} ok", *(f"{_title(document)} warning: {text}" for text in warnings)]
    if problems:
        raise SubmitError(*problems)
    return lines


def cancel(run: Run) -> None:
    """Delete the run's objects, the one that has the pods first.

    What is gone already is passed over, and what another run has made under its name since.
    """
    server, at = reach(run)
    beside: list[tuple[str, str]] = []
    with contextlib.suppress(FileNotFoundError):
        manifest = (run.folder / "manifest.yaml").read_text(encoding="utf-8")
        for document in reversed(objects(manifest)[:-1]):
            path = _path(at.namespace, document)
            live = _known(server, path)
            if live is not None and _is_of(live, at):
                beside.append((path, live["metadata"]["uid"]))
    main = api.path(kinds.KINDS[at.kind], at.namespace, at.name)
    if remove(server, main, at.uid, propagationPolicy="Foreground"):
        for path, uid in beside:
            remove(server, path, uid)


def _known(server: api.Server, path: str) -> Object | None:
    """What is at `path`; None as well where the server has no such kind or namespace any more."""
    try:
        return server.get(path)
    except api.Refusal as refusal:
        if refusal.status == 404:
            return None
        raise


def diff(plan: Plan, render: Callable[[Plan], Files]) -> str:
    """What applying `plan` would change, as a unified diff of YAML.

    The live objects are those of the plan's own id, else those of the newest run of the job of the same name.
    """
    server = api.connect(plan.cluster.kubernetes.context)
    namespace = plan.cluster.kubernetes.namespace or server.namespace
    plan = plan._replace(id=_newest(server, namespace, plan) or plan.id)
    parts = []
    for document in objects(render(plan)["manifest.yaml"]):
        live = find(server, namespace, document)
        try:
            wanted = _apply(server, namespace, document, dryRun="All", force="true")[0]
            note = ""
        except api.Refusal as refusal:
            if not refusal.of_object:
                raise
            wanted = _laid_over(live or {}, document)
            note = f"# the server refuses this change: {refusal.problems[0].message}\n"
        lines = _compare(_title(document), live, wanted)
        parts += [note, *lines] if lines else []
    return "".join(parts)


def _newest(server: api.Server, namespace: str, plan: Plan) -> str | None:
    """The id of the run that `plan` is compared with, when it is not the plan's own."""
    kind = kinds.KINDS[plan.cluster.kubernetes.kind]
    label = f"app.kubernetes.io/managed-by=launcher,app.kubernetes.io/name={plan.job.name}"
    runs = server.get(api.path(kind, namespace), labelSelector=label).get("items", [])
    ids = {r["metadata"]["labels"].get("launcher/run"): r["metadata"]["creationTimestamp"] for r in runs}
    ids.pop(None, None)
    return None if plan.id in ids or not ids else str(max(ids, key=lambda i: str(ids[i])))


def _compare(title: str, live: Object | None, wanted: Object) -> list[str]:
    before = [] if live is None else _yaml(_pruned(live)).splitlines(keepends=True)
    after = _yaml(_pruned(wanted)).splitlines(keepends=True)
    return list(difflib.unified_diff(before, after, f"live {title}", f"rendered {title}"))


def _pruned(document: Object) -> Object:
    """An object without what the server alone writes."""
    intended = {k: v for k, v in document.items() if k != "status"}
    own = {"managedFields", "resourceVersion", "uid", "generation", "creationTimestamp", "ownerReferences"}
    intended["metadata"] = {k: v for k, v in intended["metadata"].items() if k not in own | {"namespace"}}
    notes = dict(intended["metadata"].get("annotations") or {})
    notes.pop("kubectl.kubernetes.io/last-applied-configuration", None)
    if notes:
        intended["metadata"]["annotations"] = notes
    return intended


def _laid_over(live: Any, wanted: Any) -> Any:
    """`wanted` on top of `live`: keys that only the live object has, such as defaults, stay."""
    if isinstance(live, dict) and isinstance(wanted, dict):
        return {**live, **{k: _laid_over(live.get(k), v) for k, v in wanted.items()}}
    if isinstance(live, list) and isinstance(wanted, list) and len(live) == len(wanted):
        return [_laid_over(old, new) for old, new in zip(live, wanted, strict=True)]
    return wanted


def _yaml(document: Object) -> str:
    writer = YAML(typ="safe", pure=True)
    writer.default_flow_style, writer.width = False, 4096
    text = io.StringIO()
    writer.dump(document, text)
    return text.getvalue()


def _title(document: Object) -> str:
    return f"{document['kind'].lower()}/{document['metadata']['name']}"


def _path(namespace: str, document: Object) -> str:
    kind = kinds.of(document["apiVersion"], document["kind"])
    return api.path(kind, namespace, document["metadata"]["name"])


def _create(server: api.Server, namespace: str, document: Object) -> list[str]:
    """The server's warnings."""
    kind = kinds.of(document["apiVersion"], document["kind"])
    try:
        return server.call(
            "POST", api.path(kind, namespace), document, fieldManager=api.MANAGER, fieldValidation="Strict"
        )[1]
    except api.Refusal as refusal:
        if refusal.reason == "AlreadyExists":
            raise _taken(document, namespace) from None
        if refusal.reason == api.UNANSWERED:
            title = _title(document)
            hint = f"if no run has it: kubectl -n {namespace} delete {title}"
            maybe = Problem(f"{title} may have been created in namespace {namespace}", hint)
            raise SubmitError(*refusal.problems, maybe) from None
        raise


def _apply(server: api.Server, namespace: str, document: Object, **query: str) -> tuple[Object, list[str]]:
    wanted = {"fieldManager": api.MANAGER, "fieldValidation": "Strict", "force": "false"} | query
    return server.call("PATCH", _path(namespace, document), document, api.APPLY, **wanted)


def find(server: api.Server, namespace: str, document: Object) -> Object | None:
    """The live object, or None. Raises Refusal when its kind or namespace is not there."""
    try:
        return server.get(_path(namespace, document))
    except api.Refusal as refusal:
        if refusal.status == 404 and refusal.reason == "NotFound":
            return None
        raise


def _is_deleted(server: api.Server, namespace: str, document: Object) -> bool:
    """Delete the object. Returns whether it is gone now."""
    try:
        remove(server, _path(namespace, document), propagationPolicy="Background")
    except api.Refusal:
        return False
    return True


def remove(server: api.Server, path: str, uid: str = "", **options: str) -> bool:
    """Delete the object `uid` at `path`; one that is gone already is fine. Returns False where another is there.

    `options`: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/delete-options/
    """
    wanted: Object = {**options, "preconditions": {"uid": uid}} if uid else {**options}
    try:
        server.call("DELETE", path, wanted)
    except api.Refusal as refusal:
        if uid and refusal.status == 409:
            return False
        if refusal.status != 404:
            raise
    return True
