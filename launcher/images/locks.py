"""Which packages this project's own images hold, by the locks that they are built from (docker/requirements/)."""

from __future__ import annotations

import functools
import re

from launcher import ROOT

_FOLDER = ROOT / "docker" / "requirements"


def normal(name: str) -> str:
    """A package's name as indexes compare it: https://packaging.python.org/en/latest/specifications/name-normalization/"""
    return re.sub(r"[-_.]+", "-", name).lower()


def target(image: str) -> str:
    """The target of docker/Dockerfile that makes an image of this name: train or inference; '' for another name."""
    name = re.fullmatch(r"(?:.*/)?deepspeed-(train|inference)(?::[^/]*)?", image)
    return name[1] if name else ""


@functools.cache
def packages(target: str, flavour: str) -> frozenset[str]:
    """The packages of an image of that target and flavour."""
    lock = (_FOLDER / f"{target}-{flavour}.txt").read_text(encoding="utf-8")
    return frozenset(map(normal, [*re.findall(r"^([A-Za-z0-9._-]+)==", lock, re.M), "deepspeed"]))
