"""Kubernetes: a run as objects, in any of six kinds, applied server-side through the Python client.

Owns what a manifest consists of and in which order; its text is templates/kubernetes/. Rendering needs no cluster; what
talks to one is imported on use.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from launcher.errors import SubmitError, located
from launcher.fabrics import environment
from launcher.frozen import dataclass
from launcher.namedtuple import NamedTuple
from launcher.planning import own_program
from launcher.rendering import templates
from launcher.runs import record
from launcher.schedulers.kubernetes import carried, checks, devices, kinds, pods, queues, storage, trainer

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Callable, Iterator, Sequence

    from launcher.errors import Problem
    from launcher.planning.plan import Plan
    from launcher.runs.record import Run
    from launcher.runs.status import Selection, Status
    from launcher.runs.unpacking import Line
    from launcher.schedulers import Files
    from launcher.schedulers.kubernetes.carried import Carried
    from launcher.schedulers.kubernetes.devices import Adapters
    from launcher.schedulers.kubernetes.pods import Pod
    from launcher.schedulers.kubernetes.queues import Queueing
    from launcher.schedulers.kubernetes.trainer import Overrides

MANIFEST = "manifest.yaml"


@dataclass(frozen=True)
class Part:
    """Pods that are alike. `after`: the part that must be ready before."""

    name: str
    count: int
    pod: Pod
    after: str = ""


class Objects(NamedTuple):
    """What a template gets."""

    plan: Plan
    name: str
    labels: dict[str, str]
    annotations: dict[str, str]
    selector: dict[str, str]
    files: dict[str, str]
    queue: Queueing
    pod: Pod
    parts: tuple[Part, ...]

    @property
    def data(self) -> dict[str, templates.Code]:
        """`files` as YAML: text that people read as lines, anything else as JSON."""
        return {name: templates.block(text) for name, text in self.files.items()}

    @property
    def carried(self) -> list[Carried]:
        return carried.of(self.plan)

    @property
    def object_labels(self) -> dict[str, str]:
        return {**self.labels, **self.queue.labels}

    @property
    def object_annotations(self) -> dict[str, str]:
        return {**self.annotations, **self.queue.annotations}

    @property
    def runtime_labels(self) -> dict[str, str]:
        return {**self.labels, "trainer.kubeflow.org/framework": "torch"}

    @property
    def leader(self) -> dict[str, str]:
        """The labels of the first host of every group."""
        return {**self.selector, "leaderworkerset.sigs.k8s.io/worker-index": "0"}

    @property
    def overrides(self) -> Overrides:
        return trainer.overrides(self.plan, self.pod)

    @property
    def channel(self) -> str:
        """Of a ComputeDomain; '' for a run without one."""
        return devices.channel(self.plan) if devices.domain(self.plan) else ""

    @property
    def adapters(self) -> Adapters | None:
        return devices.adapters(self.plan)

    @property
    def left(self) -> list[str]:
        return trainer.left(self.plan)


@located
def render(plan: Plan) -> Files:
    """`manifest.yaml`, fit for `kubectl apply -f`. Raises PlanError for what Kubernetes would not take."""
    environment.require(plan.fabric, "kubernetes")
    plan = storage.settled(plan)
    cluster = plan.cluster.kubernetes
    facts = record.plan_text(plan)
    labels, annotations = _labels(plan), _annotations(plan, facts)
    queue = queues.make(plan, pods.resources(plan)[1])
    pod = pods.make(plan, labels, queue)
    files = pods.files(plan, facts)
    checks.require(plan, pod, files)
    parts = _parts(plan, pod)
    objects = Objects(
        plan=plan,
        name=kinds.name(plan),
        labels=labels,
        annotations=annotations,
        selector=kinds.selector(plan),
        files=files,
        queue=queue,
        pod=parts[0].pod,
        parts=parts,
    )
    text = templates.text(f"kubernetes/{cluster.kind}.yaml.j2", run=objects)
    if cluster.pod_patch:
        from launcher.schedulers.kubernetes import patching

        text = patching.patched(plan, text)
    return {MANIFEST: text}


def _labels(plan: Plan) -> dict[str, str]:
    """https://kubernetes.io/docs/concepts/overview/working-with-objects/common-labels/"""
    serves = plan.cluster.kubernetes.kind == "leaderworkerset"
    return {
        **plan.cluster.kubernetes.labels,
        "app.kubernetes.io/name": plan.job.name,
        "app.kubernetes.io/instance": plan.id,
        "app.kubernetes.io/component": "inference" if serves else "training",
        "app.kubernetes.io/managed-by": "launcher",
        "launcher/run": plan.id,
    }


def _annotations(plan: Plan, facts: str) -> dict[str, str]:
    """What the run was made of, so that two of them can be told apart years later."""
    provenance = {
        "launcher/image": plan.image,
        "launcher/config-hash": hashlib.sha256(facts.encode()).hexdigest()[:16],
    }
    return provenance | ({"launcher/git-commit": plan.workspace.commit} if plan.workspace.commit else {})


