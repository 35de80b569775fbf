#!/usr/bin/env python3
"""A Kubernetes API server in small: a real process that speaks its REST over HTTP, for tests of the cluster verbs.

    fakeserver.py [--without jobsets,podgroups] [--tls CERT KEY]      prints its port

It has discovery, create, server-side apply with field managers, get, list with label selectors, merge patch, delete
with owners, pod logs that can be followed, dry runs, warnings, and the real server's refusals: 401, 403 by RBAC, 404
of kinds, namespaces and objects, 409 of names and managers, 422 of rules (audit.py) and of immutable fields.
It runs no controllers: tests say through POST /_test what has happened. What a real server would say to a manifest
beyond that is test_apiserver.py's.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import re
import ssl
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parents[4]))

from tests.launcher.schedulers.kubernetes import audit, websockets

if TYPE_CHECKING:
    from collections.abc import Iterable

Object = dict[str, Any]

# plural → (group and version, kind)
RESOURCES = {
    "configmaps": ("v1", "ConfigMap"),
    "services": ("v1", "Service"),
    "pods": ("v1", "Pod"),
    "events": ("v1", "Event"),
    "nodes": ("v1", "Node"),
    "networkpolicies": ("networking.k8s.io/v1", "NetworkPolicy"),
    "jobs": ("batch/v1", "Job"),
    "jobsets": ("jobset.x-k8s.io/v1alpha2", "JobSet"),
    "trainjobs": ("trainer.kubeflow.org/v1alpha1", "TrainJob"),
    "trainingruntimes": ("trainer.kubeflow.org/v1alpha1", "TrainingRuntime"),
    "mpijobs": ("kubeflow.org/v2beta1", "MPIJob"),
    "pytorchjobs": ("kubeflow.org/v1", "PyTorchJob"),
    "leaderworkersets": ("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet"),
    "podgroups": ("scheduling.volcano.sh/v1beta1", "PodGroup"),
    "workloads": ("kueue.x-k8s.io/v1beta1", "Workload"),
    "localqueues": ("kueue.x-k8s.io/v1beta1", "LocalQueue"),
    "computedomains": ("resource.nvidia.com/v1beta1", "ComputeDomain"),
    "resourceclaimtemplates": ("resource.k8s.io/v1", "ResourceClaimTemplate"),
    "deviceclasses": ("resource.k8s.io/v1", "DeviceClass"),
    "namespaces": ("v1", "Namespace"),
    "persistentvolumeclaims": ("v1", "PersistentVolumeClaim"),
    "resourcequotas": ("v1", "ResourceQuota"),
    "secrets": ("v1", "Secret"),
    "serviceaccounts": ("v1", "ServiceAccount"),
    "storageclasses": ("storage.k8s.io/v1", "StorageClass"),
    "selfsubjectaccessreviews": ("authorization.k8s.io/v1", "SelfSubjectAccessReview"),
}
IMMUTABLE = {"Job": ("template", "completions", "completionMode"), "JobSet": ("replicatedJobs",)}
# token → (user, verbs it may use; None is all). `member` has the rights that a test gives: "group/resource" → verbs.
USERS: dict[str, tuple[str, set[str] | None]] = {
    "admin": ("admin", None),
    "viewer": ("viewer", {"get", "list"}),
    "member": ("member", None),
}


class Refuse(Exception):
    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason = code, reason


class Store:
    """All objects by (plural, namespace, name), what each manager applied, and the logs of pods."""

    def __init__(self, without: set[str]) -> None:
        self.without = without
        self.lock = threading.RLock()
        self.reset()

    def reset(self) -> None:
        with self.lock:
            self.objects: dict[tuple[str, str, str], Object] = {}
            self.applied: dict[tuple[str, str, str], dict[str, set[tuple[str, ...]]]] = {}
            self.logs: dict[tuple[str, str], list[str]] = {}
            self.open_logs: set[tuple[str, str]] = set()
            self.resources = dict(RESOURCES)
            self.namespaces = {"default", "training"}
            self.forbidden: set[tuple[str, str]] = set()  # (verb, plural)
            self.role: set[tuple[str, ...]] = set()  # (group, resource, verb) that `member` has
            self.used: set[tuple[str, ...]] = set()  # those of them that it has used
            self.refused: set[tuple[str, ...]] = set()  # those that it wanted and does not have
            self.denied: dict[str, str] = {}  # plural → what an admission webhook says
            self.patience: dict[str, int] = {}  # plural → how often it says so, if not always
            self.warnings: dict[str, list[str]] = {}
            self.failures: list[list[Any]] = []  # [status, Retry-After or ""] of the next answers
            self.claim = ""  # the folder that pods see as /runs; with one, pods that are made run
            self.lost: set[str] = set()  # plurals of which something is made, and nothing answered
            self.cut = 0  # bytes of a program's output after which the connection is cut
            self.numbers = itertools.count(1)

    def put(self, plural: str, namespace: str, document: Object) -> Object:
        document = copy.deepcopy(document)
        metadata = document["metadata"]
        metadata.setdefault("uid", f"uid-{next(self.numbers)}")
        metadata.setdefault("creationTimestamp", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
        metadata["namespace"] = namespace
        metadata["resourceVersion"] = str(next(self.numbers))
        _omit_empty(document)
        self.objects[plural, namespace, metadata["name"]] = document
        return document

    def create(
        self,
        plural: str,
        namespace: str,
        document: Object,
        manager: str,
        dry: bool,
        operation: str = "Update",
    ) -> Object:
        name = document["metadata"]["name"]
        group = RESOURCES[plural][0].rpartition("/")[0]
        title = f"{plural}.{group}" if group else plural
        if namespace not in self.namespaces:
            raise Refuse(404, "NotFound", f'namespaces "{namespace}" not found')
        if (plural, namespace, name) in self.objects:
            raise Refuse(409, "AlreadyExists", f'{title} "{name}" already exists')
        self.admit(plural, document)
        if dry:
            return {**document, "metadata": {**document["metadata"], "uid": "dry"}}
        self.applied[plural, namespace, name] = {manager: _leaves(document)}
        made = _defaulted(document)
        if plural == "pods" and self.claim:
            names = [container["name"] for container in made["spec"]["containers"]]
            states = [{"name": own, "state": {"running": {}}} for own in names]
            made["status"] = {"phase": "Running", "containerStatuses": states}
        made["metadata"]["managedFields"] = [{"manager": manager, "operation": operation}]
        return self.put(plural, namespace, made)

    def apply(
        self, plural: str, namespace: str, document: Object, manager: str, dry: bool, force: bool
    ) -> Object:
        key = (plural, namespace, document["metadata"]["name"])
        live = self.objects.get(key)
        if live is None:
            return self.create(plural, namespace, document, manager, dry, "Apply")
        self.admit(plural, document)
        owners, mine = self.applied.get(key, {}), _leaves(document)
        for other, paths in owners.items():
            taken = [p for p in sorted(mine & paths) if _at(live, p) != _at(document, p)]
            if other != manager and taken and not force:
                fields = "\n".join(f"- .{'.'.join(p)}" for p in taken)
                message = (
                    f'Apply failed with {len(taken)} conflict: conflicts with "{other}" using v1:\n{fields}'
                )
                raise Refuse(409, "Conflict", message)
        wanted = copy.deepcopy(live)
        for path in owners.get(manager, set()) - mine:
            if not any(path in paths for other, paths in owners.items() if other != manager):
                _drop(wanted, path)
        for path in mine:
            _set(wanted, path, _at(document, path))
        kind = document["kind"]
        for field in IMMUTABLE.get(kind, ()):
            if wanted["spec"].get(field) != live["spec"].get(field):
                message = f'{kind} "{key[2]}" is invalid: spec.{field}: Invalid value: field is immutable'
                raise Refuse(422, "Invalid", message)
        if dry:
            return wanted
        self.applied.setdefault(key, {})[manager] = mine
        return self.put(plural, namespace, wanted)

    def admit(self, plural: str, document: Object) -> None:
        times = self.patience.get(plural)
        if plural in self.denied and times != 0:
            if times:
                self.patience[plural] = times - 1
            raise Refuse(403, "Forbidden", self.denied[plural])
        found = audit.problems([document])
        if found:
            name = document["metadata"]["name"]
            raise Refuse(422, "Invalid", f'{document["kind"]} "{name}" is invalid: {"; ".join(found)}')

    def delete(self, plural: str, namespace: str, name: str, foreground: bool) -> Object:
        document = self.objects.get((plural, namespace, name))
        if document is None:
            group = RESOURCES[plural][0].rpartition("/")[0]
            raise Refuse(404, "NotFound", f'{plural}{"." + group if group else ""} "{name}" not found')
        if foreground and any(k[0] == "pods" for k in self.objects):
            document["metadata"]["deletionTimestamp"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            return document
        del self.objects[plural, namespace, name]
        uid = document["metadata"]["uid"]
        for key, other in list(self.objects.items()):  # the garbage collector
            if uid in {o.get("uid") for o in other["metadata"].get("ownerReferences", [])}:
                self.objects.pop(key, None)
        return {"kind": "Status", "status": "Success"}


def _leaves(document: Any, path: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    if isinstance(document, dict) and document:
        return {leaf for key, value in document.items() for leaf in _leaves(value, (*path, key))}
    return {path}


def _at(document: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        document = document.get(key) if isinstance(document, dict) else None
    return document


def _set(document: Object, path: tuple[str, ...], value: Any) -> None:
    for key in path[:-1]:
        document = document.setdefault(key, {})
    document[path[-1]] = value


def _drop(document: Object, path: tuple[str, ...]) -> None:
    for key in path[:-1]:
        document = document.get(key, {})
    document.pop(path[-1], None)


# Fields that the real types mark `omitempty`: their zero value is neither stored nor answered.
# https://github.com/kubernetes/kubernetes/blob/v1.34.0/staging/src/k8s.io/api/core/v1/types.go
OMITTED = {
    "Service": ("publishNotReadyAddresses", "externalName"),
    "Pod": ("hostNetwork", "hostPID", "hostIPC"),
}


def _omit_empty(document: Object) -> None:
    for field in OMITTED.get(document["kind"], ()):
        if not document.get("spec", {}).get(field, True):
            del document["spec"][field]


def _defaulted(document: Object) -> Object:
    """A few of the fields that a server fills in, so that a live object is never what was sent."""
    made = copy.deepcopy(document)
    if made["kind"] == "Job":
        made["spec"].setdefault("suspend", False)
        made["spec"]["selector"] = {"matchLabels": {"batch.kubernetes.io/controller-uid": "x"}}
    if made["kind"] == "Service":
        made["spec"].setdefault("type", "ClusterIP")
    return made


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # else the second packet of an answer waits 40 ms for the client to acknowledge the first
    disable_nagle_algorithm = True
    store: Store

    def log_message(self, *_: Any) -> None: ...

    def do_GET(self) -> None:
        self.answer()

    do_POST = do_PATCH = do_DELETE = do_GET

    def answer(self) -> None:
        url = urlsplit(self.path)
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else {}
        try:
            if url.path == "/_test":
                return self.send(200, self.told(body))
            if self.store.failures:  # of the server, whatever is asked
                return self.fail(*self.store.failures.pop(0))
            token = self.headers.get("Authorization", "").rpartition(" ")[2]
            if token not in USERS:
                raise Refuse(401, "Unauthorized", "Unauthorized")
            token = self.headers.get("Impersonate-User", token)  # each user's token is its name
            return self.route(url.path, query, body, token)
        except Refuse as refusal:
            status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": refusal.code}
            return self.send(refusal.code, {**status, "reason": refusal.reason, "message": str(refusal)})

    def route(self, path: str, query: dict[str, str], body: Any, token: str) -> None:
        found = _discovery(path, self.store)
        if found is not None:
            return self.send(200, found)
        match = re.fullmatch(
            r"/(?:api/(?P<core>v1)|apis/(?P<group>[^/]+/[^/]+))(?:/namespaces/(?P<space>[^/]+))?"
            r"/(?P<plural>[a-z]+)(?:/(?P<name>[^/]+))?(?P<part>/log|/exec)?",
            path,
        )
        api = (match["core"] or match["group"]) if match else ""
        plural = match["plural"] if match else ""
        if not match or self.store.resources.get(plural, ("",))[0] != api or plural in self.store.without:
            return self.send_text(404, "404 page not found\n")
        space, name = match["space"] or "", match["name"] or ""
        verb = {"GET": "get" if name else "list", "POST": "create", "PATCH": "patch", "DELETE": "delete"}[
            self.command
        ]
        if plural == "selfsubjectaccessreviews":  # everyone may ask
            return self.send(201, self.review(token, body))
        part = match["part"] or ""
        self.authorize(token, verb, f"{plural}{part}", space)
        applied = verb == "patch" and "apply-patch" in self.headers["Content-Type"]
        if (
            applied and (plural, space, name) not in self.store.objects
        ):  # an apply that creates needs both rights
            self.authorize(token, "create", plural, space)
        if part == "/exec":
            self.authorize(
                token, "create", f"{plural}{part}", space
            )  # kubectl's right; newer servers ask for both
            return self.execute(space, name)
        if part:
            return self.log(space, name, query)
        with self.store.lock:
            answer, code = self.act(verb, plural, space, name, query, body)
        if verb in {"create", "patch"} and plural in self.store.lost:
            return self.fail(0, "")
        return self.send(
            code, answer, self.store.warnings.get(plural, ()) if verb in {"create", "patch"} else ()
        )

    def review(self, token: str, body: Object) -> Object:
        asked = body["spec"]["resourceAttributes"]
        plural = asked["resource"] + ("/" + asked["subresource"] if asked.get("subresource") else "")
        used, refused = set(self.store.used), set(self.store.refused)
        try:
            self.authorize(token, asked["verb"], plural, asked["namespace"], asked.get("group", ""))
            allowed = True
        except Refuse:
            allowed = False
        self.store.used, self.store.refused = used, refused  # to ask is not to use
        return {**body, "status": {"allowed": allowed}}

    def authorize(self, token: str, verb: str, plural: str, space: str, group: str | None = None) -> None:
        user, verbs = USERS[token]
        if group is None:
            group = self.store.resources[plural.partition("/")[0]][0].rpartition("/")[0]
        right = (group, plural, verb)
        if token == "member":
            self.store.used.add(right)
        missing = token == "member" and right not in self.store.role
        if missing:
            self.store.refused.add(right)
        if missing or (verbs is not None and verb not in verbs) or (verb, plural) in self.store.forbidden:
            raise Refuse(
                403,
                "Forbidden",
                f'{plural}{"." + group if group else ""} is forbidden: User "{user}" cannot {verb} resource "{plural}"'
                f' in API group "{group}" in the namespace "{space}"',
            )

    def act(
        self, verb: str, plural: str, space: str, name: str, query: dict[str, str], body: Any
    ) -> tuple[Object, int]:
        store, dry = self.store, query.get("dryRun") == "All"
        manager = query.get("fieldManager", "unknown")
        if verb == "list":
            items = [
                o
                for (p, s, _), o in store.objects.items()
                if p == plural and s == space and _chosen(o, query)
            ]
            return {"kind": f"{RESOURCES[plural][1]}List", "metadata": {}, "items": items}, 200
        if verb == "create":
            return store.create(plural, space, body, manager, dry), 201
        if verb == "delete":
            options = {**query, **(body or {})}
            self.require(plural, space, name, options.get("preconditions", {}))
            return store.delete(plural, space, name, options.get("propagationPolicy") == "Foreground"), 200
        if verb == "patch" and "apply-patch" in self.headers["Content-Type"]:
            return store.apply(plural, space, body, manager, dry, query.get("force") == "true"), 200
        live = store.objects.get((plural, space, name))
        if live is None:
            group = RESOURCES[plural][0].rpartition("/")[0]
            raise Refuse(404, "NotFound", f'{plural}{"." + group if group else ""} "{name}" not found')
        if verb == "patch":
            for path in _leaves(body):
                _set(live, path, _at(body, path))
        return live, 200

    def require(self, plural: str, space: str, name: str, preconditions: Object) -> None:
        live, uid = self.store.objects.get((plural, space, name)), preconditions.get("uid")
        if live and uid and live["metadata"]["uid"] != uid:
            raise Refuse(
                409, "Conflict", f'{plural} "{name}": Precondition failed: UID in precondition: {uid}'
            )

    def log(self, space: str, name: str, query: dict[str, str]) -> None:
        key = (space, name)
        if ("pods", space, name) not in self.store.objects:
            raise Refuse(404, "NotFound", f'pods "{name}" not found')
        if key not in self.store.logs:
            what = (
                f'container "{query.get("container")}" in pod "{name}" is waiting to start: ContainerCreating'
            )
            raise Refuse(400, "BadRequest", what)
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        sent = 0
        while True:
            with self.store.lock:
                lines = self.store.logs.get(key, [])[sent:][-int(query.get("tailLines", 10**9)) :]
                going = query.get("follow") == "true" and key in self.store.open_logs
            sent += len(lines)
            for line in lines:
                stamp, _, text = line.partition(" ")
                if stamp[:19] >= query.get("sinceTime", "")[:19]:
                    shown = f"{stamp} {text}" if query.get("timestamps") == "true" else text
                    self.chunk(f"{shown}\n".encode())
            if not going:
                break
            time.sleep(0.02)
        self.chunk(b"")

    def execute(self, space: str, name: str) -> None:
        """Run the command here, with the folder that a test named in the place of the claim's."""
        if ("pods", space, name) not in self.store.objects:
            raise Refuse(404, "NotFound", f'pods "{name}" not found')
        words = [value for key, value in parse_qsl(urlsplit(self.path).query) if key == "command"]
        websockets.execute(
            self, [word.replace("/runs/", f"{self.store.claim}/") for word in words], self.store.cut
        )
        self.close_connection = True

    def fail(self, code: int, retry_after: str) -> None:
        """An answer that is none: 0 cuts the connection, others are what an overloaded server or a proxy says."""
        if code == 0:
            self.close_connection = True
            return
        self.send_response(code)
        self.send_header("Content-Length", "0")
        if retry_after:
            self.send_header("Retry-After", retry_after)
        self.end_headers()

    def chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def told(self, body: Any) -> Any:
        """What a test says has happened in the cluster, by `do`: the name of one of the methods below."""
        with self.store.lock:
            answer = getattr(self, f"do_{body.pop('do')}")(self.store, body)
            return {} if answer is None else answer

    @staticmethod
    def do_reset(store: Store, _: Object) -> None:
        store.reset()

    @staticmethod
    def do_put(store: Store, body: Object) -> Object:
        return store.put(body["plural"], body.get("namespace", "training"), body["object"])

    @staticmethod
    def do_status(store: Store, body: Object) -> None:
        key = (body["plural"], body.get("namespace", "training"), body["name"])
        store.objects[key]["status"] = body["status"]
        store.objects[key].setdefault("spec", {}).update(body.get("spec", {}))

    @staticmethod
    def do_log(store: Store, body: Object) -> None:
        key = ("training", body["pod"])
        store.logs.setdefault(key, []).extend(body["lines"])
        (store.open_logs.add if body.get("open") else store.open_logs.discard)(key)

    @staticmethod
    def do_remove(store: Store, body: Object) -> None:
        store.objects.pop((body["plural"], body.get("namespace", "training"), body["name"]), None)

    @staticmethod
    def do_rules(store: Store, body: Object) -> None:
        store.forbidden |= {tuple(f) for f in body.get("forbidden", [])}
        store.denied |= body.get("denied", {})
        store.patience |= body.get("patience", {})
        store.warnings |= body.get("warnings", {})
        store.failures += body.get("failures", [])
        store.lost = set(body.get("lost", store.lost))
        store.claim = body.get("claim", store.claim)
        store.cut = body.get("cut", store.cut)
        store.role |= {tuple(right) for right in body.get("role", [])}
        for plural, api in body.get("apis", {}).items():
            store.resources[plural] = (api, RESOURCES[plural][1])
        store.without = set(body.get("without", store.without))

    @staticmethod
    def do_used(store: Store, _: Object) -> list[Any]:
        return sorted(store.used)

    @staticmethod
    def do_refused(store: Store, _: Object) -> list[Any]:
        return sorted(store.refused)

    @staticmethod
    def do_failures(store: Store, body: Object) -> list[Any]:
        if body.get("clear"):
            store.failures.clear()
        return store.failures

    @staticmethod
    def do_objects(store: Store, _: Object) -> list[Any]:
        return [[*key, value] for key, value in store.objects.items()]

    def send(self, code: int, document: Any, warnings: Iterable[str] = ()) -> None:
        data = json.dumps(document).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for warning in warnings:  # one header each, quoted as RFC 9110 has it
            quoted = warning.replace("\\", "\\\\").replace('"', '\\"')
            self.send_header("Warning", f'299 - "{quoted}"')
        self.end_headers()
        self.wfile.write(data)

    def send_text(self, code: int, text: str) -> None:
        self.send_response(code)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())


