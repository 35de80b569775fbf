"""What is inside a run's pods: command, environment, resources, volumes, rights.

Owns the data of a pod, the same under every kind; its text is templates/kubernetes/pod.yaml.j2, what a controller
adds is kinds.py's. Whoever reads a manifest should know: Kubernetes replaces `$(NAME)` in commands and values and
makes one `$` of two, so that every `$` of a value is written twice.
"""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

from launcher import exit_codes
from launcher.fabrics import environment as fabrics_environment
from launcher.namedtuple import NamedTuple
from launcher.planning import accelerators, own_program, ranks_environment, weights
from launcher.rendering import command, containers, templates
from launcher.schedulers.kubernetes import carried, devices, kinds, queues, security, storage, unfit
from launcher.sizing import hosts

if TYPE_CHECKING:
    from launcher.planning.plan import Plan

FOLDER = storage.FOLDER
JOB = "/job"  # the ConfigMap: hostfile, DeepSpeed configuration, plan
HOME = "/tmp"  # docker/Dockerfile
# Of a host: kubelet, system daemons and DaemonSets keep the rest, and a pod that asks for all is never placed.
# https://kubernetes.io/docs/tasks/administer-cluster/reserve-compute-resources/
_SHARE = 0.9
_LEAST_CPU = 500  # thousandths of a core that a rank asks for where the file does not say how many a host has
_MIB = 2**20
# A node that is lost for half a minute is not waited for: Kubernetes' own default is five minutes.
_LOST: list[dict[str, Any]] = [
    {
        "key": f"node.kubernetes.io/{word}",
        "operator": "Exists",
        "effect": "NoExecute",
        "tolerationSeconds": 30,
    }
    for word in ("not-ready", "unreachable")
]


class Pod(NamedTuple):
    """A pod as data. `environment` is (name, value, reason); `references` is (name, where the value comes from)."""

    container: str
    command: tuple[str, ...]
    environment: tuple[tuple[str, str, str], ...]
    references: tuple[tuple[str, dict[str, Any]], ...]
    labels: dict[str, str]
    annotations: dict[str, str]
    limits: dict[str, str]
    requests: dict[str, str]
    volumes: tuple[dict[str, Any], ...]
    mounts: tuple[dict[str, Any], ...]
    sidecars: tuple[dict[str, Any], ...]
    tolerations: list[dict[str, Any]]
    affinity: dict[str, Any]
    node_selector: dict[str, str]
    scheduler: str | None
    rights: security.Rights
    claims: tuple[dict[str, Any], ...] = ()
    spread: tuple[dict[str, Any], ...] = ()
    probe: dict[str, Any] | None = None

    @property
    def interrupted(self) -> list[int]:
        """The exit codes after which a pod is made anew without being counted."""
        return exit_codes.with_restart("free")

    @property
    def not_cured(self) -> list[int]:
        """The exit code in place of a failure's that a restart would not cure (--restarts-by-code below)."""
        return [exit_codes.BY_NAME["NOT_CURED"].code]

    @property
    def lines(self) -> list[templates.Code]:
        """The command's words as JSON, an option and its value on one line."""
        lines: list[list[str]] = [[]]
        for word in self.command:
            if word.startswith("-") and lines[-1]:
                lines.append([])
            lines[-1].append(templates.yaml(word))
        return [templates.Code(", ".join(line)) for line in lines]

    def but(self, *options: str, **changes: Any) -> Pod:
        """The same pod with more `options` of the node entry, and other changes."""
        at = self.command.index("--hostfile")
        words = (*self.command[:at], *options, *self.command[at:])
        return self._replace(command=words, **changes)


def make(plan: Plan, labels: dict[str, str], queue: queues.Queueing) -> Pod:
    """The pod that every host of the run is, but for its index."""
    cluster = plan.cluster.kubernetes
    volumes, mounts = _volumes(plan)
    limits, requests = resources(plan)
    return Pod(
        container=kinds.KINDS[cluster.kind].container,
        command=_command(plan),
        environment=_environment(plan),
        references=_references(plan),
        labels={**labels, **queue.pod_labels},
        annotations={
            **plan.fabric.annotations,
            **_scraped(plan),
            **cluster.annotations,
            **queue.pod_annotations,
        },
        limits=limits,
        requests=requests,
        volumes=(*volumes, *_sidecar_volumes(plan)),
        mounts=tuple(mounts),
        sidecars=tuple(_sidecars(plan)),
        tolerations=tolerations(plan),
        affinity=unfit.without(
            {**{str(k): v for k, v in cluster.affinity.items()}, **queue.affinity}, plan.exclude
        ),
        node_selector=cluster.node_selector,
        scheduler=cluster.scheduler or queue.scheduler,
        rights=security.rights(plan),
        claims=devices.claims(plan),
        spread=_spread(plan),
    )


