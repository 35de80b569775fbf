"""The one field that job and cluster files share, `env`: the job's value wins."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints, model_validator

from launcher.files.fields import Model, OrText, Text, VariableName


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
Environment = dict[VariableName, Annotated[Variable, OrText("value", "string", "number", "null")]]