def _chosen(document: Object, query: dict[str, str]) -> bool:
    labels = document["metadata"].get("labels", {})
    wanted = [part.partition("=") for part in query.get("labelSelector", "").split(",") if part]
    fields = [part.partition("=") for part in query.get("fieldSelector", "").split(",") if part]
    return all(labels.get(k) == v for k, _, v in wanted) and all(document.get(k) == v for k, _, v in fields)


def _discovery(path: str, store: Store) -> Object | None:
    """What /api, /apis and the paths of groups and versions say."""
    there = {plural: entry for plural, entry in store.resources.items() if plural not in store.without}
    versions = {api for api, _ in there.values() if "/" in api}
    groups = [
        {
            "name": group,
            "versions": (
                vs := [
                    {"groupVersion": v, "version": v.partition("/")[2]}
                    for v in sorted(versions)
                    if v.startswith(f"{group}/")
                ]
            ),
            "preferredVersion": vs[0],
        }
        for group in sorted({v.partition("/")[0] for v in versions})
    ]
    if path == "/version":
        return {"major": "1", "minor": "34", "gitVersion": "v1.34.1", "platform": "linux/amd64"}
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
    for group in groups:
        if path == f"/apis/{group['name']}":
            return {"kind": "APIGroup", "apiVersion": "v1", **group}
    api = path.removeprefix("/apis/") if path.startswith("/apis/") else path.removeprefix("/api/")
    if api in versions | {"v1"} and path in {f"/apis/{api}", f"/api/{api}"}:
        found = [
            {
                "name": plural,
                "kind": kind,
                "namespaced": plural
                not in {"nodes", "namespaces", "storageclasses", "selfsubjectaccessreviews"},
                "verbs": ["get", "list", "patch"],
            }
            for plural, (of, kind) in there.items()
            if of == api
        ]
        return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api, "resources": found}
    return None


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--without", default="")
    parser.add_argument("--tls", nargs=2)
    args = parser.parse_args()
    Handler.store = Store(set(filter(None, args.without.split(","))))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if args.tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*args.tls)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