def _scraped(plan: Plan) -> dict[str, str]:
    """What Prometheus's own configuration for Kubernetes looks for: prometheus-kubernetes.yml, job kubernetes-pods."""
    if not plan.cluster.metrics_port:
        return {}
    port = str(plan.cluster.metrics_port)
    return {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": port,
        "prometheus.io/path": "/metrics",
    }


def literal(value: str) -> str:
    """`value` for a command or a variable, where Kubernetes would otherwise read `$(NAME)` and `$$`.

    https://kubernetes.io/docs/tasks/inject-data-application/define-interdependent-environment-variables/
    """
    return value.replace("$", "$$")


def _command(plan: Plan) -> tuple[str, ...]:
    """The node entry and what ranks run.

    No attempt is told where the controller numbers none: an index has one pod at a time (podReplacementPolicy, or the
    kubelet's restart in place), so whatever pods are alive may meet.
    """
    run = _run(plan)
    start = ("/bin/bash", "--posix", "-c", literal('. /job/fabric.sh; exec "$@"'), "bash")
    # the run's name may hold a reference, which stays one; no value can hold the mark that stands for it
    ranks = command.ranks(plan, f"{FOLDER}/\0", f"{JOB}/ds_config.json", carried.CODE)
    python, programs = containers.program_inside(plan)
    return (
        # posix: a fabric's script that is missing ends the container, instead of starting it without its settings
        *(start if plan.fabric.script else ()),
        *(literal(word) for word in python),
        *(map(literal, _gate(plan, programs)) if plan.preflight else (f"{programs}/node.py",)),
        *("--hostfile", f"{JOB}/hostfile{run.removeprefix(plan.id)}"),
        *("--run", run, "--folder", f"{FOLDER}/{run}"),
        *("--wait", str(plan.cluster.kubernetes.wait)),
        *(("--code", carried.CODE) if plan.code else ()),
        # the shell above keeps some names for itself, and a fabric's script may set others anew
        *(("--environment", f"{JOB}/environment.json") if plan.fabric.script else ()),
        *(literal(word) for word in ranks_environment.caches(plan, plan.image)),
        *map(literal, command.options(plan, "kubernetes")),
        # a controller sees nothing but exit codes
        *(() if plan.cluster.kubernetes.kind == "leaderworkerset" else ("--restarts-by-code",)),
        "--",
        *(literal(word).replace("\0", run) for word in ranks),
    )


def _gate(plan: Plan, programs: str) -> list[str]:
    """Preflight, which becomes the node entry, and takes its options behind `--`."""
    # a capability lifts the limit of locked memory without changing it
    told = plan.fabric.memlock and security.rights(plan).unlimited
    asked = containers.preflight(plan, plan.cluster.kubernetes.floor, memlock=told, shm=shared_memory(plan))
    return [f"{programs}/preflight.py", *asked, "--"]


def _run(plan: Plan) -> str:
    """The run's id, and the number of the group where there may be several: each has its own hosts and folder."""
    return plan.id + ("-$(LWS_GROUP)" if plan.cluster.kubernetes.kind == "leaderworkerset" else "")


def _environment(plan: Plan) -> tuple[tuple[str, str, str], ...]:
    kept = weights.home(plan, FOLDER)
    return (
        *(
            [(weights.HOME, kept, "weights of the hub, fetched once onto the claim of the run folders")]
            if kept
            else []
        ),
        *((v.name, literal(v.value), v.why) for v in plan.environment),
        *((name, literal(value), "") for name, value in own_program.variables(plan, FOLDER).items()),
        ("RUN_DIR", f"{FOLDER}/{_run(plan)}", "volume of checkpoints and logs"),
        ("DEEPSPEED_CONFIG", f"{JOB}/ds_config.json", ""),
    )


