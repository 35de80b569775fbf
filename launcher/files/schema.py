"""JSON Schemas of job, cluster and pipeline files, for editors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from launcher.files.cluster import Cluster
from launcher.files.job import Job
from launcher.files.pipeline import Pipeline

if TYPE_CHECKING:
    from launcher.files.fields import Model


def schema(kind: Literal["job", "cluster", "pipeline"]) -> dict[str, Any]:
    """The JSON Schema (2020-12) of a file of that kind."""
    models: dict[str, type[Model]] = {"job": Job, "cluster": Cluster, "pipeline": Pipeline}
    document = models[kind].model_json_schema(by_alias=True)
    if kind == "job":
        from launcher.deepspeed import keys

        section = document["$defs"]["DeepSpeed"]
        section["properties"] |= keys.schema()
        section["additionalProperties"] = False
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_closed(document)}


def _closed(node: Any) -> Any:
    """`node` in which a mapping whose keys have a pattern takes no other keys: pydantic leaves it open."""
    if isinstance(node, list):
        return [_closed(entry) for entry in node]
    if not isinstance(node, dict):
        return node
    document = {key: _closed(value) for key, value in node.items()}
    return {**document, "additionalProperties": False} if "patternProperties" in document else document
