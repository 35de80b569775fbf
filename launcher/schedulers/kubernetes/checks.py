"""What an API server would refuse, or worse, accept and then never run: found before anything is sent.

Owns the checks that need the whole pod; what one field alone can get wrong is spec's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher import exit_codes, workloads
from launcher.deepspeed import kinds
from launcher.errors import PlanError, Problem, of_field, shown
from launcher.files import kubernetes_syntax
from launcher.files.cluster import Serve
from launcher.images import names
from launcher.planning import tiers
from launcher.rendering import container_checks
from launcher.schedulers.kubernetes import carried, devices, pods, queues, resource_checks, storage, trainer
from launcher.schedulers.kubernetes import kinds as objects

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.planning.plan import Plan

# Bytes. https://kubernetes.io/docs/concepts/configuration/configmap/#motivation
_CONFIGMAP = 2**20
# Bytes of keys and values. https://kubernetes.io/docs/concepts/overview/working-with-objects/annotations/
_ANNOTATIONS = 256 * 2**10
_OWN_LABELS = (
    *("launcher/", "app.kubernetes.io/", "kueue.x-k8s.io/queue-name", "batch.kubernetes.io/"),
    *("jobset.sigs.k8s.io/", "leaderworkerset.sigs.k8s.io/"),
    *("training.kubeflow.org/", "trainer.kubeflow.org/"),
)
_NAMED = "write registry.example.com/name:tag, in lower case"
_FREE_NODES = "https://kubernetes.io/docs/tasks/administer-cluster/node-overprovisioning/"
# what the Job's own controller calls its pods by: https://kubernetes.io/docs/reference/labels-annotations-taints/
_OWN_OF_JOB = ("controller-uid", "job-name")
# whose controllers make pods anew after whatever end
_UNTOLD = ("mpijob", "pytorchjob", "leaderworkerset")
# Seconds of a time.Duration: of more, controllers make a negative number, and the run is over at once.
# https://github.com/kubernetes/kubernetes/blob/v1.34.0/pkg/controller/job/job_controller.go (pastActiveDeadline)
_LONGEST = (2**63 - 1) // 10**9


def require(plan: Plan, pod: pods.Pod, files: dict[str, str]) -> None:
    """Raises PlanError with everything that Kubernetes would not take."""
    problems = [
        *container_checks.python(plan, "leave it out; image_python names the image's own"),
        *_images(plan),
        *_names(plan),
        *_environment(plan, pod),
        *_paths(plan, pod),
        *resource_checks.problems(plan),
        *devices.problems(plan),
        *_kind(plan),
        *storage.problems(plan),
        *tiers.unmounted(plan, storage.kept(plan)),
        *_serving(plan),
        *_queue(plan),
        *_sizes(files),
        *carried.problems(plan),
        *_spares(plan),
        *_varying(plan),
    ]
    if plan.cluster.kubernetes.runtime:
        problems += trainer.problems(plan, pod)
    if problems:
        raise PlanError(*problems)


def _spares(plan: Plan) -> Iterator[Problem]:
    """A pod cannot take another's index, and a controller that replaces pods takes any node that is free."""
    if plan.spares:
        kind = objects.KINDS[plan.cluster.kubernetes.kind]
        what = (
            f"spares: no pod of a {kind.kind} can take another's place: {kind.lost}, on any node that is free"
        )
        hint = f"leave spares out, and hold a node free by pods of low priority: {_FREE_NODES}"
        yield Problem(what, hint, about=("job", "spares"))


def _varying(plan: Plan) -> Iterator[Problem]:
    """Pods find each other by names that are rendered, and a controller waits until there are as many as it is told."""
    if len(plan.numbers) > 1:
        kind = objects.KINDS[plan.cluster.kubernetes.kind].kind
        what = (
            f"nodes: {{min, max}}: a {kind} has as many pods as it was made with, and makes a lost one anew"
        )
        run = f"--set nodes={plan.numbers[-2]} --set checkpoint.resume=RUN"
        hint = f"use nodes: {plan.nodes}; a new run goes on with another number: {run}"
        yield Problem(what, hint, about=("job", "nodes"))


def _images(plan: Plan) -> Iterator[Problem]:
    about = ("cluster", "image")
    if plan.image.endswith((".sqsh", ".sif")):
        yield Problem(
            f"image {plan.image!r} is a file", "Kubernetes pulls images from a registry", about=about
        )
    elif not names.is_reference(plan.image):
        what = f"image {shown(plan.cluster.image)} is not the name of a container image"
        yield Problem(what, _NAMED, about=about)
    leader = plan.cluster.kubernetes.leader
    if leader and leader.image is not None and not names.is_reference(leader.image):
        what = f"{shown(leader.image)} is not the name of a container image"
        yield of_field("cluster", "kubernetes.leader.image", what, _NAMED)


