"""What job and cluster files share: environment variables, and the places of what was written.

The one field that both files have is `env`: the job's value wins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, PrivateAttr, StringConstraints, model_validator

from launcher.files.fields import Model, OrText, Text, VariableName

if TYPE_CHECKING:
    from launcher.errors import Place


class Variable(Model):
    value: Text | None = Field(None, description="The value itself.")
    secret: (
        Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$")] | None
    ) = Field(None, description="Name of a secret that holds it; the value never lands in a file of ours.")
    key: Annotated[str, StringConstraints(pattern=r"^[-._A-Za-z0-9]+$")] | None = Field(
        None, description="The secret's key, if it is not the variable's name (Kubernetes)."
    )

    @model_validator(mode="after")
    def _one_source(self) -> Variable:
        if self.value is not None and self.secret is not None:
            raise ValueError("has a value and a secret; keep one of them")
        if self.key is not None and self.secret is None:
            raise ValueError("has a key but no secret to look it up in; add `secret:`")
        return self


# A null leaves a variable out that the fabric or the cluster file sets.
# A null leaves a variable out that the fabric or the cluster file sets.
Environment = dict[VariableName, Annotated[Variable, OrText("value", "string", "number", "null")]]


class File(Model):
    """A file that a person wrote. `places` says where each of its fields stands; empty when there is no file."""

    _places: dict[tuple[str | int, ...], Place] = PrivateAttr(default_factory=dict)

    @property
    def places(self) -> dict[tuple[str | int, ...], Place]:
        return self._places

    def written(self, places: dict[tuple[str | int, ...], Place]) -> None:
        """Remember where the fields stand."""
        self._places = places
