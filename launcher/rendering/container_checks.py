"""What a container runtime would refuse, or read as something else: names of images, and what is mounted where.

Owns the checks; the runtimes' command lines are containers.py's, and a pod's are the Kubernetes package's.
"""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING

from launcher import workloads
from launcher.errors import Problem, shown
from launcher.images import names
from launcher.planning import tiers
from launcher.rendering import own_image

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.planning.plan import Plan

# enroot's own ways to name an image: https://github.com/NVIDIA/enroot/blob/main/doc/cmd/import.md
_ENROOT = re.compile(r"(?:docker|dockerd|podman)://(?:[A-Za-z0-9._-]+@)?")
_UNPACKED = ("oci", "charliecloud")
_PROGRAMS = "an image that is not this project's gets the node entry (image_python)"
_OWN = {"/opt/job": "the image's programs", "/opt/venv": "the image's Python"}


def problems(runtime: str, plan: Plan) -> Iterator[Problem]:
    """Why ranks of `plan` cannot run in a container of `runtime`."""
    script = plan.job.workload
    yield from python(plan, "leave out `python:` or the container")
    own = workloads.is_script(script) and plan.job.command is None
    if own and not (plan.code or plan.code_problem) and not script.startswith("/"):
        hint = "write its absolute path, and mount its folder (`mounts:` of the cluster file)"
        what = f"workload {shown(script)}: a container does not start in this folder"
        yield Problem(what, hint, about=("job", "workload"))
    if plan.fabric.bare:
        what = f"fabric {plan.fabric.name!r} has a path with the job's number, which no container can mount"
        yield Problem(what, "run without a container (slurm.container: none)", about=("cluster", "fabric"))
    yield from _image(runtime, plan.image, plan.cluster.image)
    yield from _mounts(plan)
    brought = [plan.workspace.runs, plan.cluster.scratch, *(mount.inside for mount in plan.mounts)]
    yield from tiers.unmounted(plan, brought)
    if runtime != "oci" and (split := set(plan.workspace.runs) & set(":,\n\"'\\")):
        hint = "set LAUNCHER_RUNS to a folder without it"
        characters = " and ".join(sorted(map(repr, split)))
        yield Problem(
            f"the folder of runs, {plan.workspace.runs}: {runtime} splits a mount at {characters}", hint
        )


def python(plan: Plan, hint: str) -> Iterator[Problem]:
    """A Python of the hosts, where ranks run in the image."""
    if plan.cluster.python:
        what = f"python {shown(plan.cluster.python)}: in a container ranks have the image's own"
        yield Problem(what, hint, about=("cluster", "python"))


def _image(runtime: str, image: str, written: str) -> Iterator[Problem]:
    """`image` is `written` with the tag that a plan adds."""
    about, is_path = ("cluster", "image"), image.startswith("/")
    registry = "registry.example.com/name:tag, in lower case"
    if runtime in _UNPACKED:
        if not is_path or image.endswith((".sqsh", ".sif")):
            hint = "name the folder that it is unpacked in, by its absolute path"
            yield Problem(f"image {shown(written)}: {runtime} takes an unpacked image", hint, about=about)
    elif runtime in ("docker", "podman"):
        if not names.is_reference(image):
            what = f"image {shown(written)} is not the name of an image of {runtime}"
            yield Problem(what, f"write {registry}", about=about)
    elif not (is_path or names.is_reference(_plain(runtime, image))):
        what = f"image {shown(written)} is neither the name of an image nor an absolute path"
        yield Problem(what, f"write {registry}, or the path of a file", about=about)
    elif not image.startswith(("/", "./")) and image.endswith((".sqsh", ".sif")):
        what = f"image {shown(written)}: {runtime} takes this for the name of a registry's image"
        yield Problem(what, "write the file's absolute path", about=about)


def _plain(runtime: str, image: str) -> str:
    """The image's name without what pyxis alone takes: a scheme, `./` before a file, and `#` after the registry."""
    if runtime != "pyxis":
        return image
    return _ENROOT.sub("", image).removeprefix("./").replace("#", "/", 1)


def _mounts(plan: Plan) -> Iterator[Problem]:
    used = {
        normal(plan.workspace.runs): "the run folders",
        normal(plan.cluster.scratch): "`scratch`",
        **{normal(mount.inside): "a path of the fabric" for mount in plan.fabric.mounts},
    }
    for path, what in used.items():
        if own_image.python(plan) and within(path, own_image.INSIDE):
            about: tuple[str, ...] = ("cluster", "scratch") if what == "`scratch`" else ()
            yield Problem(
                f"{path}: {what} cannot be there, where {_PROGRAMS}", "choose another folder", about=about
            )
    for mount in plan.mounts:
        path, about = normal(mount.inside), ("cluster", "mounts", mount.inside)
        if what := hidden(path):
            yield Problem(f"a mount on {path} would hide {what}", "use another path inside", about=about)
        elif own_image.python(plan) and within(path, own_image.INSIDE):
            yield Problem(f"{path} is where {_PROGRAMS}", "use another path inside", about=about)
        elif path in used:
            what = f"{path} is mounted twice, as {used[path]} and as {mount.inside}"
            yield Problem(what, "use another path inside, or leave it out", about=about)
        used[path] = "a mount of the cluster"


def hidden(path: str) -> str:
    """What of an image would be hidden by a mount on `path`; empty when nothing is."""
    if path == "/":
        return "the image"
    return next((what for own, what in _OWN.items() if f"{own}/".startswith(f"{path}/")), "")


def within(path: str, folder: str) -> bool:
    """Whether `path` is `folder` or lies below it."""
    return f"{path}/".startswith(f"{folder}/")


def normal(path: str) -> str:
    """An absolute path in the one form that equal paths share."""
    return "/" + posixpath.normpath(path).lstrip("/")