def _names(plan: Plan) -> Iterator[Problem]:
    for secret in plan.secrets:
        try:
            kubernetes_syntax.subdomain(secret.name)
        except ValueError as error:
            yield Problem(f"env {secret.variable}: secret {error}", about=_variable(plan, secret.variable))
    for key in plan.cluster.kubernetes.labels:
        if key.startswith(_OWN_LABELS) or key in _OWN_OF_JOB:
            what = "is set by the launcher"
            yield of_field("cluster", "kubernetes.labels", what, "choose another key", key=key)
    secrets = plan.cluster.kubernetes.image_pull_secrets
    if twice := sorted({name for name in secrets if secrets.count(name) > 1}):
        what = f"names {', '.join(twice)} twice"
        yield of_field("cluster", "kubernetes.image_pull_secrets", what, "name each once")
    annotations = plan.cluster.kubernetes.annotations
    size = sum(len(key) + len(value.encode()) for key, value in annotations.items())
    if size > _ANNOTATIONS:
        what = f"are {size:,} bytes; an object holds {_ANNOTATIONS:,}"
        yield of_field("cluster", "kubernetes.annotations", what, "shorten them")
    if kinds.mismatch("any", plan.cluster.kubernetes.affinity):
        what = "holds a number that is not finite"
        yield of_field("cluster", "kubernetes.affinity", what, "JSON has none")
    for code in set(exit_codes.with_restart("free")) & set(plan.cluster.kubernetes.fail_on):
        what, hint = (
            "is the exit code of a run that was interrupted",
            "an interrupted run would never be restarted",
        )
        yield of_field("cluster", "kubernetes.fail_on", what, f"leave it out, or {hint}", key=str(code))


def _variable(plan: Plan, name: str) -> tuple[str, ...]:
    """The field that gives a variable its value."""
    return ("job" if name in plan.job.env else "cluster", "env", name)


def _environment(plan: Plan, pod: pods.Pod) -> Iterator[Problem]:
    every = [name for name, *_ in pod.environment] + [name for name, _ in pod.references]
    for name in sorted({n for n in every if every.count(n) > 1}):
        hint = "leave it out of the job and the cluster file"
        yield Problem(f"env {name} is set by the launcher", hint, about=_variable(plan, name))


def _paths(plan: Plan, pod: pods.Pod) -> Iterator[Problem]:
    seen: dict[str, str] = {}
    for mount in pod.mounts:
        path, hint = container_checks.normal(mount["mountPath"]), "use another path inside"
        about = ("cluster", "mounts", path)
        if path in seen:
            sources = f"as {_source(seen[path])} and as {_source(mount['name'])}"
            yield Problem(f"{path} is mounted twice, {sources}", hint, about=about)
        seen.setdefault(path, mount["name"])
        if hidden := container_checks.hidden(path):
            yield Problem(f"a mount on {path} would hide {hidden}", hint, about=about)
    yield from _below(seen)
    for given in plan.mounts:
        if given.host and not given.claim and ".." in given.host.split("/"):
            what = f"mounts: Kubernetes takes no '..' in a path of the host: {given.host}"
            yield Problem(what, about=("cluster", "mounts", given.inside))


def _below(mounts: dict[str, str]) -> Iterator[Problem]:
    """Mounts within a ConfigMap's folder, in which no folder can be made for them. `mounts`: path → volume."""
    for folder, volume in mounts.items():
        inside = (path for path in mounts if path != folder and container_checks.within(path, folder))
        for path in inside if volume in ("job", "code", "programs") else ():
            what = f"{path} is below {folder}, {_source(volume)}, where nothing else can be mounted"
            yield Problem(what, "use another path inside", about=("cluster", "mounts", path))


def _source(volume: str) -> str:
    own = {
        "job": "the job's files",
        "shm": "shared memory",
        "tmp": "temporary files",
        "scratch": "`scratch`",
        "runs": "the run folders",
        "code": "the job's code",
        "programs": "the node entry",
    }
    return own.get(volume, "a mount of the cluster" if volume.startswith("mount") else "a path of the fabric")