def _references(plan: Plan) -> tuple[tuple[str, dict[str, Any]], ...]:
    """Variables whose value is known only in the cluster: secrets, and what the controller numbers."""
    entries: list[tuple[str, dict[str, Any]]] = [
        (s.variable, {"secretKeyRef": {"name": s.name, "key": s.key}}) for s in plan.secrets
    ]
    labels = {
        # so that hosts of a new attempt never meet those of the last one
        "jobset": ("RUN_ATTEMPT", "jobset.sigs.k8s.io/restart-attempt"),
        "trainjob": ("RUN_ATTEMPT", "jobset.sigs.k8s.io/restart-attempt"),
        "leaderworkerset": ("LWS_GROUP", "leaderworkerset.sigs.k8s.io/group-index"),
    }
    if plan.cluster.kubernetes.kind in labels:
        name, label = labels[plan.cluster.kubernetes.kind]
        entries.append((name, {"fieldRef": {"fieldPath": f"metadata.labels['{label}']"}}))
    return tuple(entries)


def resources(plan: Plan) -> tuple[dict[str, str], dict[str, str]]:
    """(limits, requests) of a pod. Devices need equal ones; CPUs have no limit, which would only slow them down."""
    cluster = plan.cluster.kubernetes
    limits = devices.counted(plan)
    if plan.gpu:
        limits = {accelerators.resource(plan.cluster): str(plan.slots)} | limits
    total = memory_limit(plan)
    if total:
        limits["memory"] = f"{total // _MIB}Mi"
    cpus = cluster.cpus or (str(max(1, int(plan.cluster.cpus * _SHARE))) if plan.cluster.cpus else None)
    # A pod without requests is evicted first, lands where there is no room, and is refused where there is a quota.
    least = {"memory": f"{-(-_least_memory(plan) // _MIB)}Mi", "cpu": cpus or f"{_LEAST_CPU * plan.slots}m"}
    return limits, limits | {name: amount for name, amount in least.items() if name not in limits}


def _least_memory(plan: Plan) -> int:
    """Bytes that the ranks take at least: what is estimated, or where nothing is, torch itself in each process."""
    processes = plan.slots * (hosts.PROCESS if plan.gpu else hosts.CPU_PROCESS)
    if plan.estimate is None:
        return processes
    estimated = plan.estimate.evaluation.memory
    return estimated.host.total if plan.gpu else processes + plan.slots * estimated.slot.total


def _spread(plan: Plan) -> tuple[dict[str, Any], ...]:
    """Hosts without GPUs on different nodes where that can be; GPUs count themselves, and are better close together."""
    if plan.gpu or plan.nodes == 1:
        return ()
    return (
        {
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": kinds.selector(plan)},
        },
    )


def memory_limit(plan: Plan) -> int | None:
    """Bytes that a pod may use, /dev/shm and other emptyDirs in memory included; None when nothing says."""
    host = plan.cluster.memory
    return plan.cluster.kubernetes.memory or (int(host * _SHARE) if host else None)


