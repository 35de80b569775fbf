"""The YAML that files are written in: 1.2 as ruamel.yaml reads it, so `48:00:00` is a string and `1e-4` a number.

Owns where this reader differs from ruamel.yaml's: dates are text, depth has a limit, and words in brackets are 1.2's.

    dialect.safe() -> YAML          for files that are read
    dialect.round_trip() -> YAML    for a file that is written anew with its comments
"""

from __future__ import annotations

from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.reader import Reader
from ruamel.yaml.resolver import VersionedResolver
from ruamel.yaml.scanner import RoundTripScanner, Scanner
from ruamel.yaml.tokens import FlowMappingEndToken, FlowSequenceEndToken, ScalarToken

TAGS = "tag:yaml.org,2002:"
MOST_DEEP = 100  # pydantic and json give up at a few hundred
_AFTER_A_MARK = "\0 \t\r\n\x85\u2028\u2029,[]{}"  # in brackets


def safe() -> YAML:
    """A reader of plain data. Raises TooDeep besides what ruamel.yaml raises."""
    yaml = YAML(typ="safe", pure=True)
    yaml.Reader, yaml.Scanner, yaml.Resolver = _Reader, _Scanner, _Resolver
    return yaml


def round_trip() -> YAML:
    """A reader and writer that keeps comments, quotes and order."""
    yaml = YAML()
    yaml.Scanner = _RoundTripScanner
    yaml.preserve_quotes = True
    return yaml


class TooDeep(RecursionError):
    """Brackets that are too deep, with the mark of the first that is."""


# The expressions by which ruamel.yaml finds what this one and the resolver leave out take longer to build than a file
# to read.
class _Reader(Reader):
    def check_printable(self, data: str) -> None:
        if not data.replace("\n", "").isprintable():
            super().check_printable(data)


class _Resolver(VersionedResolver):
    def add_version_implicit_resolver(self, version: Any, tag: str, regexp: Any, first: Any) -> None:
        if tag != f"{TAGS}timestamp":  # a date is text here: no field holds one
            super().add_version_implicit_resolver(version, tag, regexp, first)


class _Words(Scanner):
    """In brackets too `?` and `:` before a letter begin a word (YAML 1.2, 7.3.3), but not behind a quoted key (7.4.2).

    ruamel.yaml writes such words as they are, and reads marks.
    """

    def check_key(self) -> Any:
        return super().check_key() and self.reader.peek(1) in _AFTER_A_MARK

    def check_value(self) -> Any:
        if not self.flow_level:
            return super().check_value()
        last = self.tokens[-1] if self.tokens else None
        quoted = isinstance(last, ScalarToken) and not last.plain
        if quoted or isinstance(last, FlowSequenceEndToken | FlowMappingEndToken):
            return True
        return super().check_value() and self.reader.peek(1) in _AFTER_A_MARK

    def check_plain(self) -> Any:
        return super().check_plain() or (self.reader.peek() == "?" and not self.check_key())


class _Scanner(_Words):
    def fetch_flow_collection_start(self, TokenClass: Any, to_push: str) -> None:
        super().fetch_flow_collection_start(TokenClass, to_push)
        # it looks a kilobyte ahead, in time that grows with the square of the depth
        if self.flow_level > MOST_DEEP:
            raise TooDeep(self.reader.get_mark())


class _RoundTripScanner(_Words, RoundTripScanner):
    pass
