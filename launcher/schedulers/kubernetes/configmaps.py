"""Files as ConfigMaps, and the volume that shows them in a pod: keys, paths, and how many ConfigMaps they take.

A key of a ConfigMap has no slash, so a volume's items say which path each one is. What is no text is binaryData.
https://kubernetes.io/docs/concepts/configuration/configmap/
"""

from __future__ import annotations

import base64
import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from launcher.rendering import templates

if TYPE_CHECKING:
    from collections.abc import Iterable

MOST = 2**20  # bytes of a ConfigMap, and so of a file
# Bytes of JSON of an object that `kubectl apply` keeps in an annotation, all of which together have at most 2**18
# (TotalAnnotationSizeLimitB of k8s.io/apimachinery's validation); the rest is left to the object's other fields.
_APPLIED = 240_000
_ESCAPED = str.maketrans(dict.fromkeys("<>&", "\\u003c"))  # Go's encoding/json writes these so


class ConfigMap(NamedTuple):
    """Key → text, key → base64, and the volume's own items: key, path, mode."""

    name: str
    text: dict[str, str]
    binary: dict[str, str]
    items: list[dict[str, Any]]

    @property
    def data(self) -> dict[str, templates.Code]:
        """`text` as YAML."""
        return {key: templates.block(text) for key, text in self.text.items()}


def of(name: str, files: Iterable[tuple[str, bytes, bool]]) -> list[ConfigMap]:
    """`files` (path, content, whether it is executable) in their order: NAME, NAME-2, …

    Each is small enough for `kubectl apply`, but where one file alone is not: that takes `--server-side`.
    """
    maps: list[ConfigMap] = []
    size = 0
    for number, (path, content, executable) in enumerate(files):
        text = _text(content)
        value = base64.b64encode(content).decode() if text is None else text
        more = (
            len(json.dumps(value.translate(_ESCAPED), ensure_ascii=False).encode()) + len(path.encode()) + 8
        )
        if not maps or (size + more > _APPLIED and maps[-1].items):
            maps.append(ConfigMap(name if not maps else f"{name}-{len(maps) + 1}", {}, {}, []))
            size = 0
        size += more
        key = f"{number}-{re.sub('[^A-Za-z0-9._-]', '_', path)[-200:]}"
        (maps[-1].binary if text is None else maps[-1].text)[key] = value
        maps[-1].items.append({"key": key, "path": path} | ({"mode": 0o755} if executable else {}))
    return maps


def source(maps: list[ConfigMap]) -> dict[str, Any]:
    """The volume that shows the files of `maps` in one folder."""
    sources = [{"configMap": {"name": held.name, "items": held.items}} for held in maps]
    return sources[0] if len(sources) == 1 else {"projected": {"sources": sources}}


def _text(content: bytes) -> str | None:
    """`content` as text; None for what is not UTF-8, or holds a NUL."""
    try:
        return None if b"\0" in content else content.decode("utf-8")
    except UnicodeDecodeError:
        return None
