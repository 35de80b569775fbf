"""YAML text to plain data that remembers where each key and value stands.

Owns the dialect (YAML 1.2, so `48:00:00` stays a string and `1e-4` is a number), duplicate keys and `--set`;
what the keys mean is `spec`'s.
"""

from __future__ import annotations

import codecs
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from launcher.errors import Place, Problem, SpecError

if TYPE_CHECKING:
    from pathlib import Path

Keys = tuple[str | int, ...]


@dataclass
class Document:
    """A file's data, with the place of every key path: `places[("batch", "micro")]`."""

    source: str
    data: dict[str, Any]
    places: dict[Keys, Place] = field(default_factory=dict)
    numbers: dict[Keys, str] = field(
        default_factory=dict
    )  # as written: `1.50` is 1.5 for us, not for an env value

    def place(self, path: Keys) -> Place:
        """The place of `path`, or of its nearest parent that the file has."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, Place(self.source, 1, 1))


def read(path: Path, source: str = "") -> Document:
    """The file as a `Document`. `source` is the name to show in messages (default: the path).

    Raises SpecError when the file cannot be read, is not UTF-8 YAML, is empty, is not a mapping,
    or has a duplicate key; all duplicates are reported together.
    """
    source = source or str(path)
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise SpecError(Problem("no such file", "check the path", Place(source))) from None
    except IsADirectoryError:
        raise SpecError(Problem("this is a directory", "name a YAML file", Place(source))) from None
    except OSError as error:
        raise SpecError(Problem(f"cannot be read: {error.strerror}", "", Place(source))) from None
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
    document.data = _built(root, document)
    return document


def override(document: Document, setting: str, prefix: str = "") -> None:
    """Apply one `--set key.path=value` to `document`, in place. The value is read as YAML.

    `prefix` is what stood before the key on the command line, for messages.

    Raises SpecError when there is no `=`, the value is not YAML, or the path runs through a value.
    """
    source = f"--set {prefix}{setting}"
    dotted, equals, text = setting.partition("=")
    keys = dotted.split(".")
    if not equals or not all(keys):
        raise SpecError(Problem("expected key.path=value", "for example --set batch.micro=2", Place(source)))
    node = _compose(text, source) if text.strip() else None
    value = text if node is None else _built(node, document, tuple(keys), Place(source))
    document.places[tuple(keys)] = Place(source)
    at: Any = document.data
    for depth, key in enumerate(keys[:-1]):
        if at.get(key) is None:
            at[key] = {}
        at = at[key]
        if not isinstance(at, dict):
            above = ".".join(keys[: depth + 1])
            raise SpecError(
                Problem(f"{above} is {at!r}, not a mapping", f"set {above} as a whole", Place(source))
            )
    at[keys[-1]] = value


def _built(node: Node, document: Document, keys: Keys = (), place: Place | None = None) -> Any:
    builder = _Builder(document, place)
    value = builder.build(node, keys)
    if builder.problems:
        raise SpecError(*builder.problems)
    return value


def _compose(text: str, source: str) -> Node | None:
    try:
        node: Node | None = YAML(typ="safe", pure=True).compose(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        place = Place(source, mark.line + 1, mark.column + 1) if mark and "\n" in text else Place(source)
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise SpecError(
            Problem(f"not valid YAML: {what}", "quote values that hold special characters", place)
        ) from None
    return node


@dataclass
class _Builder:
    """Nodes to plain data, filling the document's places and `problems`; a `--set` has one place, `fixed`."""

    document: Document
    fixed: Place | None = None
    problems: list[Problem] = field(default_factory=list)
    scalars: Any = field(default_factory=lambda: YAML(typ="safe", pure=True).constructor)

    def build(self, node: Node, path: Keys = (), above: tuple[int, ...] = ()) -> Any:
        if self.fixed is None:
            self.document.places.setdefault(path, self.place(node))
        if id(node) in above:
            return self.problem("this alias refers to itself", "write the value out", node)
        above = (*above, id(node))
        if isinstance(node, ScalarNode):
            return self.scalar(node, path)
        if isinstance(node, SequenceNode):
            return [self.build(child, (*path, i), above) for i, child in enumerate(node.value)]
        data: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, ScalarNode):
                self.problem("a key must be a plain word", "quote it if it has brackets", key_node)
                continue
            key = str(key_node.value)
            if key in data:
                self.problem(f"duplicate key {key!r}", f"it is already on line {lines[key]}", key_node)
            lines.setdefault(key, key_node.start_mark.line + 1)
            if self.fixed is None:
                self.document.places[(*path, key)] = self.place(key_node)
            data[key] = self.build(value_node, (*path, key), above)
        return data

    def scalar(self, node: ScalarNode, path: Keys) -> Any:
        kind = str(node.tag).rpartition(":")[2]
        if kind in {"int", "float"}:
            self.document.numbers[path] = node.value
        if kind == "timestamp":  # a date is text here: no field holds one
            return node.value
        if kind not in {"null", "bool", "int", "float", "str"}:
            return self.problem(f"the tag {node.tag} has no meaning here", "remove it", node)
        return self.scalars.construct_object(node, deep=True)

    def problem(self, message: str, hint: str, node: Node) -> None:
        self.problems.append(Problem(message, hint, self.place(node)))

    def place(self, node: Node) -> Place:
        return self.fixed or Place(self.document.source, node.start_mark.line + 1, node.start_mark.column + 1)
