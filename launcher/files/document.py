"""YAML text to plain data with the place of each key and value.

Owns places, duplicate keys and what cannot be read; what YAML it is is said in dialect.py, and what the keys mean in
job.py, cluster.py and pipeline.py.
"""

from __future__ import annotations

import codecs
import copy
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import ReusedAnchorWarning, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from launcher import ROOT
from launcher.errors import Place, Problem, SpecError
from launcher.files import dialect

Keys = tuple[str | int, ...]


class Int(int):
    """A whole number whose text is as it was written: `007` is a count of 7, and the account "007"."""

    written: str

    def __str__(self) -> str:
        return self.written


class Float(float):
    """A number whose text is as it was written: `1.50` is 1.5, and the version "1.50"."""

    written: str

    def __str__(self) -> str:
        return self.written


_SCALARS = {"null", "bool", "int", "float", "str", "timestamp"}
_MOST_NODES = 100_000  # aliases of aliases can make a small file fill the memory
_MOST_BYTES = 2**22  # of a file, and of all text that its aliases stand for
_MOST_BITS = 1023  # of a whole number: no larger one is also a float

_SPLIT = "put data into files of their own, and name them"
# ruamel's words → the next step
_HINTS = {
    "'\\t'": "indent with blanks: YAML takes no tabs there",
    "alias": "define it before with &, or quote a value that starts with *",
    "another document": "one file holds one job or cluster: take out the second `---`",
    "but got": "close the bracket, or quote a value that holds one",
    "mapping values": "quote a value that holds `: `, and start keys of one level in one column",
    "end of stream": "close the quotes",
}