def _parts(plan: Plan, pod: Pod) -> tuple[Part, ...]:
    """The run's pods as the kind has them: all alike, or the first one apart."""
    cluster, rest = plan.cluster.kubernetes, plan.nodes - 1
    attempt = ("--attempt", "$(RUN_ATTEMPT)")
    if kinds.split(plan):
        # The job controller counts each part from 0: without its number, a host looks itself up in the hostfile.
        own = ("JOB_COMPLETION_INDEX", "", "counts only the workers; the hostfile gives the host's index")
        worker = pod.but(*attempt, environment=(*pod.environment, own))
        return (Part("leader", 1, pod.but(*attempt)), Part("worker", rest, worker, after="leader"))
    if cluster.kind in {"jobset", "trainjob"}:
        return (Part("node", plan.nodes, pod.but(*attempt)),)
    if cluster.kind == "mpijob":
        return _first_and_rest("Launcher", "Worker", pod.but("--node", "0"), pod, count=rest)
    if cluster.kind == "pytorchjob":
        ranked = pod.but("--node", "$(RANK)")  # the operator's RANK counts pods
        return _first_and_rest("Master", "Worker", ranked, ranked, count=rest)
    if cluster.kind == "leaderworkerset":
        serve = cluster.serve
        probe = {
            "httpGet": {"path": serve.health, "port": serve.port},
            "periodSeconds": 10,
            "failureThreshold": 3,
        }
        leader = pod._replace(probe=probe)
        return _first_and_rest("leaderTemplate", "workerTemplate", leader, pod, count=max(rest, 1))
    return (Part("node", plan.nodes, pod),)


def _first_and_rest(one: str, other: str, first: Pod, more: Pod, count: int) -> tuple[Part, ...]:
    parts = (Part(one, 1, first), Part(other, count, more))
    return parts if count else parts[:1]


def separate(files: Files) -> Files:
    """The manifest as one file an object, and a kustomization.yaml that lists them in their order."""
    objects: Files = {}
    for text in files[MANIFEST].split("\n---\n"):
        kind = next(line for line in text.splitlines() if line.startswith("kind: ")).removeprefix("kind: ")
        name = kind.lower() if f"{kind.lower()}.yaml" not in objects else f"{kind.lower()}-{len(objects)}"
        mark = "" if templates.MARK in text else f"# {templates.MARK}\n"
        objects[f"{name}.yaml"] = mark + text.rstrip("\n") + "\n"
    head = (
        f"# {templates.MARK}\napiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n"
    )
    return {**objects, "kustomization.yaml": head + "".join(f"  - {name}\n" for name in objects)}


def warnings(plan: Plan) -> list[Problem]:
    """What a person should know before the run is submitted."""
    why = "at the walltime Kubernetes ends a run for good, and has no queue to put it back into"
    found = [*storage.warnings(plan), *own_program.warnings(plan, why), *checks.unheeded(plan)]
    return [problem.at(plan.places) for problem in found]


def submit(plan: Plan, files: Files) -> str:
    """Apply the manifest server-side. Returns where the run is: namespace/kind/name, and its uid."""
    from launcher.schedulers.kubernetes import applying

    cluster = plan.cluster.kubernetes
    return applying.apply(files[MANIFEST], cluster.context, cluster.namespace)


def resume(run: Run, exclude: Sequence[str], after: Sequence[str]) -> str:
    """Apply the run's own manifest, for the first time or in place of what is left of it. Returns where it is.

    Raises SubmitError for a run whose folder ended with its pods.
    """
    from launcher.schedulers.kubernetes import applying, mirror

    del after  # Kubernetes has no dependencies
    manifest = (run.folder / MANIFEST).read_text(encoding="utf-8")
    if exclude:
        manifest = applying.avoiding(manifest, exclude)
    if not run.native_id:
        return applying.apply(manifest, run.place["context"] or None, run.place["namespace"] or None)
    if not (record.read_json(run.folder / "plan.json")["cluster"].get("kubernetes") or {}).get("runs"):
        raise SubmitError(
            f"{run.id} has no folder to resume from: it ended with its pods",
            hint="submit the job again; kubernetes.runs in the cluster file names a claim that keeps run folders",
        )
    mirror.before_deletion(run)
    return applying.replace(run, manifest)


def rehearse(plan: Plan, files: Files) -> list[str]:
    """What the API server says of the manifest, without keeping anything: a line an object.

    Raises SubmitError with its refusal.
    """
    from launcher.schedulers.kubernetes import applying

    return applying.rehearse(plan, files[MANIFEST])


def diff(plan: Plan) -> str:
    """What applying `plan` would change on its live objects, as a unified diff; '' when nothing."""
    from launcher.schedulers.kubernetes import applying

    return applying.diff(plan, render)


def status(run: Run) -> Status:
    """From the object's conditions and its pods, with the reason when they wait."""
    from launcher.schedulers.kubernetes import following

    return following.status(run)


def logs(run: Run, selection: Selection) -> Iterator[str]:
    """The pods' logs: of the pod that has the rank, or that is the host; default: the first."""
    from launcher.schedulers.kubernetes import podlogs

    return podlogs.lines(run, selection, lambda: status(run).state)


def shell(run: Run, plan: Plan, selection: Selection, terminal: bool) -> list[str]:
    """`kubectl exec` into the pod that has the rank, or that is the host. Raises RunNotFoundError without one."""
    from launcher.schedulers.kubernetes import podlogs

    del plan  # a pod has one run
    return podlogs.shell(run, selection, terminal)


def sender(
    run: Run, plan: Plan, path: str, say: Callable[[str], None]
) -> contextlib.AbstractContextManager[Line]:
    """A line to the program that sends files of the run folder, in a pod of the run or one that mounts its claim."""
    from launcher.schedulers.kubernetes import fetching

    return fetching.sender(run, plan, path, say)


def cancel(run: Run) -> None:
    """Delete the run's objects; ranks get the grace period to save. What their logs say by now is kept."""
    from launcher.schedulers.kubernetes import applying, mirror

    mirror.before_deletion(run)
    applying.cancel(run)