def _kind(plan: Plan) -> Iterator[Problem]:
    cluster, topology = plan.cluster.kubernetes, plan.cluster.kubernetes.topology
    about = ("cluster", "kubernetes")
    alone = {
        "leader_first": ("jobset", cluster.leader_first),
        "runtime": ("trainjob", cluster.runtime is not None),
        "serve": ("leaderworkerset", cluster.serve != Serve()),
    }
    for field, (kind, used) in alone.items():
        if used and cluster.kind != kind:
            what = f"does not apply to kind {cluster.kind!r}"
            yield of_field("cluster", f"kubernetes.{field}", what, f"use kind: {kind}")
    if topology and topology.exclusive and cluster.kind not in {"jobset", "trainjob"}:
        what = f"kind {cluster.kind!r} does not support exclusive topology"
        yield Problem(what, "use kind: jobset", about=(*about, "topology", "exclusive"))
    if topology and topology.exclusive and objects.split(plan):
        # https://github.com/kubernetes-sigs/jobset/blob/v0.12.0/pkg/webhooks/pod_mutating_webhook.go
        what = "gives each Job of a JobSet a domain of its own, and with leader_first the first host is one"
        yield of_field("cluster", "kubernetes.topology.exclusive", what, "leave leader_first out")
    if cluster.fail_on != exit_codes.with_restart("never") and cluster.kind in _UNTOLD:
        what = f"does not apply to kind {cluster.kind!r}, whose controller looks at no exit codes"
        yield of_field("cluster", "kubernetes.fail_on", what, "leave it out, or use kind: job or jobset")
    whose = "MPIJob workers" if cluster.kind == "mpijob" else "workers of leader_first"
    if plan.fabric.host_network and (cluster.kind == "mpijob" or objects.split(plan)):
        what = f"fabric {plan.fabric.name!r} uses the host network, where {whose} have no own host names"
        field, hint = (
            ("kind", "use kind: job or jobset")
            if cluster.kind == "mpijob"
            else ("leader_first", "leave it out")
        )
        yield Problem(what, hint, about=(*about, field))
    if plan.job.walltime > _LONGEST:
        what = f"of {plan.job.walltime:,} s is more than the {_LONGEST:,} s that a controller can count"
        yield of_field("job", "walltime", what, "write 10000d for a run without an end")
    if plan.fabric.name == "loopback" and plan.nodes > 1:
        what = "fabric 'loopback' connects ranks of one machine only, not pods"
        yield Problem(what, "use `fabric: tcp`", about=("cluster", "fabric"))


def _serving(plan: Plan) -> Iterator[Problem]:
    """A server that listens where the Service and the probe of its kind do not look."""
    if workloads.traits(plan.job.workload).serves and plan.cluster.kubernetes.kind == "leaderworkerset":
        port = plan.args.get("port", workloads.default(plan.job.workload, "port"))
        served = plan.cluster.kubernetes.serve.port
        if port != served:
            hint = f"use --set cluster.kubernetes.serve.port={port}" if port else "leave args.port out"
            what = f"{port} is not kubernetes.serve.port {served} of the cluster"
            yield of_field("job", "args.port", what, hint)


def _queue(plan: Plan) -> Iterator[Problem]:
    cluster, topology = plan.cluster.kubernetes, plan.cluster.kubernetes.topology
    about = ("cluster", "kubernetes")
    if cluster.queue_priority and not (cluster.queueing == "kueue" and cluster.queue):
        hint = "name a `queue`, or use priority_class"
        yield of_field("cluster", "kubernetes.queue_priority", "needs Kueue", hint)
    if cluster.queue and cluster.queueing == "coscheduling":
        yield Problem("coscheduling has no queues", "leave kubernetes.queue out", about=(*about, "queue"))
    if topology and topology.tier and cluster.queueing != "volcano":
        hint = "use queueing: volcano, or a node label alone"
        yield of_field("cluster", "kubernetes.topology.tier", "needs Volcano", hint)
    if "podAffinity" in cluster.affinity and queues.by_affinity(cluster):
        what = "is written as pod affinity, which would replace that of kubernetes.affinity"
        yield of_field("cluster", "kubernetes.topology", what, "write it into kubernetes.affinity")
    if cluster.queueing != "kueue" and cluster.kind == "leaderworkerset" and cluster.serve.replicas > 1:
        what = f"{cluster.queueing} would schedule {cluster.serve.replicas} groups as one gang"
        yield Problem(what, "use serve.replicas: 1", about=(*about, "serve", "replicas"))


def _sizes(files: dict[str, str]) -> Iterator[Problem]:
    size = sum(len(name) + len(text.encode()) for name, text in files.items())
    if size > _CONFIGMAP:
        largest = max(files, key=lambda name: len(files[name]))
        yield Problem(
            f"the run's files are {size:,} bytes, most of them {largest}; a ConfigMap holds {_CONFIGMAP:,}",
            "use fewer hosts" if largest.startswith("hostfile") else "make the configuration smaller",
        )


def unheeded(plan: Plan) -> Iterator[Problem]:
    """What the job file says and the run's kind has no use for: nothing ends it, or starts it again."""
    own, written = plan.cluster.kubernetes, plan.places.get("job", {})
    said = [field for field in ("walltime", "restarts") if (field,) in written]
    if own.kind == "leaderworkerset" and said:
        what = f"{' and '.join(said)}: a LeaderWorkerSet serves until it is cancelled, and is always started again"
        yield Problem(what, "`launcher cancel RUN` ends it", about=("job", said[0]))
    if own.runtime and own.trainer != "2.2" and "walltime" in said:
        what = f"walltime: a TrainJob of Trainer {own.trainer} on a runtime of the cluster has none"
        yield Problem(what, "`launcher cancel RUN` ends it", about=("job", "walltime"))
