"""A job file with some of its fields changed, and all else as it was written: comments, order, quotes.

Owns the change of a text; the fields are planning's to choose.
"""

from __future__ import annotations

import io
import posixpath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_WIDTH = 4096  # no line that was written is folded


def changed(text: str, changes: Mapping[tuple[str, ...], Any], moved_from: str = "") -> str:
    """The YAML `text`, of a valid job, with `changes`: key path → value. A null takes its key out.

    A value that stands for a mapping (`deepspeed: zero2` for `{preset: zero2}`) becomes one where it must. `moved_from`
    is the folder of the file that had the text, where the new one is for another: paths that start there are written
    whole. Raises ValueError for a text that is no mapping.
    """
    from ruamel.yaml.error import YAMLError

    from launcher.files import dialect

    yaml = dialect.round_trip()
    yaml.width = _WIDTH
    try:
        data = yaml.load(text)
    except YAMLError as error:
        raise ValueError(str(error).partition("\n")[0]) from None
    if not isinstance(data, dict):
        raise ValueError("it is no mapping")
    for path, value in changes.items():
        _set(data, path, value)
    _shorten(data)
    if moved_from:
        _written_whole(data, moved_from)
    out = io.StringIO()
    yaml.dump(data, out)
    return out.getvalue()


def _set(data: Any, path: tuple[str, ...], value: Any) -> None:
    from ruamel.yaml.comments import CommentedMap

    *above, last = path
    for key in above:
        inner = data.get(key)
        if not isinstance(inner, dict):
            made = CommentedMap({"preset": inner} if key == "deepspeed" and inner is not None else {})
            made.fa.set_flow_style()
            data[key] = made
        data = data[key]
    if value is None:
        data.pop(last, None)
    elif data.get(last) != value or isinstance(data.get(last), bool) != isinstance(value, bool):
        data[last] = value


def _written_whole(data: Any, folder: str) -> None:
    """Make paths absolute that start at the job file's folder: a cluster file, and the code that travels."""
    cluster, code = data.get("cluster"), data.get("code")
    if isinstance(cluster, str) and (cluster.endswith((".yaml", ".yml")) or "/" in cluster):
        data["cluster"] = posixpath.normpath(posixpath.join(folder, cluster))
    if isinstance(code, str) and code != "none" and not code.startswith("~"):
        data["code"] = posixpath.normpath(posixpath.join(folder, code))


def _shorten(data: Any) -> None:
    """Write a preset alone as it is usually written."""
    given = data.get("deepspeed")
    if isinstance(given, dict) and set(given) == {"preset"}:
        data["deepspeed"] = given["preset"]
