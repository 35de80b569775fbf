"""JSON Schemas (2020-12) of job, cluster and pipeline files, for editors, from the annotations of their fields."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal, get_args, get_origin

from launcher.files import validation
from launcher.files.cluster import Cluster
from launcher.files.fields import Longest, Pattern, Range, Read, Shorthand
from launcher.files.job import DeepSpeed, Job
from launcher.files.pipeline import Pipeline

_TYPES = {int: "integer", float: "number", str: "string", bool: "boolean"}


def schema(kind: Literal["job", "cluster", "pipeline"]) -> dict[str, Any]:
    """The JSON Schema of a file of that kind."""
    definitions: dict[str, Any] = {}
    root = _object({"job": Job, "cluster": Cluster, "pipeline": Pipeline}[kind], definitions)
    if kind == "job":
        from launcher.deepspeed import keys

        section = definitions[DeepSpeed.__name__]
        section["properties"] |= keys.schema()
        section["additionalProperties"] = False
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$defs": definitions, **root}


def _object(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    declared = validation.fields(kind)
    required = [k for k, f in declared.items() if f.default is f.default_factory is dataclasses.MISSING]
    return {
        "type": "object",
        **({"description": kind.__doc__} if kind.__doc__ else {}),
        "properties": {key: _property(kind, field, definitions) for key, field in declared.items()},
        **({"required": required} if required else {}),
        "additionalProperties": hasattr(kind, "MORE"),
    }


def _property(kind: Any, field: dataclasses.Field[Any], definitions: dict[str, Any]) -> dict[str, Any]:
    text = field.metadata.get("description")
    written = None if field.default is dataclasses.MISSING else validation.written(field.default)
    default = {} if written is None else {"default": written}
    plain = not default or isinstance(written, (bool, int, float, str))
    return {
        **({"description": text} if text else {}),
        **_of(validation.hint_of(kind, field.name), definitions),
        **(default if plain else {}),
    }


def _of(hint: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """The schema of a value with annotation `hint`."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _annotated(inner[0], inner[1:], definitions)
    if validation.is_optional(hint):
        return {"anyOf": [_of(inner[0], definitions), {"type": "null"}]}
    if origin is Literal:
        return {"enum": list(inner)}
    if origin is dict:
        keys = {k: v for k, v in _of(inner[0], definitions).items() if k in ("pattern", "enum")}
        return {
            "type": "object",
            **({"propertyNames": keys} if keys else {}),
            "additionalProperties": _of(inner[1], definitions),
        }
    if origin is list:
        return {"type": "array", "items": _of(inner[0], definitions)}
    if dataclasses.is_dataclass(hint):
        name: str = hint.__name__  # type: ignore[union-attr]
        if name not in definitions:
            definitions[name] = {}  # its place, before those of what it holds
            definitions[name] = _object(hint, definitions)
        return {"$ref": f"#/$defs/{name}"}
    return {} if hint is Any else {"type": _TYPES[hint]}


def _annotated(base: Any, rules: tuple[Any, ...], definitions: dict[str, Any]) -> dict[str, Any]:
    schema = _of(base, definitions)
    for rule in rules:
        match rule:
            case Read(schema=known) if known:
                schema = dict(known) if "enum" not in schema else schema
            case Range(least=least, most=most):
                schema |= {"minimum": least, **({"maximum": most} if most is not None else {})}
            case Pattern(expression=expression, longest=longest):
                schema |= {"pattern": f"^{expression}$", **({"maxLength": longest} if longest else {})}
            case Longest(entries=entries):
                schema |= {"maxItems": entries}
            case Shorthand(field=name, types=types):
                short = _of(validation.hint_of(base, name), definitions)
                limits = {key: short[key] for key in ("minimum", "maximum") if key in short}
                schema = {"anyOf": [{"type": list(types), **limits}, schema]}
    return schema
