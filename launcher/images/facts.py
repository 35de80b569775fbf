"""What an image holds: its flavour, its ops and the GPUs they run on, the CPUs it needs.

Owns the two forms of these facts: image.json, which docker/imagebuild/verify.py writes, and an image's labels. What
they mean for a job is planning.image_check's; labels are fetched by registry.py.

    NAME.yaml, NAME.image.json   a cluster file and the facts of its image: `make -s image-facts > NAME.image.json`
"""

from __future__ import annotations

import functools
import json
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from launcher import ROOT
from launcher.errors import Place, Problem, SpecError
from launcher.images import locks

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Capability = tuple[int, int]


class Op(NamedTuple):
    """One op's GPU code: machine code and PTX by compute capability. `gpu`: whether it has kernels at all."""

    sass: tuple[Capability, ...] = ()
    ptx: tuple[Capability, ...] = ()
    gpu: bool = True

    def runs_on(self, gpu: Capability) -> bool:
        """Machine code runs within its major version, from its minor version on; PTX on everything newer.

        https://docs.nvidia.com/cuda/cuda-c-programming-guide/#binary-compatibility
        """
        return (
            not self.gpu
            or any(major == gpu[0] and minor <= gpu[1] for major, minor in self.sass)
            or any(code <= gpu for code in self.ptx)
        )


_MOST = 2**20  # characters of an image.json; what is cut is no JSON


# What image.json and the labels give the versions of.
VERSIONED = ("cuda", "deepspeed", "nccl", "python", "torch")


class Facts(NamedTuple):
    """What an image holds. `source`: where that was read; `versions`: of VERSIONED, those that are known."""

    source: str
    flavour: str
    cuda: str
    ops: Mapping[str, Op]
    level: str
    compiler: bool
    revision: str
    versions: Mapping[str, str] = MappingProxyType({})
    # names as pip writes them, in lower case with dashes; None: not said
    packages: frozenset[str] | None = None


def beside(cluster: Path, source: str) -> Facts | None:
    """The facts beside the cluster file `cluster`, None where there are none. `source`: the file's name in messages.

    Raises SpecError when they cannot be read.
    """
    path, name = cluster.with_suffix(".image.json"), f"{source.rpartition('.')[0]}.image.json"
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(_MOST)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        what = getattr(error, "strerror", None) or "this is not text"
        raise SpecError(Problem(what, "`make image-facts` prints it", Place(name))) from None
    return parse(text, name)


def parse(text: str, source: str) -> Facts:
    """The facts of an image.json. Raises SpecError when `text` is none."""
    try:
        data = json.loads(text)
        ops = {
            name: _op(name, _capabilities(op["architectures"]), _capabilities(op["ptx"]))
            for name, op in data["ops"].items()
        }
        return Facts(
            source=source,
            flavour=str(data["flavour"]),
            cuda=str(data["cuda"]),
            ops=ops,
            level=str(data["cpu_level"]),
            compiler=data["compiler"] is True,
            revision=str(data.get("revision", "")),
            versions={name: str(data[name]) for name in VERSIONED if data.get(name)},
            packages=frozenset(map(locks.normal, data["packages"])) if "packages" in data else None,
        )
    except json.JSONDecodeError as error:
        place = Place(source, error.lineno, error.colno)
        raise SpecError(Problem(f"not JSON: {error.msg}", "`make image-facts` prints it", place)) from None
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError):
        what = "these are not the facts of an image"
        raise SpecError(Problem(what, "`make image-facts` prints them", Place(source, 1, 1))) from None


def from_labels(labels: Mapping[str, str], source: str) -> Facts | None:
    """The facts that an image's labels give, None for an image of someone else's (docker/README.md has their names)."""
    ours = {name.removeprefix("deepspeed-job."): value for name, value in labels.items()}
    names = ours.get("ops", "").split()
    if not names or "flavour" not in ours:
        return None
    listed = [word for word in ours.get("architectures", "").split(";") if word]
    try:
        sass = _capabilities([word.removesuffix("+PTX") for word in listed])
        ptx = _capabilities([word.removesuffix("+PTX") for word in listed if word.endswith("+PTX")])
        ops = {name: _op(name, sass, ptx) for name in names}
    except ValueError:
        return None
    return Facts(
        source=source,
        flavour=ours["flavour"],
        cuda=ours.get("cuda", ""),
        ops=ops,
        level=ours.get("cpu-level", ""),
        compiler=ours.get("compiler") == "yes",
        revision=labels.get("org.opencontainers.image.revision", ""),
        versions={name: ours[name] for name in VERSIONED if ours.get(name)},
    )


def _capabilities(words: list[str]) -> tuple[Capability, ...]:
    return tuple((int(major), int(minor)) for major, _, minor in (word.partition(".") for word in words))


def _op(name: str, sass: tuple[Capability, ...], ptx: tuple[Capability, ...]) -> Op:
    """The op `name` in an image that is compiled for these; precompiled kernels run only where they exist."""
    entry = catalogue().get(name, {"gpu": bool(sass or ptx)})
    if not entry.get("gpu"):
        return Op(gpu=False)
    only = entry.get("architectures")
    return Op(sass, ptx) if only is None else Op(tuple(s for s in sass if s in _capabilities(only)))


def catalogue() -> dict[str, Any]:
    """DeepSpeed's ops by the name that DS_BUILD_… gives them (docker/ops.json)."""
    ops: dict[str, Any] = _ops()["ops"]
    return ops


def refused() -> dict[str, str]:
    """The ops that cannot be built, each with why."""
    reasons: dict[str, str] = _ops()["refused"]
    return reasons


@functools.cache
def _ops() -> dict[str, Any]:
    tables: dict[str, Any] = json.loads((ROOT / "docker" / "ops.json").read_text(encoding="utf-8"))
    return tables
