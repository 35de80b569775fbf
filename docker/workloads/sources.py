"""The sources of --data: what a word names, the files and rows behind it, and what shows that they have changed.

Owns where text and tokens come from; cutting.py divides them into shards, reading.py reads them.
"""

from __future__ import annotations

import contextlib
import glob
import json
import math
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from workloads import packages, token_files
from workloads.session import Stop

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROWS = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")
SUFFIXES = (".txt", ".md", *ROWS)
BUILTIN, HUB = "builtin", "hf:"
COLUMN = "text"
SAVED = ("state.json", "dataset_dict.json")  # what save_to_disk leaves: of a data set, of several splits
KEYS = ("path", "weight", "column")
# Rows that are not read as such: their brackets, quotes and commas would be learned as text.
OTHERS = (".arrow", ".csv", ".json", ".jsonlines", ".ndjson", ".tsv")


class Source(NamedTuple):
    """A word of --data: a path, a glob, hf:NAME[@SUBSET][:SPLIT[:COLUMN]] or builtin."""

    path: str
    weight: float | None = None  # of a mixture
    column: str = COLUMN  # of .jsonl and .parquet

    @property
    def rows(self) -> Rows | None:
        """The data set that it names, if it names one."""
        if self.path.startswith(HUB):
            name, split, column = [*self.path.removeprefix(HUB).split(":"), "", ""][:3]
            return Rows(name, split, column or self.column)
        return Rows(self.path, "", self.column) if saved(self.path) else None


class Rows(NamedTuple):
    """A column of a Hugging Face data set."""

    name: str  # NAME[@SUBSET], or a folder that save_to_disk has written
    split: str
    column: str


def parse(words: Sequence[str]) -> list[Source]:
    """The sources that the words of --data name: {"path": …, "weight": …} or a path alone. Raises Stop for others."""
    parsed = [_parse(word) if word.startswith("{") else Source(word) for word in words]
    if wrong := next(filter(None, (of_another_kind(source.path) for source in parsed)), ""):
        raise Stop(wrong)
    unweighted = [source.path for source in parsed if source.weight is None]
    if 0 < len(unweighted) < len(parsed):
        raise Stop(
            f"--data: {unweighted[0]} has no weight and others have: give each source one, or none of them"
        )
    return parsed


def of_another_kind(path: str) -> str:
    """Why a file whose name says that it has rows, which are not read as rows, is refused; '' for any other source."""
    if path.startswith(HUB) or path.endswith(SUFFIXES) or not path.lower().endswith((*ROWS, *OTHERS)):
        return ""
    return (
        f"--data {path}: text is {', '.join(SUFFIXES)}; write its rows as .jsonl or .parquet, or call it .txt to learn "
        "it as it is"
    )


def mistake(words: Sequence[str]) -> str:
    """What is wrong with the words of --data by their names alone: files of another kind; empty where nothing is."""
    for word in words:
        with contextlib.suppress(Stop):  # what else is wrong with a word, `parse` says
            if wrong := of_another_kind((_parse(word) if word.startswith("{") else Source(word)).path):
                return wrong
    return ""


def _parse(word: str) -> Source:
    try:
        given = json.loads(word)
    except ValueError as error:
        raise Stop(f"--data {word}: broken JSON: {error}") from error
    unknown = sorted(set(given) - set(KEYS))
    if unknown:
        raise Stop(f"--data {word}: no key {unknown[0]!r}; a source has {', '.join(KEYS)}")
    path, weight, column = given.get("path"), given.get("weight"), given.get("column", COLUMN)
    if not isinstance(path, str) or not path:
        raise Stop(f'--data {word}: "path" must be the text\'s path, hf:NAME or builtin')
    if not isinstance(column, str) or not column:
        raise Stop(f'--data {word}: "column" must be the name of a column')
    number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
    if weight is not None and not (number and 0 < weight < math.inf):
        raise Stop(f'--data {word}: "weight" must be a number above 0')
    return Source(path, weight, column)