@dataclass
class Document:
    """A file's data, with the place of every key path: `places[("batch", "micro")]`.

    `problems`: what is wrong with it whatever the keys mean, such as duplicates. `unreadable`: the paths of values that
    are None because they could not be read.
    """

    source: str
    data: dict[str, Any]
    places: dict[Keys, Place] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    unreadable: list[Keys] = field(default_factory=list)
    path: Path = Path()
    deepspeed: str = ""  # the version that the keys below a job's `deepspeed:` are of, where it is known

    def place(self, path: Keys) -> Place:
        """The place of `path`, or of its nearest parent that the file has."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, Place(self.source, 1, 1))

    def is_unread(self, path: Keys) -> bool:
        """Whether the value at `path`, or what it is in, could not be read: what is wrong with it has been said."""
        return any(path[: len(unread)] == unread for unread in self.unreadable)

    def copy(self) -> Document:
        """Another one with the same content, to change."""
        data, places, problems = copy.deepcopy(self.data), dict(self.places), list(self.problems)
        return replace(self, data=data, places=places, problems=problems, unreadable=list(self.unreadable))


class Reader:
    """Files, each read once: a pipe such as `/dev/stdin` has nothing more for a second look."""

    def __init__(self) -> None:
        self._documents: dict[Path, Document] = {}

    def read(self, path: Path, source: str) -> Document:
        """A `Document` of its own, to change. Raises as `read` does."""
        if path not in self._documents:
            self._documents[path] = replace(read(path, source), path=path)
        return self._documents[path].copy()


def find(path: str) -> Path:
    """The file at `path`, else the one of that name that ships with the project."""
    shipped = ROOT / path
    return shipped if not exists(Path(path)) and exists(shipped) else Path(path)


def exists(path: Path) -> bool:
    """Whether there is something at `path`; not for a name that is too long, or in a closed folder."""
    try:
        return path.exists()
    except OSError:
        return False


def read(path: Path, source: str = "") -> Document:
    """The file as a `Document`. `source` is the name to show in messages (default: the path).

    Raises SpecError when the file cannot be read, is not UTF-8 YAML, is empty or is not a mapping.
    """
    source = source or str(path)
    try:
        with path.open("rb") as file:
            raw = file.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        raise SpecError(Problem("no such file", "check the path", Place(source))) from None
    except IsADirectoryError:
        raise SpecError(Problem("this is a directory", "name a YAML file", Place(source))) from None
    except OSError as error:
        raise SpecError(Problem(f"cannot be read: {error.strerror}", "", Place(source))) from None
    if len(raw) > _MOST_BYTES:
        raise SpecError(Problem(f"this is larger than {_MOST_BYTES:,} bytes", _SPLIT, Place(source)))
    try:
        text = raw.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise SpecError(Problem("this is not text", "a job or cluster file is YAML in UTF-8", Place(source)))
    return parse(text, source)


def parse(text: str, source: str) -> Document:
    """`text` as a Document; the errors of `read` that are about content."""
    root = _compose(text, source)
    if root is None:
        raise SpecError(Problem("the file is empty", "see jobs/ for examples", Place(source)))
    if not isinstance(root, MappingNode):
        raise SpecError(
            Problem("the top level must be `key: value` lines", "see jobs/ for examples", Place(source, 1, 1))
        )
    document = Document(source, {})
    # None for a tag that has no meaning, which is one of its problems
    document.data = _built(root, document) or {}
    return document


def value(text: str, document: Document, keys: Keys, place: Place) -> Any:
    """`text` as one value of `document`, with `place` for everything in it; what is wrong goes to its `problems`.

    Raises SpecError for text that is not YAML.
    """
    node = _compose(text, place.source) if text.strip() else None
    return text if node is None else _built(node, document, keys, place)


def _built(node: Node, document: Document, keys: Keys = (), place: Place | None = None) -> Any:
    return _Builder(document, place).build(node, keys)


def _too_deep(place: Place) -> Problem:
    return Problem("brackets are nested too deeply", "write it flatter", place)


def _compose(text: str, source: str) -> Node | None:
    if sum(map(text.count, (",", "\n", "- "))) > _MOST_NODES:  # before ruamel takes minutes to find that out
        raise SpecError(Problem(f"more than {_MOST_NODES:,} values", _SPLIT, Place(source)))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ReusedAnchorWarning)  # the later one counts from there on
            node: Node | None = dialect.safe().compose(text)
    except dialect.TooDeep as deep:
        (mark,) = deep.args
        raise SpecError(_too_deep(Place(source, mark.line + 1, mark.column))) from None
    except RecursionError:
        raise SpecError(_too_deep(Place(source))) from None
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        place = Place(source, mark.line + 1, mark.column + 1) if mark and "\n" in text else Place(source)
        what = (getattr(error, "problem", None) or str(error).splitlines()[0]).removeprefix("but ")
        hint = next((hint for word, hint in _HINTS.items() if word in what), "")
        hint = hint or "quote values that hold special characters"
        raise SpecError(Problem(f"not valid YAML: {what}", hint, place)) from None
    return node


def _joined(text: str) -> str | None:
    """`text` with each `\\ud83d\\ude00`, as JSON writes 😀, made one character; None if it holds half of one."""
    try:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError:
        return None


@dataclass
class _Builder:
    """Nodes to plain data, filling the document's places and problems; a `--set` has one place, `fixed`."""

    document: Document
    fixed: Place | None = None
    scalars: Any = field(default_factory=lambda: YAML(typ="safe", pure=True).constructor)
    built: int = 0
    text: int = 0

    def build(self, node: Node, path: Keys = (), above: tuple[int, ...] = ()) -> Any:
        if self.fixed is None:
            self.document.places.setdefault(path, self.place(node))
        self.built += 1
        if self.built > _MOST_NODES:
            problem = Problem(f"more than {_MOST_NODES:,} values", "use fewer aliases", self.place(node))
            raise SpecError(problem)
        if id(node) in above:
            return self.unread("this alias refers to itself", "write the value out", node, path)
        if len(above) > dialect.MOST_DEEP:
            raise SpecError(_too_deep(self.place(node)))
        above = (*above, id(node))
        if isinstance(node, ScalarNode):
            return self.scalar(node, path)
        kind = "seq" if isinstance(node, SequenceNode) else "map"
        if str(node.tag) != dialect.TAGS + kind:
            return self.unknown_tag(node, path)
        if kind == "seq":
            return [self.build(child, (*path, i), above) for i, child in enumerate(node.value)]
        return self.mapping(node, path, above)

    def mapping(self, node: Node, path: Keys, above: tuple[int, ...]) -> dict[str, Any]:
        data: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            key = _joined(str(key_node.value)) if isinstance(key_node, ScalarNode) else None
            if key is None or "\0" in key:
                self.problem("a key must be a plain word", "quote it if it has brackets", key_node)
                continue
            if key == "<<":
                self.problem("YAML 1.2 has no merge key `<<`", "write the keys out", key_node)
                continue
            if key in data:
                where = "name it once" if self.fixed else f"it is already on line {lines[key]}"
                self.problem(f"duplicate key {key!r}", where, key_node)
            lines.setdefault(key, key_node.start_mark.line + 1)
            here = (*path, key)
            if self.fixed is None:
                self.document.places[here] = self.place(key_node)
            data[key] = self.build(value_node, here, above)
        return data

    def scalar(self, node: ScalarNode, path: Keys) -> Any:
        kind = str(node.tag).removeprefix(dialect.TAGS)
        if kind not in _SCALARS:
            return self.unknown_tag(node, path)
        text = _joined(node.value)
        if text is None:
            return self.unread("half a character cannot be written", "use \\U and eight digits", node, path)
        self.text += len(text)
        if self.text > _MOST_BYTES:
            raise SpecError(
                Problem(f"more than {_MOST_BYTES:,} characters", "use fewer aliases", self.place(node))
            )
        if "\0" in text:  # neither an argument nor a variable nor a path can
            return self.unread("no value can hold a NUL character", "take it out", node, path)
        if kind in {"str", "timestamp"}:
            return text
        try:
            value = self.scalars.construct_object(node, deep=True)
        except (ValueError, KeyError, IndexError):  # `!!int x`, or more digits than Python reads
            return self.unread(f"{node.value[:40]!r} cannot be read as {kind}", "quote it", node, path)
        if kind == "int" and value.bit_length() > _MOST_BITS:
            return self.unread(f"{node.value[:40]!r} is too large a number", "quote it", node, path)
        if kind in {"int", "float"}:
            value = Int(value) if kind == "int" else Float(value)
            value.written = node.value
        return value

    def unknown_tag(self, node: Node, path: Keys) -> None:
        tag = str(node.tag).replace(dialect.TAGS, "!!")
        self.unread(f"the tag {tag} has no meaning here", "remove it, or quote the value", node, path)

    def unread(self, message: str, hint: str, node: Node, path: Keys) -> None:
        self.document.unreadable.append(path)
        self.problem(message, hint, node)

    def problem(self, message: str, hint: str, node: Node) -> None:
        self.document.problems.append(Problem(message, hint, self.place(node)))

    def place(self, node: Node) -> Place:
        return self.fixed or Place(self.document.source, node.start_mark.line + 1, node.start_mark.column + 1)
