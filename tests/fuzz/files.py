"""Job, cluster and pipeline files, models' config.json and image facts: valid ones with a few places changed.

Owns which fields there are, read from the launcher's own schemas, workload parsers and table of DeepSpeed's keys.
"""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML

from launcher import ROOT, workloads
from launcher.deepspeed import config as deepspeed_config
from launcher.files import schema as files_schema
from tests.fuzz import values

if TYPE_CHECKING:
    from pathlib import Path
    from random import Random

JOB = {"name": "demo", "cluster": "here.yaml", "model": "byte-gpt", "batch": {"micro": 1}}
CLUSTER = {"slots": 2, "fabric": "loopback"}
MODELS = ("byte-gpt", "gpt2", "gpt2-xl", "llama-7b", "llama-70b", "mixtral-8x7b", "./model", "owner/name")
MODEL = {
    **{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "vocab_size": 256},
    **{"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 128},
    **{
        "max_position_embeddings": 128,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "head_dim": 16,
    },
}
KUBECONFIG = {
    **{"apiVersion": "v1", "kind": "Config", "current-context": "site"},
    "clusters": [{"name": "site", "cluster": {"server": "https://127.0.0.1:1"}}],
    "users": [{"name": "me", "user": {"token": "x"}}],
    "contexts": [{"name": "site", "context": {"cluster": "site", "user": "me", "namespace": "training"}}],
}
FACTS = {
    **{
        "flavour": "train",
        "cuda": "13.0",
        "compiler": True,
        "cpu_level": "x86-64-v3",
        "revision": "0123456789ab",
    },
    "ops": {
        "cpu_adam": {"architectures": [], "ptx": []},
        "fused_adam": {"architectures": ["9.0"], "ptx": ["9.0"]},
    },
}


@functools.cache
def shipped(folder: str) -> tuple[tuple[str, dict[str, Any]], ...]:
    """(name, data) of the files in jobs/ that hold jobs, clusters or pipelines."""
    every = sorted((ROOT / "jobs").rglob("*.yaml"))
    read = [(str(path.relative_to(ROOT)), _data(path)) for path in every]
    kind = {"clusters": "slots", "jobs": "batch", "pipelines": "pipeline"}[folder]
    return tuple((name, data) for name, data in read if kind in data)


def _data(path: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(json.dumps(YAML(typ="safe", pure=True).load(path), default=str))
    return data


@functools.cache
def _schema(kind: str) -> dict[str, Any]:
    return files_schema.schema("job" if kind == "job" else "cluster")


@functools.cache
def fields(kind: str) -> dict[str, dict[str, Any]]:
    """Dotted path → JSON Schema of every field of a job or cluster file; `NAME` stands for a key that is free."""
    found: dict[str, dict[str, Any]] = {}
    _walk(_schema(kind), _schema(kind), (), found)
    if kind == "job":
        for name in workloads.names():
            for option in workloads.options(name):
                found.setdefault(f"args.{option}", {})
    return found


def _walk(root: dict[str, Any], node: Any, path: tuple[str, ...], found: dict[str, dict[str, Any]]) -> None:
    node = _resolved(root, node)
    if path:
        found[".".join(path)] = node
    if len(path) > 6:
        return
    for key, entry in node.get("properties", {}).items():
        _walk(root, entry, (*path, key), found)
    free = node.get("additionalProperties")
    for entry in [*node.get("patternProperties", {}).values(), *([free] if isinstance(free, dict) else [])]:
        _walk(root, entry, (*path, "NAME"), found)
    for entry in node.get("anyOf", []):
        if "properties" in _resolved(root, entry):
            _walk(root, entry, path, found)


def _resolved(root: dict[str, Any], node: Any) -> dict[str, Any]:
    while isinstance(node, dict) and "$ref" in node:
        node = root["$defs"][node["$ref"].rpartition("/")[2]]
    return node if isinstance(node, dict) else {}


def typed(random: Random, node: dict[str, Any], kind: str) -> Any:
    """A value that the schema `node` takes, mostly."""
    node = _resolved(_schema(kind), node)
    if "anyOf" in node:
        return typed(random, random.choice(node["anyOf"]), kind)
    if "enum" in node:
        return random.choice(node["enum"])
    names = node.get("type", random.choice(("string", "integer", "number", "boolean")))
    name = random.choice(names) if isinstance(names, list) else names
    if name == "boolean":
        return random.random() < 0.5
    if name in {"integer", "number"}:
        low = node.get("minimum", node.get("exclusiveMinimum", 0))
        return random.choice(
            (
                low + 1,
                low + 3,
                2,
                4,
                8,
                node.get("maximum", 64),
                *((low, low - 1) if random.random() < 0.2 else ()),
            )
        )
    if name == "array":
        return [typed(random, node.get("items", {}), kind) for _ in range(random.choice((0, 1, 2)))]
    if name == "object":
        keys = random.sample(sorted(node.get("properties", {})), min(2, len(node.get("properties", {}))))
        return {key: typed(random, node["properties"][key], kind) for key in keys}
    if name == "null":
        return None
    return random.choice(
        (*node.get("examples", ()), "a", "a-b", "10m", "2h", "1GB", "512GiB", values.word(random))
    )


def _unfit(random: Random, node: dict[str, Any], kind: str) -> Any:
    """A hostile value, more often than not of the type that the field has."""
    node = _resolved(_schema(kind), node)
    if "anyOf" in node and random.random() < 0.7:
        return _unfit(random, random.choice(node["anyOf"]), kind)
    names = node.get("type")
    if names in ("integer", "number") and random.random() < 0.7:
        return values.number(random)
    if names == "string" and random.random() < 0.7:
        return values.word(random)
    return values.hostile(random)


def setting(random: Random, hurt: bool) -> tuple[str, Any]:
    """A field of the job or (`cluster.`) the cluster, as `--set` names it, and a value for it."""
    kind = random.choice(("job", "cluster"))
    path = random.choice(sorted(fields(kind)))
    value = (_unfit if hurt and random.random() < 0.7 else typed)(random, fields(kind)[path], kind)
    name = (
        (values.word(random)[:40] or "b")
        if hurt and random.random() < 0.2
        else random.choice(("a", "A", "x-y"))
    )
    path = path.replace("NAME", name)
    return path if kind == "job" else f"cluster.{path}", value


def _with(random: Random, base: dict[str, Any], kind: str, hurt: bool) -> dict[str, Any]:
    """`base` with up to two fields set to what fits; `hurt`, one more place holds what does not, or two."""
    made: dict[str, Any] = values.copied(base)
    for _ in range(random.choice((0, 0, 1, 2))):
        path = random.choice(sorted(fields(kind)))
        _put(made, path.replace("NAME", "a").split("."), typed(random, fields(kind)[path], kind))
    for _ in range(random.choice((1, 1, 1, 2)) if hurt else 0):
        if random.random() < 0.5:
            path = random.choice(sorted(fields(kind)))
            _put(made, path.replace("NAME", "a").split("."), _unfit(random, fields(kind)[path], kind))
        else:
            made = values.mutated(random, made)
        if not isinstance(made, dict):
            return {"a": made}
    return made


def job(random: Random, hurt: bool) -> dict[str, Any]:
    base = (
        dict(JOB) if random.random() < 0.5 else {**random.choice(shipped("jobs"))[1], "cluster": "here.yaml"}
    )
    if random.random() < 0.3:
        base["model"] = random.choice(MODELS)
    if random.random() < 0.3:
        base["deepspeed"] = deepspeed(random, hurt)
    return _with(random, base, "job", hurt)


def deepspeed(random: Random, hurt: bool) -> Any:
    """`auto`, a preset, or a few of DeepSpeed's own keys over a preset."""
    presets = deepspeed_config.presets()
    if random.random() < 0.3:
        return random.choice(("auto", *presets))
    made: dict[str, Any] = {"preset": random.choice(presets)}
    keys = sorted(key for key in fields("job") if key.startswith("deepspeed."))
    for key in random.sample(keys, random.choice((1, 1, 2, 3))):
        good = not hurt or random.random() < 0.5
        _put(
            made,
            key.split(".")[1:],
            (typed if good else _unfit)(random, fields("job")[key], "job"),
        )
    return made


def _put(data: dict[str, Any], path: list[str], value: Any) -> None:
    """`value` at `path`, unless the path runs through something that is no mapping."""
    *above, last = path
    at: Any = data
    for key in above:
        at = at.setdefault(key, {}) if isinstance(at, dict) else None
    if isinstance(at, dict):
        at[last] = value


def cluster(random: Random, hurt: bool) -> dict[str, Any]:
    base = dict(CLUSTER) if random.random() < 0.4 else random.choice(shipped("clusters"))[1]
    return _with(random, base, "cluster", hurt)


def pipeline(random: Random, hurt: bool) -> dict[str, Any]:
    stages: dict[str, dict[str, Any]] = {
        "one": {"job": "job.yaml"},
        "two": {"job": "job.yaml", "set": {"model": "$one/export"}},
    }
    made: dict[str, Any] = {"name": "chain", "cluster": "here.yaml", "pipeline": stages}
    if random.random() < 0.5:
        key, value = setting(random, hurt)
        stages["two"]["set"] = {key: value}
    for _ in range(random.choice((1, 1, 2)) if hurt else 0):
        made = values.mutated(random, made) if isinstance(made, dict) else made
    return made if isinstance(made, dict) else {"pipeline": made}
