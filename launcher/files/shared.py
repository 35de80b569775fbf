"""The fields that job and cluster files share: of `env` the job's value wins, of `notify` both are told."""

from __future__ import annotations

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from launcher.files import kubernetes_syntax
from launcher.files.fields import Longest, Pattern, Read, Shorthand, Text, VariableName, field, follows
from launcher.frozen import dataclass

SECRET_HINT = "use letters, digits, '-', '_' and '.'"


@dataclass(frozen=True, kw_only=True)
class Variable:
    value: Text | None = field(None, "The value itself.")
    secret: (
        Annotated[str, Pattern(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?", SECRET_HINT, longest=253)] | None
    ) = field(None, "Name of a secret that holds it; the value never lands in a file of ours.")
    key: Annotated[str, Read(follows(kubernetes_syntax.data_key))] | None = field(
        None, "The secret's key, if it is not the variable's name (Kubernetes)."
    )

    def __post_init__(self) -> None:
        if self.value is not None and self.secret is not None:
            raise ValueError("has a value and a secret; keep one of them")
        if self.key is not None and self.secret is None:
            raise ValueError("has a key but no secret to look it up in; add `secret:`")


# A null leaves a variable out that the fabric or the cluster file sets.
Environment = dict[VariableName, Annotated[Variable, Shorthand("value", ("string", "number", "null"))]]


# docker/notify.py says when each is.
Occasion = Literal["start", "end", "failure", "stall", "divergence", "slow"]
# Addresses of which a part is the secret: of these services the path, of any other what stands before @ or behind ?.
_SECRET_ADDRESS = re.compile(
    r"https?://([^/]*@|(hooks\.slack\.com|discord(app)?\.com|outlook\.office\.com|api\.telegram\.org"
    r"|[^/]*\.webhook\.office\.com|[^/]*\.logic\.azure\.com)/|.*[?])",
    re.IGNORECASE,
)
# What in the path of any other is a key, such as Mattermost's: a UUID, or 16 letters and digits in a row, both of them.
_KEY = re.compile(
    r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|(?=[a-z]*[0-9])(?=[0-9]*[a-z])[a-z0-9]{16}", re.IGNORECASE
)


def _address(text: str) -> None:
    """Raises ValueError for what no message can be sent to, and for what is a secret; neither is repeated."""
    if not text.startswith(("http://", "https://")):
        raise ValueError("its webhook is no address; it begins with https:// or http://")
    try:
        parts = urlsplit(text)
        is_whole = bool(parts.hostname) and parts.port != 0 and text.isprintable() and " " not in text
    except ValueError:  # of a port above 65535, or half an IPv6 address
        is_whole = False
    if not is_whole:
        raise ValueError("its webhook is no address; write https://HOST[:PORT]/PATH")
    if _SECRET_ADDRESS.match(text) or _KEY.search(parts.path):
        raise ValueError(
            "its webhook holds a secret, which would stand in the run's files; keep the address in a file or a "
            "Secret: webhook: {secret: NAME}"
        )


@dataclass(frozen=True, kw_only=True)
class Notify:
    """Who is told what; the message is docker/notify.py's."""

    webhook: Annotated[Variable, Shorthand("value")] | None = field(
        None, "Gets a POST of JSON: an address, or {secret: NAME} (its `key` on Kubernetes; default: url)."
    )
    command: Annotated[list[Text], Longest(1000)] | None = field(
        None, "A program and its words, on the first host; it gets the JSON on its standard input."
    )
    on: list[Occasion] = field(
        lambda: ["start", "end", "failure", "stall", "divergence", "slow"], "Of what; default: all."
    )

    def __post_init__(self) -> None:
        if (self.webhook is None) is (not self.command):
            raise ValueError("needs a webhook or a command, and not both")
        address = self.webhook.value if self.webhook else None
        if self.webhook and address is None and self.webhook.secret is None:
            raise ValueError("its webhook has no address; write one, or {secret: NAME}")
        if address is not None:
            _address(address)
        if self.command and not self.command[0].strip():
            raise ValueError("its command has no program; write [PROGRAM, WORD, …]")
        if not self.on or len(set(self.on)) < len(self.on):
            raise ValueError("its `on` names each occasion once, and at least one; leave it out for all")
