"""The custom resource definitions of the controllers whose objects are rendered, and what they say against an object.

Owns crds.json: the projects' own definitions without descriptions, each part that occurs twice kept once. Renew it
from the files of the releases that its `sources` name:

    python -m tests.launcher.schedulers.kubernetes.crds FILE.yaml…

What a schema cannot say (CEL rules, what webhooks fill in, the rules for pods) is not checked here.
"""

from __future__ import annotations

import functools
import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema

KEPT = Path(__file__).with_name("crds.json")
# Go's regular expressions may hold what Python's do not take
_DROPPED = {"default", "description", "format"}
_SHORT = 60  # a part below this many characters is repeated rather than shared


@functools.cache
def _kept() -> dict[str, Any]:
    kept: dict[str, Any] = json.loads(KEPT.read_text(encoding="utf-8"))
    return kept


@functools.cache
def definitions() -> tuple[dict[str, Any], ...]:
    """Every CustomResourceDefinition, as a server takes it. Equal parts are one object."""
    shared: dict[int, Any] = {}

    def whole(node: Any) -> Any:
        if isinstance(node, list):
            return [whole(entry) for entry in node]
        if not isinstance(node, dict):
            return node
        if set(node) == {"$shared"}:
            number = node["$shared"]
            if number not in shared:
                shared[number] = whole(_kept()["shared"][number])
            return shared[number]
        return {key: whole(entry) for key, entry in node.items()}

    return tuple(whole(crd) for crd in _kept()["definitions"])


def problems(document: dict[str, Any]) -> list[str]:
    """What its definition says against an object; [] also for a kind that has none here."""
    judge = _judges().get((document["apiVersion"], document["kind"]))
    errors = judge.iter_errors(document) if judge else ()
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message[:160]}" for error in errors]


def kinds() -> set[str]:
    """The kinds that have a definition here."""
    return {kind for _, kind in _judges()}


@functools.cache
def _judges() -> dict[tuple[str, str], jsonschema.Draft202012Validator]:
    made = {}
    for spec in (crd["spec"] for crd in definitions()):
        for version in spec["versions"]:
            schema = _strict(version["schema"]["openAPIV3Schema"])
            for name, kind in (("metadata", "object"), ("apiVersion", "string"), ("kind", "string")):
                schema["properties"][name] = {"type": kind}
            key = f"{spec['group']}/{version['name']}", spec["names"]["kind"]
            made[key] = jsonschema.Draft202012Validator(schema)
    return made


def _strict(node: dict[str, Any]) -> dict[str, Any]:
    """A part of an openAPIV3Schema as JSON Schema that refuses unknown fields.

    https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/
    """
    if node.get("x-kubernetes-int-or-string"):
        text = {"type": "string"} | {key: node[key] for key in ("pattern",) if key in node}
        return {"anyOf": [{"type": "integer"}, text]}
    if node.get("x-kubernetes-embedded-resource"):
        return {"type": "object"}
    made = {
        k: v for k, v in node.items() if not k.startswith("x-kubernetes") and k not in _DROPPED | {"nullable"}
    }
    if "properties" in node:
        made["properties"] = {key: _strict(entry) for key, entry in node["properties"].items()}
        if not node.get("x-kubernetes-preserve-unknown-fields"):
            made.setdefault("additionalProperties", False)
    for key in ("items", "additionalProperties"):
        if isinstance(made.get(key), dict):
            made[key] = _strict(made[key])
    if "pattern" in node and not _is_python(node["pattern"]):
        del made["pattern"]
    return {"anyOf": [{"type": "null"}, made]} if node.get("nullable") else made


def _is_python(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


def packed(crds: list[dict[str, Any]]) -> dict[str, Any]:
    """`crds` with each part that occurs twice in `shared`, and `{"$shared": number}` where it was."""
    times: Counter[str] = Counter()

    def count(node: Any) -> None:
        if isinstance(node, (dict, list)):
            times[_text(node)] += 1
            for entry in node.values() if isinstance(node, dict) else node:
                count(entry)

    numbers: dict[str, int] = {}
    shared: list[Any] = []

    def short(node: Any) -> Any:
        if not isinstance(node, (dict, list)):
            return node
        text = _text(node)
        often = times[text] > 1 and len(text) > _SHORT
        if often and text in numbers:
            return {"$shared": numbers[text]}
        made = {k: short(v) for k, v in node.items()} if isinstance(node, dict) else [short(v) for v in node]
        if not often:
            return made
        numbers[text] = len(shared)
        shared.append(made)
        return {"$shared": numbers[text]}

    for crd in crds:
        count(crd)
    return {"shared": shared, "definitions": [short(crd) for crd in crds]}


def _text(node: Any) -> str:
    return json.dumps(node, sort_keys=True, separators=(",", ":"))


def _plain(node: Any) -> Any:
    """Without descriptions, which are most of a definition; a field of that name is a mapping and stays."""
    if isinstance(node, list):
        return [_plain(entry) for entry in node]
    if not isinstance(node, dict):
        return node
    return {k: _plain(v) for k, v in node.items() if not (k == "description" and isinstance(v, str))}


def main() -> None:
    """Write crds.json anew from the files that the command line names; its `sources` stay, for a person to correct."""
    import yaml

    read = [
        crd for name in sys.argv[1:] for crd in yaml.safe_load_all(Path(name).read_text(encoding="utf-8"))
    ]
    crds = sorted(filter(None, read), key=lambda crd: str(crd["metadata"]["name"]))
    made = {"sources": _kept()["sources"] if KEPT.exists() else [], **packed([_plain(crd) for crd in crds])}
    lines = [f'"sources": {json.dumps(made["sources"], indent=1)}']
    for key in ("shared", "definitions"):  # a line each, so that a diff shows what has changed
        lines.append(f'"{key}": [\n' + ",\n".join(map(_text, made[key])) + "\n]")
    KEPT.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