def saved(path: str) -> bool:
    """Whether a path is a folder that `save_to_disk` of a Hugging Face data set has written."""
    return any((Path(path).expanduser() / name).is_file() for name in SAVED)


def files(source: str) -> list[Path]:
    """The files of a path, a folder or a glob, sorted. Raises Stop when there are none."""
    path = Path(source).expanduser()
    if path.is_file():
        return [path.with_suffix(".bin") if path.suffix == ".idx" else path]
    if path.is_dir():
        paths = [file for file in path.rglob("*") if _readable(file)]
        if not paths:
            raise Stop(f"--data {source}: no {', '.join(SUFFIXES)} file in this folder")
    elif path.with_name(f"{path.name}.idx").is_file():  # Megatron's way of naming the pair
        return [path.with_name(f"{path.name}.bin")]
    else:
        paths = [Path(name) for name in glob.glob(str(path), recursive=True)]  # noqa: PTH207
        paths = [file for file in paths if file.is_file() and file.suffix != ".idx"]
        if not paths:
            raise Stop(f"--data {source}: no such file or folder (builtin and hf:NAME are the other sources)")
    return sorted(paths)


def _readable(file: Path) -> bool:
    if file.suffix == ".bin":  # weights of models are called so too
        return file.is_file() and token_files.known(file)
    return file.name.endswith(SUFFIXES) and not file.name.startswith(".") and file.is_file()


def fingerprint(source: Source) -> Any:
    """What shows whether a source has changed: names, sizes and times of its files, Python's version for builtin.

    Of a data set of a hub it is its name alone, so that its tokens are found where the hub is not reached.
    """
    if source.path == BUILTIN:
        return source.path, platform.python_version()
    if source.rows:
        folder = Path(source.rows.name).expanduser()
        if not folder.is_dir():
            return source.rows, []
        inside = sorted(file for file in folder.resolve().rglob("*") if file.is_file())
        return source.rows._replace(name=str(folder.resolve())), [_state(path) for path in inside]
    return source.column, [_state(path) for path in files(source.path)]


def _state(path: Path) -> tuple[str, int, int]:
    facts = path.stat()
    return str(path.resolve()), facts.st_size, facts.st_mtime_ns


def hugging_face(name: str, column: str = "") -> Iterator[dict[str, Any]]:
    """The rows of a Hugging Face data set NAME[@SUBSET][:SPLIT], or one column of them.

    NAME may be a folder that `save_to_disk` has written. Raises Stop if there is no such data set or column.
    """
    place, split = [*name.split(":"), ""][:2]
    yield from data_set(Rows(place, split, column))


def data_set(wanted: Rows) -> Any:
    """The data set itself (datasets.Dataset), with all its columns if none is wanted. Raises Stop if there is none."""
    name, split, column = wanted
    packages.require("datasets", f"--data hf:{name}")
    import datasets

    try:
        if saved(name):
            rows = _split(datasets.load_from_disk(str(Path(name).expanduser())), split, name)
        else:
            place, _, subset = name.partition("@")
            rows = datasets.load_dataset(place, subset or None, split=split or "train")
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise Stop(f"--data hf:{name}: {reason}") from error
    if column:
        if column not in rows.column_names:
            raise Stop(f"--data hf:{name}: no column {column!r} among {', '.join(rows.column_names)}")
        rows = rows.select_columns([column])
    return rows


def _split(loaded: Any, split: str, name: str) -> Any:
    if not hasattr(loaded, "keys"):  # one data set, not several splits
        return loaded
    chosen = split or ("train" if "train" in loaded or len(loaded) > 1 else next(iter(loaded)))
    if chosen not in loaded:
        raise Stop(f"--data hf:{name}: no split {chosen!r} among {', '.join(loaded)}")
    return loaded[chosen]
