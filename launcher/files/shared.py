"""The one field that job and cluster files share, `env`: the job's value wins."""

from __future__ import annotations

from typing import Annotated

from launcher.files import kubernetes_syntax
from launcher.files.fields import Pattern, Read, Shorthand, Text, VariableName, field, follows
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
