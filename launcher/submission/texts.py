"""The text of a job's `args.data` as far as this machine can see it: files, and how much text is in them.

Owns the rules for files, which are those of docker/workloads/sources.py, and the guess for compressed ones.
"""

from __future__ import annotations

import contextlib
import glob
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.runs import locked_data

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.planning.plan import Plan

# Bytes of text in a byte of a file, about: zstd and gzip of English, and Parquet's own compression.
_PACKED = {".gz": 3.0, ".zst": 3.5, ".parquet": 2.0}
_SUFFIXES = (".txt", ".md", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet", ".arrow")
_MOST = 100_000  # files of a source that are looked at
BUILTIN = "builtin"


def words(plan: Plan) -> list[Any]:
    """The sources as the job names them: a path, or of a mixture {path, weight}."""
    given = plan.args.get("data") or [BUILTIN]
    return given if isinstance(given, list) else [given]


def path_of(word: Any) -> str:
    """The path of a source."""
    return str(word["path"] if isinstance(word, dict) else word)


def place(plan: Plan, path: str) -> str:
    """Where a source is, however it is spelled: no link, dot or second slash in it; what is no path as it is."""
    if path == BUILTIN or path.startswith("hf:"):
        return path
    with contextlib.suppress(OSError, ValueError, RuntimeError):
        return str(Path(locked_data.on_host(plan, path)).expanduser().resolve())
    return path


def seen(plan: Plan) -> tuple[dict[Path, Any], list[str]]:
    """(the files of the sources with their facts, the sources that are not here)."""
    files: dict[Path, Any] = {}
    unseen = []
    for path in map(path_of, words(plan)):
        host = locked_data.on_host(plan, path)
        found = {} if path.startswith("hf:") else _files(host)
        files |= found
        if not found and path != BUILTIN and not _is_here(host):
            unseen.append(path)
    return files, unseen


def _is_here(path: str) -> bool:
    """Whether something is there, such as files of tokens, which Megatron names without their endings."""
    try:
        return any(Path(name).expanduser().exists() for name in (path, f"{path}.idx"))
    except (OSError, ValueError, RuntimeError):
        return False


def _files(path: str) -> dict[Path, Any]:
    facts = {}
    try:
        for file in itertools.islice(_named(path), _MOST):
            status = file.stat()
            facts[file] = status
    except (OSError, ValueError, RuntimeError):  # a closed folder, a NUL, a home of nobody
        return {}
    return facts


def _named(path: str) -> Iterator[Path]:
    here = Path(path).expanduser()
    if here.is_file():
        yield here
    elif here.is_dir():
        yield from (file for file in here.rglob("*") if file.name.endswith(_SUFFIXES) and file.is_file())
    else:
        yield from (Path(name) for name in glob.iglob(str(here), recursive=True) if Path(name).is_file())  # noqa: PTH207


def size(path: Path, status: Any) -> float:
    """Bytes of text in a file, about; none in one of tokens."""
    if path.suffix in (".bin", ".idx"):
        return 0.0
    return float(status.st_size * _PACKED.get(path.suffix, 1.0))
