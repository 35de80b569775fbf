"""How a command gets into the image: one entry a container runtime.

Owns the runtimes' command lines; what runs inside is the plan's. On Kubernetes the pod is the container.
Each entry returns the words that stand before the command inside.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from launcher.errors import PlanError, Problem
from launcher.namedtuple import NamedTuple
from launcher.planning import ranks_environment
from launcher.rendering import container_checks, devices, own_image

if TYPE_CHECKING:
    from collections.abc import Callable

    from launcher.planning.plan import Plan

LABEL = "launcher.run"  # of the containers that docker and podman start, with the run's id
CODE_INSIDE = "/opt/job"  # docker/Dockerfile
PYTHON_INSIDE = "/opt/venv/bin/python"
PATH_INSIDE = "/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Entry(NamedTuple):
    """`step`: extra words for srun; `command`: words in front of the command."""

    step: tuple[str, ...] = ()
    command: tuple[str, ...] = ()


def node_entry(runtime: str, plan: Plan, gate: bool = False) -> list[str]:
    """The words that start the node entry in `plan.image` with `runtime`, without its options.

    With `gate` preflight comes first; it takes the same options. Raises PlanError for what the runtime cannot do.
    """
    if inside(runtime) and (wrong := list(container_checks.problems(runtime, plan))):
        raise PlanError(*wrong)
    entry = RUNTIMES[runtime](plan)
    python, code = (
        program_inside(plan)
        if inside(runtime)
        else ([plan.workspace.python], f"{plan.workspace.root}/docker")
    )
    asked = preflight(plan, plan.cluster.slurm.floor, memlock=plan.fabric.memlock) if gate else []
    program = [f"{code}/preflight.py", *asked, "--"] if gate else [f"{code}/node.py"]
    return [*entry.step, *entry.command, *_profile(plan), *python, *program]


def program_inside(plan: Plan) -> tuple[list[str], str]:
    """(the words that start Python in the plan's image, the folder of this project's programs there)."""
    if own_image.python(plan):
        return own_image.start(plan), own_image.INSIDE
    return [PYTHON_INSIDE], CODE_INSIDE


# A healthy cluster's figure is for larger messages than preflight's, and a gate must not refuse a healthy one.
_FLOOR = 0.7
# Of the rate that the cluster file gives, where nobody published a figure. Preflight's messages of 1 GiB reach most of
# it between healthy hosts; TCP, or half of the adapters, does not reach half.
_FLOOR_OF_RATE = 0.5
_SHM_OF_A_RANK, _SHM_WITHOUT_GPUS = 0.25, 0.0625  # GiB


def preflight(plan: Plan, floor: float | None, *, memlock: bool, shm: int | None = None) -> list[str]:
    """What docker/preflight.py asks of each host: its options.

    `floor`: the cluster file's own figure, in GB/s; `memlock`: whether the limit of locked memory tells anything;
    `shm`: bytes of /dev/shm, where the plan decides them.
    """
    words = [f"--scratch={plan.cluster.scratch}", f"--floor={_floor(plan, floor):g}"]
    # NCCL needs about this much of /dev/shm a rank, for ranks of one host that do not reach each other directly
    words += [f"--choose={number}" for number in plan.numbers] if plan.stays else []
    each = _SHM_OF_A_RANK if plan.gpu else _SHM_WITHOUT_GPUS
    each = each if shm is None else min(each, shm / 2**30 / plan.slots / 2)
    words += [f"--shm={each:.3g}", "--disk=5"] if plan.gpu else [f"--shm={each:.3g}"] if shm else []
    return words + (["--memlock"] if memlock and plan.gpu else [])


def _floor(plan: Plan, own: float | None) -> float:
    """Bus bandwidth between hosts in GB/s below which preflight refuses them; 0: none."""
    if own is not None:
        return own
    if not plan.gpu or plan.nodes == 1:
        return 0.0
    if plan.fabric.bandwidth:
        return _FLOOR * plan.fabric.bandwidth.gb_per_s
    rate, card = plan.cluster.bandwidth, plan.cluster.card
    if not rate or not plan.fabric.memlock:  # over TCP the rate depends on the host's processors
        return 0.0
    rates = [rate / 8, *([card.link / 10**9] if card and card.link else [])]
    return _FLOOR_OF_RATE * min(rates)


def _profile(plan: Plan) -> list[str]:
    """The shell that reads a fabric's own profile where the ranks run. The node entry puts the plan's variables on top.

    posix: a profile that is missing ends the shell, instead of starting the ranks without its settings.
    """
    if not plan.fabric.script:
        return []
    return ["bash", "--posix", "-c", "\n".join([*plan.fabric.script, 'exec "$@"']), "node"]


def inside(runtime: str) -> bool:
    """Whether ranks run in the image (its Python, its copy of docker/) rather than on the host."""
    return runtime != "none"


def _none(plan: Plan) -> Entry:
    problems = []
    for moved in (mount for mount in plan.mounts if mount.host and mount.host != mount.inside):
        what = f"without a container nothing can show {moved.host} as {moved.inside}"
        hint = "use the host's path on both sides, or a container runtime"
        problems.append(Problem(what, hint, about=("cluster", "mounts", moved.inside)))
    if problems:
        raise PlanError(*problems)
    return Entry()


def _binds(plan: Plan) -> list[tuple[str, str, bool]]:
    """(host path, path inside, read only) of every mount, the run folders and the scratch disk."""
    own = [
        (plan.workspace.runs, plan.workspace.runs, False),
        (plan.cluster.scratch, plan.cluster.scratch, False),
    ]
    if own_image.python(plan):
        own.append((f"{plan.folder}/{own_image.PROGRAMS}", own_image.INSIDE, True))
    fabric = [(m.host, m.inside, m.readonly) for m in plan.fabric.mounts]
    return own + fabric + [(m.host, m.inside, m.readonly) for m in plan.mounts if m.host]


def _pyxis(plan: Plan) -> Entry:
    # A '#' separates registry and image in enroot's own syntax.
    binds = [*_binds(plan), *((path, path, False) for path in devices.paths(plan))]
    mounts = ",".join(f"{host}:{inside}{':ro' if ro else ''}" for host, inside, ro in binds)
    registry, slash, image = plan.image.partition("/")
    remote = slash and not plan.image.startswith(("/", ".")) and ("." in registry or ":" in registry)
    named = f"{registry}#{image}" if remote else plan.image
    words = (
        f"--container-image={named}",
        f"--container-mounts={mounts}",
        "--no-container-mount-home",
    )
    return Entry(step=words)


class Pull(NamedTuple):
    """An image of a registry that becomes one file, once, for all hosts and runs."""

    source: str
    file: str


def pull(plan: Plan) -> Pull | None:
    """What job.sh has to fetch before the hosts start; None where the image is a file or the runtime fetches itself."""
    if plan.cluster.slurm.container != "apptainer" or plan.image.startswith("/"):
        return None
    name = re.sub(r"[^A-Za-z0-9.-]+", "_", plan.image)
    return Pull(f"docker://{plan.image}", f"{plan.workspace.runs}/images/{name}.sif")


def _apptainer(plan: Plan) -> Entry:
    pulled = pull(plan)
    image = pulled.file if pulled else plan.image
    words = ["apptainer", "exec", "--no-home", *devices.options("apptainer", plan)]
    for host, inside, ro in _binds(plan):
        words += ["--bind", f"{host}:{inside}{':ro' if ro else ''}"]
    return Entry(command=(*words, image))


def _engine(engine: str) -> Callable[[Plan], Entry]:
    def enter(plan: Plan) -> Entry:
        # host network: the ranks of several hosts meet on the host's own addresses
        words = [engine, "run", "--rm", "--network=host", "--ipc=host"]
        # what pins memory for GPUs and their networks; who may not raise the limit can still run without them
        words += ["--ulimit=memlock=-1"] if plan.gpu else []
        words += [f"--label={LABEL}={plan.id}", *devices.options(engine, plan)]
        words += [f"--device={device}" for device in plan.fabric.devices]
        for host, inside, ro in _binds(plan):
            words += ["--mount", f"type=bind,source={host},target={inside}" + (",readonly" if ro else "")]
        for number in range(len(plan.secrets)):  # without a value, so that none shows in a process list
            words += ["--env", f"{ranks_environment.CARRIER}{number}"]
        return Entry(command=(*words, plan.image))

    return enter


def _oci(plan: Plan) -> Entry:
    # job.sh writes this run's bundle: the image's root file system with the run's mounts
    return Entry(step=(f"--container={plan.folder}/bundle",), command=_environment(plan))


def _charliecloud(plan: Plan) -> Entry:
    # an image's ENV is not applied; ch-run binds only onto folders that exist, so a run gets an overlay in memory
    words = ["ch-run", "--write-fake", "--unset-env=LD_PRELOAD"]
    for host, inside, _ in _binds(plan):
        words.append(f"--bind={host}:{inside}")
    return Entry(command=(*words, plan.image, "--", *_environment(plan)))


def _environment(plan: Plan) -> tuple[str, ...]:
    """`env` with what the image's ENV has: these runtimes give the ranks the host's environment instead."""
    return ("env", f"PATH={PATH_INSIDE}", f"PYTHONPATH={program_inside(plan)[1]}")


def bundle(plan: Plan) -> str:
    """config.json of an OCI bundle on the root file system of `plan.image`, an unpacked bundle's folder.

    Slurm itself puts the step's command and environment into it: https://slurm.schedmd.com/containers.html
    """
    mounts: list[dict[str, Any]] = [{"destination": "/proc", "type": "proc", "source": "proc"}]
    # The host's own /dev and /sys: GPUs, RDMA devices and /dev/shm. No network namespace: ranks meet on the
    # host's addresses, which also need its names.
    same = ["/dev", "/sys", "/etc/hosts", "/etc/resolv.conf"]
    binds = [(path, path, path.startswith("/etc")) for path in same] + _binds(plan)
    for host, inside, readonly in binds:
        options = ["rbind", "ro" if readonly else "rw"]
        mounts.append({"destination": inside, "type": "bind", "source": host, "options": options})
    bundle = {
        "ociVersion": "1.0.2",
        "process": {"terminal": False, "cwd": "/", "args": ["true"], "env": [], "user": {"uid": 0, "gid": 0}},
        "root": {"path": f"{plan.image}/rootfs", "readonly": False},
        "mounts": mounts,
        "linux": {"namespaces": [{"type": "mount"}]},
    }
    return json.dumps(bundle, indent=1)


RUNTIMES: dict[str, Callable[[Plan], Entry]] = {
    "none": _none,
    "pyxis": _pyxis,
    "apptainer": _apptainer,
    "oci": _oci,
    "charliecloud": _charliecloud,
    "docker": _engine("docker"),
    "podman": _engine("podman"),
}
