"""How a command gets into the image: one entry a container runtime.

Owns the runtimes' command lines; what runs inside is the plan's. On Kubernetes the pod is the container.
Each entry returns the words that stand before the command inside.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from launcher.errors import PlanError, Problem

if TYPE_CHECKING:
    from collections.abc import Callable

    from launcher.plan import Plan

CODE_INSIDE = "/opt/job"  # docker/Dockerfile
PYTHON_INSIDE = "/opt/venv/bin/python"


@dataclass(frozen=True)
class Entry:
    """`step`: extra words for srun; `command`: words in front of the command."""

    step: tuple[str, ...] = ()
    command: tuple[str, ...] = ()


def node_entry(runtime: str, plan: Plan) -> list[str]:
    """The words that start the node entry in `plan.image` with `runtime`, without its options.

    Raises PlanError when a mount cannot be had.
    """
    entry = RUNTIMES[runtime](plan)
    python, code = (PYTHON_INSIDE, CODE_INSIDE) if inside(runtime) else (plan.site.python, f"{plan.site.root}/docker")
    return [*entry.step, *entry.command, *_profile(plan), python, f"{code}/node.py"]


def _profile(plan: Plan) -> list[str]:
    """The shell that reads a fabric's own profile where the ranks run, with the plan's variables on top."""
    if not plan.fabric.script:
        return []
    exports = [f"export {v.name}={shlex.quote(v.value)}" for v in plan.environment]
    return ["bash", "-c", "\n".join([*plan.fabric.script, *exports, 'exec "$@"']), "node"]


def inside(runtime: str) -> bool:
    """Whether ranks run in the image (its Python, its copy of docker/) rather than on the host."""
    return runtime != "none"


def names(plan: Plan) -> list[str]:
    """Every variable that the launcher sets for the ranks, secrets too."""
    own = ["RUN_DIR", "DEEPSPEED_CONFIG"]
    return [v.name for v in plan.environment] + own + [s.variable for s in plan.secrets]


def _none(plan: Plan) -> Entry:
    moved = [m for m in plan.mounts if m.host and m.host != m.inside]
    if moved:
        raise PlanError(
            *(
                Problem(
                    f"without a container nothing can show {m.host} as {m.inside}",
                    "use the host's path on both sides, or a container runtime",
                )
                for m in moved
            )
        )
    return Entry()


def _binds(plan: Plan) -> list[tuple[str, str, bool]]:
    """(host path, path inside, read only) of every mount, the run folders and the scratch disk."""
    own = [(plan.site.runs, plan.site.runs, False), (plan.cluster.scratch, plan.cluster.scratch, False)]
    fabric = [(m.host, m.inside, m.readonly) for m in plan.fabric.mounts]
    return own + fabric + [(m.host, m.inside, m.readonly) for m in plan.mounts if m.host]


def _pyxis(plan: Plan) -> Entry:
    # The image's ENV wins over the job's for every variable that --container-env does not name:
    # https://github.com/NVIDIA/pyxis/issues/124. A '#' separates registry and image in enroot's own syntax.
    mounts = ",".join(f"{host}:{inside}{':ro' if ro else ''}" for host, inside, ro in _binds(plan))
    registry, slash, image = plan.image.partition("/")
    remote = slash and not plan.image.startswith(("/", ".")) and ("." in registry or ":" in registry)
    named = f"{registry}#{image}" if remote else plan.image
    words = (
        f"--container-image={named}",
        f"--container-mounts={mounts}",
        "--no-container-mount-home",
        f"--container-env={','.join([*names(plan), 'SLURM_NODEID'])}",
    )
    return Entry(step=words)


def _apptainer(plan: Plan) -> Entry:
    image = plan.image if plan.image.startswith("/") else f"docker://{plan.image}"
    words = ["apptainer", "exec", "--no-home", *(["--nv"] if plan.gpu else [])]
    for host, inside, ro in _binds(plan):
        words += ["--bind", f"{host}:{inside}{':ro' if ro else ''}"]
    return Entry(command=(*words, image))


def _engine(engine: str) -> Callable[[Plan], Entry]:
    def enter(plan: Plan) -> Entry:
        # host network: the ranks of several hosts meet on the host's own addresses;
        # --env NAME without a value passes it on, so no value shows in a process list
        words = [engine, "run", "--rm", "--network=host", "--ipc=host", "--ulimit=memlock=-1"]
        words += ["--gpus=all"] if plan.gpu and engine == "docker" else []
        words += ["--device=nvidia.com/gpu=all"] if plan.gpu and engine == "podman" else []
        words += [f"--device={device}" for device in plan.fabric.devices]
        for host, inside, ro in _binds(plan):
            words += ["--mount", f"type=bind,source={host},target={inside}" + (",readonly" if ro else "")]
        for name in names(plan):
            words += ["--env", name]
        return Entry(command=(*words, plan.image))

    return enter


RUNTIMES: dict[str, Callable[[Plan], Entry]] = {
    "none": _none,
    "pyxis": _pyxis,
    "apptainer": _apptainer,
    "docker": _engine("docker"),
    "podman": _engine("podman"),
}
