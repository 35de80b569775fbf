"""Whether a foreign image has a Python that can run the node entry, where that can be seen before a submission.

Owns the two places where it can: the files of an unpacked image, and the ENV that a registry tells. What neither shows
is found by the image's own shell, before the ranks start (rendering/own_image.py).
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.errors import Problem
from launcher.images import registry
from launcher.rendering import containers, own_image

if TYPE_CHECKING:
    from launcher.planning.plan import Plan

_VERSION = re.compile(r"([0-9]{1,3})\.([0-9]{1,3})")
_MOST_LINKS = 40  # as Linux has it


def problem(plan: Plan, scheduler: str, ask: bool) -> Problem | None:
    """Why the image cannot start the node entry; None where it can, or where that is not seen from here.

    With `ask` a registry may be asked.
    """
    if not own_image.carries(plan, scheduler):
        return None
    runtime, python = plan.runtime(scheduler), own_image.python(plan)
    if runtime in ("oci", "charliecloud"):
        return _in_folder(plan, Path(plan.image, "rootfs" if runtime == "oci" else ""), python)
    # Docker's official Python images name their own version so, and no other Python is on their PATH.
    version = registry.variables(plan.image).get("PYTHON_VERSION", "") if ask and python == "python3" else ""
    return _too_old(plan, version)


def _too_old(plan: Plan, name: str) -> Problem | None:
    version = _VERSION.search(name)
    if not version or (int(version[1]), int(version[2])) >= own_image.OLDEST:
        return None
    oldest = ".".join(map(str, own_image.OLDEST))
    return Problem(
        f"image {plan.image} has Python {version[0]}, and the node entry needs {oldest} or newer",
        "install a newer one beside it, and name it: `image_python: PATH`",
        about=("cluster", "image_python" if plan.cluster.image_python else "image"),
    )


def _in_folder(plan: Plan, root: Path, python: str) -> Problem | None:
    if not root.is_dir():  # an image of the hosts' own disks
        return None
    names = [python] if "/" in python else [f"{f}/{python}" for f in containers.PATH_INSIDE.split(":")]
    for name in names:
        if path := _followed(root, name):
            return _too_old(plan, path.name)
    if any(name.startswith(f"{mount.inside}/") for name in names for mount in plan.mounts):
        return None
    return Problem(
        f"image {plan.image} has no {python}",
        "name the path of its Python: `image_python: PATH`",
        about=("cluster", "image_python" if plan.cluster.image_python else "image"),
    )


def _followed(root: Path, name: str) -> Path | None:
    """The file that `name` is in a root file system, whose links start at `root`; None where there is none."""
    waiting, seen, links = [p for p in reversed(name.split("/")) if p], Path("/"), 0
    while waiting:
        step = Path(os.path.normpath(seen / waiting.pop()))
        here = root / step.relative_to("/")
        try:
            if not here.is_symlink():
                seen = step
                continue
            target = str(here.readlink())
        except OSError:
            return None
        links += 1
        if links > _MOST_LINKS:
            return None
        seen = Path("/") if target.startswith("/") else seen
        waiting += [p for p in reversed(target.split("/")) if p]
    there = root / seen.relative_to("/")
    return there if there.is_file() else None