def shared_memory(plan: Plan) -> int:
    """Bytes of /dev/shm: what NCCL asks for, and as much for each rank, whose data loaders pass batches through it."""
    wanted = hosts.SHM * (1 + plan.slots)
    total = memory_limit(plan)
    return plan.cluster.kubernetes.shm or (min(wanted, total // 2) if total else wanted)


def _volumes(plan: Plan) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(volumes, volumeMounts): the job's files, /dev/shm, what may be written, run folders, the cluster's mounts."""
    claim, scratch = plan.cluster.kubernetes.runs, plan.cluster.scratch
    shm = f"{shared_memory(plan) // _MIB}Mi"
    pairs: list[tuple[dict[str, Any], dict[str, Any]]] = [
        _volume("job", JOB, {"configMap": {"name": kinds.name(plan)}}, readonly=True),
        _volume("shm", "/dev/shm", {"emptyDir": {"medium": "Memory", "sizeLimit": shm}}),
        _volume("tmp", HOME, {"emptyDir": {}}),
        *([_volume("scratch", scratch, {"emptyDir": {}})] if scratch != HOME else []),
        _volume(
            "runs", FOLDER, {"persistentVolumeClaim": {"claimName": claim}} if claim else {"emptyDir": {}}
        ),
    ]
    pairs += [_volume(own.volume, own.path, own.source, readonly=True) for own in carried.of(plan)]
    for number, mount in enumerate(plan.mounts):
        source: dict[str, Any] = (
            {"persistentVolumeClaim": {"claimName": mount.claim}}
            if mount.claim
            else {"hostPath": {"path": mount.host or mount.inside}}
        )
        pairs.append(_volume(f"mount-{number}", mount.inside, source, mount.readonly))
    for number, (host, inside, readonly) in enumerate(_fabric_paths(plan)):
        pairs.append(_volume(f"fabric-{number}", inside, {"hostPath": {"path": host}}, readonly))
    return [volume for volume, _ in pairs], [mount for _, mount in pairs]


def _volume(
    name: str, path: str, source: dict[str, Any], readonly: bool = False
) -> tuple[dict[str, Any], dict[str, Any]]:
    mount: dict[str, Any] = {"name": name, "mountPath": path}
    return {"name": name, **source}, mount | ({"readOnly": True} if readonly else {})


def _fabric_paths(plan: Plan) -> list[tuple[str, str, bool]]:
    """(host path, path inside, read only) of the fabric; devices too where no device plugin brings them."""
    devices = plan.fabric.devices if plan.fabric.privileged else ()
    return [(m.host, m.inside, m.readonly) for m in plan.fabric.mounts] + [(d, d, False) for d in devices]


def _sidecar_volumes(plan: Plan) -> list[dict[str, Any]]:
    paths = dict.fromkeys(m.host for sidecar in plan.fabric.sidecars for m in sidecar.mounts)
    return [{"name": f"sidecar-{n}", "hostPath": {"path": path}} for n, path in enumerate(paths)]


def _sidecars(plan: Plan) -> list[dict[str, Any]]:
    """The fabric's daemons: init containers that run until the pod ends, as Kubernetes 1.29 and newer have them."""
    names = {str(v["hostPath"]["path"]): str(v["name"]) for v in _sidecar_volumes(plan)}
    return [
        {
            "name": sidecar.name,
            "image": sidecar.image,
            "restartPolicy": "Always",
            "command": [literal(word) for word in sidecar.command],
            "env": [{"name": name, "value": literal(value)} for name, value in sidecar.environment],
            "securityContext": security.sidecar(sidecar.capabilities),
            "volumeMounts": [
                {"name": names[m.host], "mountPath": m.inside} | ({"readOnly": True} if m.readonly else {})
                for m in sidecar.mounts
            ],
        }
        for sidecar in plan.fabric.sidecars
    ]


def tolerations(plan: Plan) -> list[dict[str, Any]]:
    """The cluster's, and Kubernetes' own taints as far as the cluster says nothing of them."""
    given = [
        {key: value for key, value in dataclasses.asdict(toleration).items() if value is not None}
        for toleration in plan.cluster.kubernetes.tolerations
    ]
    gpu: list[dict[str, Any]] = [
        {"key": key, "operator": "Exists", "effect": "NoSchedule"}
        for key in accelerators.taints(plan.cluster)
    ]
    named = {t.get("key") for t in given}
    return given + [t for t in [*gpu, *_LOST] if t["key"] not in named]


def files(plan: Plan, facts: str) -> dict[str, str]:
    """What the ConfigMap holds: file name → text."""
    from launcher.rendering import hostfile

    kind, groups = plan.cluster.kubernetes.kind, range(plan.cluster.kubernetes.serve.replicas)
    data = (
        {f"hostfile-{g}": hostfile.text(kinds.hosts(plan, g), plan.slots) for g in groups}
        if kind == "leaderworkerset"
        else {"hostfile": hostfile.text(kinds.hosts(plan), plan.slots)}
    )
    data |= {"ds_config.json": json.dumps(plan.config, indent=1), "plan.json": facts}
    if plan.tuning:
        data[command.TRIALS] = command.trials(plan)
    if plan.fabric.script:
        data["fabric.sh"] = fabrics_environment.text((), plan.fabric.script)
        data["environment.json"] = ranks_environment.variables(plan)
    return data
