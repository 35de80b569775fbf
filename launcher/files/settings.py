"""Settings: values for key paths of a document, as `--set batch.micro=2` and a pipeline's `set:` give them.

Owns how a key path is written (`mounts."/a.b"` has a key with a dot) and how a setting changes a document.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from launcher.errors import Place, Problem, SpecError, shown
from launcher.files import document as files_document
from launcher.files.document import Document
from launcher.namedtuple import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from launcher.files.document import Keys

_MOST_KEYS = 50
# one key: in quotes, or up to the next dot; a backslash takes the meaning of what follows it
_KEY = re.compile(r"""(?:"([^"]+)"|'([^']+)'|((?:\\[.=\\]|[^.])+))(\.|$)""", re.DOTALL)
# What may be a secret, and then is not said again: a variable of `env:`, the credentials of an address.
_SECRET = re.compile(r"^(?:[^=]*\.)?env\.|://[^/]*@")
_WORD = re.compile(r"""((?:"[^"]*"|'[^']*'|\\[.=\\]|[^=])*?)=(.*)""", re.DOTALL)


class Setting(NamedTuple):
    """`value` for the key path `keys`. `places`: where it was written, and where what is inside of it was."""

    keys: tuple[str, ...]
    value: Any
    places: Mapping[Keys, Place]
    problems: tuple[Problem, ...] = ()

    @property
    def place(self) -> Place:
        return self.places[()]

    def below(self, first: str) -> Setting:
        """The same without the first key, `first`, which says for what it is."""
        assert self.keys[0] == first
        return self._replace(keys=self.keys[1:])


def key_path(text: str) -> tuple[str, ...]:
    """`a.b` as ("a", "b"), `a."b.c"` and `a.b\\.c` as ("a", "b.c"); () for what is no key path."""
    keys, at = [], 0
    while match := _KEY.match(text, at):
        keys.append(match[1] or match[2] or re.sub(r"\\([.=\\])", r"\1", match[3]))
        at = match.end()
        if not match[4]:
            return tuple(keys) if len(keys) <= _MOST_KEYS else ()
    return ()


def parse(word: str) -> Setting:
    """A word of `--set`: KEY.PATH=VALUE, the value as YAML.

    Raises SpecError when there is no key path, no `=`, or the value is not YAML.
    """
    match = _WORD.fullmatch(word)
    name = match[1] if match else word
    shown = len(word) <= 60 and word.isprintable() and not _SECRET.search(word)
    place = Place(f"--set {word if shown else ascii(name)[1:-1][:60]}")
    keys = key_path(name)
    if not match or not keys:
        raise SpecError(Problem("expected key.path=value", "for example --set batch.micro=2", place))
    scratch = Document(place.source, {})
    value = files_document.value(match[2], scratch, keys, place)
    return Setting(keys, value, {(): place}, tuple(scratch.problems))


def apply(document: Document, setting: Setting) -> None:
    """Change `document`; a setting that cannot be applied is one of its problems."""
    keys, place = setting.keys, setting.place
    document.problems += setting.problems
    if setting.problems:  # which say what is wrong with the value; nothing follows from it
        document.unreadable.append(keys)
    for path in [path for path in document.places if path[: len(keys)] == keys]:
        del document.places[path]  # what the file said there is gone
    document.places.update({(*keys, *path): where for path, where in setting.places.items()})
    at: Any = document.data
    for depth, key in enumerate(keys[:-1], 1):
        if at.get(key) is None:
            at[key] = {}
            document.places[keys[:depth]] = place
        at = at[key]
        if not isinstance(at, dict):
            above = ".".join(keys[:depth])
            problem = f"{above} is {shown(at)}, not a mapping"
            document.problems.append(Problem(problem, f"set {above} as a whole", place))
            return
    at[keys[-1]] = setting.value
