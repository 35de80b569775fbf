"""What a run brings into its pods as ConfigMaps: the user's own code, and the programs that a foreign image lacks."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING, Any, NamedTuple

from launcher.errors import Problem
from launcher.planning import code_files
from launcher.rendering import own_image
from launcher.schedulers.kubernetes import configmaps, kinds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.planning.code import Code
    from launcher.planning.plan import Plan
    from launcher.schedulers.kubernetes.configmaps import ConfigMap

CODE = "/code"  # where the user's code is in a pod
_MOST_PATHS = 2000  # each is an entry of the pod, which is one object of the API server as well


class Carried(NamedTuple):
    """Files as ConfigMaps, and where they are in a pod."""

    volume: str
    path: str
    why: str
    maps: list[ConfigMap]

    @property
    def source(self) -> dict[str, Any]:
        """The volume's source."""
        return configmaps.source(self.maps)


def of(plan: Plan) -> list[Carried]:
    """What a run has beside its own ConfigMap; nothing where the image has all and the user has no code."""
    carried = []
    if plan.code and not list(problems(plan)):
        why = f"The code in {plan.code.root}, as it was at submission."
        files = ((f.path, f.content or b"", f.executable) for f in plan.code.files if not f.link)
        maps = configmaps.of(f"{kinds.name(plan)}-code", files)
        _link(plan.code, maps)
        carried.append(Carried("code", CODE, why, maps))
    if own_image.carries(plan, "kubernetes"):
        why = "The node entry, which the image's own Python runs."
        programs = ((path, content, False) for path, content in own_image.needed(plan))
        maps = configmaps.of(f"{kinds.name(plan)}-programs", programs)
        carried.append(Carried("programs", own_image.INSIDE, why, maps))
    return carried


def _paths(code: Code) -> dict[str, str]:
    """Path in the pod → the file that is there. A ConfigMap has no links: what they lead to is there once more.

    Links may lead to others, so this goes on until nothing is added, or there are more than a pod takes.
    """
    links = {
        file.path: posixpath.normpath(posixpath.join(posixpath.dirname(file.path), file.link))
        for file in code.files
        if file.link
    }
    paths = latest = {file.path: file.path for file in code.files if not file.link}
    while latest and len(paths) <= _MOST_PATHS:
        added = {
            posixpath.normpath(f"{link}/{posixpath.relpath(path, target)}"): source
            for link, target in links.items()
            for path, source in latest.items()
            if _below(path, target) and not _below(path, link)  # of a link to a folder above itself one level
        }
        latest = {path: source for path, source in added.items() if path not in paths}
        paths = {**paths, **latest}
    return paths


def _below(path: str, folder: str) -> bool:
    return folder == "." or f"{path}/".startswith(f"{folder}/")


def _link(code: Code, maps: list[ConfigMap]) -> None:
    """Name the same keys once more, at the paths that links give them."""
    held = {item["path"]: (items, item) for _, _, _, items in maps for item in items}
    for path, file in _paths(code).items():
        if path not in held:
            items, item = held[file]
            items.append({**item, "path": path})


def problems(plan: Plan) -> Iterator[Problem]:
    """Why the user's code does not fit into ConfigMaps."""
    code, about = plan.code, ("job", "code" if plan.job.code else "workload")
    if code is None:
        return
    hint = (
        "let .gitignore name what is no code, or `code: FOLDER` a part of it; or put it into the image or onto a claim "
        "of `mounts:`, and write `code: none` and the workload's path there"
    )
    linked = any(file.link for file in code.files)
    size = sum(len(file.path.encode("utf-8", "surrogateescape")) + file.size for file in code.files)
    if size > code_files.SMALL:
        what = f"the code in {code.root} has {size:,} bytes, and a run may bring {code_files.SMALL:,}; the largest: "
        yield Problem(what + code.largest(), hint, about=about)
    elif len(_paths(code)) > _MOST_PATHS:
        count = f"{len(code.files):,} files, and links to them" if linked else f"{len(code.files):,} files"
        what = f"the code in {code.root} has {count}, and a pod takes {_MOST_PATHS:,} of them"
        yield Problem(what, hint, about=about)
    for file in code.files:
        if file.size > configmaps.MOST:
            what = f"the code's file {file.path} has {file.size:,} bytes, and a ConfigMap holds {configmaps.MOST:,}"
            yield Problem(what, hint, about=about)
        if not file.path.isprintable() or file.path.startswith(".."):  # a surrogate is not printable either
            what = f"the code's file {file.path!r}: Kubernetes takes no such name"
            yield Problem(what, "rename it, or let .gitignore name it", about=about)
