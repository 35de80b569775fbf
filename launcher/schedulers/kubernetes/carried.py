"""What a run brings into its pods as ConfigMaps: the user's own code, and the programs that a foreign image lacks.

Owns keys and paths: a key of a ConfigMap has no slash, so a volume's items say which path each one is. What is no text
is binaryData. https://kubernetes.io/docs/concepts/configuration/configmap/
"""

from __future__ import annotations

import base64
import posixpath
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from launcher.errors import Problem
from launcher.rendering import own_image, templates
from launcher.schedulers.kubernetes import kinds

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from launcher.planning.code import Code
    from launcher.planning.plan import Plan

CODE = "/code"  # where the user's code is in a pod
_MOST = 2**20  # bytes of a ConfigMap
_MOST_PATHS = 2000  # each is an entry of the pod, which is one object of the API server as well


class Carried(NamedTuple):
    """A ConfigMap and where it is in a pod. `items` are the volume's own: key, path, mode."""

    name: str
    volume: str
    path: str
    why: str
    text: dict[str, str]
    binary: dict[str, str]
    items: list[dict[str, Any]]

    @property
    def data(self) -> dict[str, templates.Code]:
        """`text` as YAML."""
        return {key: templates.block(text) for key, text in self.text.items()}

    @property
    def source(self) -> dict[str, Any]:
        """The volume's source."""
        return {"configMap": {"name": self.name, "items": self.items}}


def of(plan: Plan) -> list[Carried]:
    """The ConfigMaps of a run beside its own one; none where the image has all and the user has no code."""
    carried = []
    if plan.code and not list(problems(plan)):
        why = f"The code in {plan.code.root}, as it was at submission."
        own = Carried(f"{kinds.name(plan)}-code", "code", CODE, why=why, text={}, binary={}, items=[])
        files = ((f.path, f.content or b"", f.executable) for f in plan.code.files if not f.link)
        carried.append(_filled(own, files))
        own.items.extend(_linked(plan.code, own.items))
    if own_image.carries(plan, "kubernetes"):
        why, name = "The node entry, which the image's own Python runs.", f"{kinds.name(plan)}-programs"
        own = Carried(name, "programs", own_image.INSIDE, why=why, text={}, binary={}, items=[])
        carried.append(_filled(own, ((path, content, False) for path, content in own_image.needed(plan))))
    return carried


def _filled(own: Carried, files: Iterable[tuple[str, bytes, bool]]) -> Carried:
    """`own` with a key and an item for each of `files`: path, content, whether it is executable."""
    for number, (name, content, executable) in enumerate(files):
        key = f"{number}-{re.sub('[^A-Za-z0-9._-]', '_', name)[-200:]}"
        text = _text(content)
        if text is None:
            own.binary[key] = base64.b64encode(content).decode()
        else:
            own.text[key] = text
        own.items.append({"key": key, "path": name} | ({"mode": 0o755} if executable else {}))
    return own


def _text(content: bytes) -> str | None:
    """`content` as text; None for what is not UTF-8, or holds a NUL."""
    try:
        return None if b"\0" in content else content.decode("utf-8")
    except UnicodeDecodeError:
        return None


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


def _linked(code: Code, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same keys once more, at the paths that links give them."""
    held = {item["path"]: item for item in items}
    return [{**held[file], "path": path} for path, file in _paths(code).items() if path not in held]


def problems(plan: Plan) -> Iterator[Problem]:
    """Why the user's code does not fit into a ConfigMap."""
    code, about = plan.code, ("job", "code" if plan.job.code else "workload")
    if code is None:
        return
    hint = (
        "let .gitignore name what is no code, or `code: FOLDER` a part of it; or put it into the image or onto a claim "
        "of `mounts:`, and write `code: none` and the workload's path there"
    )
    linked = any(file.link for file in code.files)
    size = sum(len(file.path.encode("utf-8", "surrogateescape")) + file.size for file in code.files)
    if size > _MOST:
        what = f"the code in {code.root} has {size:,} bytes, and a ConfigMap holds {_MOST:,}; the largest: "
        yield Problem(what + code.largest(), hint, about=about)
    elif len(_paths(code)) > _MOST_PATHS:
        count = f"{len(code.files):,} files, and links to them" if linked else f"{len(code.files):,} files"
        what = f"the code in {code.root} has {count}, and a pod takes {_MOST_PATHS:,} of them"
        yield Problem(what, hint, about=about)
    for file in code.files:
        if not file.path.isprintable() or file.path.startswith(".."):  # a surrogate is not printable either
            what = f"the code's file {file.path!r}: Kubernetes takes no such name"
            yield Problem(what, "rename it, or let .gitignore name it", about=about)
