"""JSON Schemas of job and cluster files, for editors."""

from __future__ import annotations

from typing import Any, Literal

from launcher.files.cluster import Cluster
from launcher.files.job import Job


def schema(kind: Literal["job", "cluster"]) -> dict[str, Any]:
    """The JSON Schema (2020-12) of a job or cluster file, for editors."""
    made = (Job if kind == "job" else Cluster).model_json_schema(by_alias=True)
    if kind == "job":
        from launcher.deepspeed import keys

        section = made["$defs"]["DeepSpeed"]
        section["properties"] |= keys.schema()
        section["additionalProperties"] = False
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_closed(made)}


def _closed(node: Any) -> Any:
    """`node` in which a mapping whose keys have a pattern takes no other keys: pydantic leaves it open."""
    if isinstance(node, list):
        return [_closed(entry) for entry in node]
    if not isinstance(node, dict):
        return node
    made = {key: _closed(value) for key, value in node.items()}
    return {**made, "additionalProperties": False} if "patternProperties" in made else made
