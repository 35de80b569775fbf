"""The keys that the installed DeepSpeed reads, found by watching it read a configuration.

Owns the look into DeepSpeed; launcher/deepspeed/keys.json keeps what it finds, so that the launcher needs no DeepSpeed.

    DS_ACCELERATOR=cpu python -m tests.deepspeed_keys > launcher/deepspeed/keys.json

Of other versions, each unpacked in a folder (`pip download --no-deps --no-binary deepspeed deepspeed==0.18.9`):

    PYTHONPATH=deepspeed-0.18.9 DS_BUILD_OPS=0 DS_ACCELERATOR=cpu python -m tests.deepspeed_keys > 0.18.json
    python -m tests.deepspeed_keys 0.16.json 0.17.json 0.18.json > launcher/deepspeed/versions.json

A section is a mapping of its keys; a key has the kind of its value: bool, int, number, text, with the range of a number
(`int >0`), a list of the words or numbers that it may be, auto (DeepSpeed itself knows the word), or any. `parameters`
are those that the optimizers and schedulers take, by the names of their types.
"""

from __future__ import annotations

import enum
import inspect
import json
import os
import sys
import types
import typing
from pathlib import Path
from typing import Any

Kinds = dict[str, Any]
KINDS: dict[Any, str] = {bool: "bool", int: "int", float: "number", str: "text"}
# Sections that DeepSpeed reads key by key; what it reads as a pydantic model is found through the model.
READ = {
    "activation_checkpointing": {},
    "aio": {},
    "autotuning": {"enabled": True},
    "checkpoint": {"parallel_write": {}},
    "data_types": {},
    "expert_parallel": {"enabled": False},
    "flops_profiler": {},
    "optimizer": {"type": "AdamW", "params": {}},
    "scheduler": {"type": "WarmupLR", "params": {}},
    "torch_autocast": {"lower_precision_safe_modules": []},
}
# Read elsewhere than in DeepSpeedConfig: deepspeed/__init__.py (initialize) for Ulysses sequence parallelism.
ELSEWHERE = {"sequence_parallel_size": "int", "data_parallel_size": "int"}
# What a mapping of the user's own names follows; DeepSpeed's data pipeline reads these as it goes.
FREE = ("params", "arg_mappings", "model_info")
BATCH = {"train_batch_size": 1, "train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 1}


class Watched(dict[str, Any]):
    """A mapping that notes which of its keys are asked for, and with which default."""

    def __init__(self, given: dict[str, Any]) -> None:
        super().__init__({k: Watched(v) if isinstance(v, dict) else v for k, v in given.items()})
        self.asked: Kinds = {}

    def note(self, key: str, default: Any = None) -> None:
        known = self.asked.get(key)
        if known in (None, "any"):
            self.asked[key] = "auto" if default == "auto" else KINDS.get(type(default), "any")

    def __contains__(self, key: object) -> bool:
        self.note(str(key))
        return super().__contains__(key)

    def __getitem__(self, key: str) -> Any:
        self.note(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.note(key, default)
        return super().get(key, default)

    def keys(self) -> Any:
        return self

    def __copy__(self) -> Watched:
        return self

    def __deepcopy__(self, _: Any) -> Watched:
        return self


def found() -> Kinds:
    """Every key, as keys.json has it."""
    from deepspeed.runtime import config

    watched = Watched({**BATCH, **READ})
    config.DeepSpeedConfig(watched)
    precisions = {name: _precision(name) for name in ("fp16", "bf16") if name not in models()}
    # what was removed is asked for as well
    top = {key: kind for key, kind in watched.asked.items() if key not in removed()}
    top |= {name: _section(watched[name]) for name in READ if name in watched.asked}
    top |= {name: _fields(model) for name, model in models().items()} | precisions
    top |= {"bfloat16": top["bf16"]}
    top |= {"timers": {"throughput": top.pop("throughput")}, "pipeline": _pipeline(config)}
    kinds = {"train_batch_size": "int", "train_micro_batch_size_per_gpu": "int", "datastates_ckpt": "any"}
    return dict(sorted({**top, **kinds, **ELSEWHERE}.items()))


def removed() -> dict[str, str]:
    """Keys that DeepSpeed refuses since it has removed what they turned on; its own words."""
    from deepspeed.runtime import config

    tables = [getattr(config, f"_REMOVED_{name}_CONFIG_KEYS", {}) for name in ("TOP_LEVEL", "ZERO")]
    return {**tables[0], **{f"zero_optimization.{k}": v for k, v in tables[1].items()}}


def _precision(section: str) -> Kinds:
    """The keys of fp16 or bf16 before DeepSpeed 0.17, which read them one by one where they are enabled."""
    from deepspeed.runtime import config

    # the scale's keys are read only where one of them is there
    scale = {"loss_scale_window": 1000} if section == "fp16" else {}
    watched = Watched({**BATCH, section: {"enabled": True, **scale}})
    config.DeepSpeedConfig(watched)
    made: Kinds = _section(watched[section])
    return made


def models() -> dict[str, Any]:
    """Section → the pydantic model that DeepSpeed reads it with."""
    from deepspeed.comm.config import CommsLoggerConfig
    from deepspeed.compile.config import CompileConfig
    from deepspeed.inference.config import WeightQuantConfig
    from deepspeed.monitor.config import DeepSpeedMonitorConfig
    from deepspeed.runtime import tensor_parallel
    from deepspeed.runtime.config import HybridEngineConfig
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
    from deepspeed.utils.config import DeepSpeedThroughputTimerConfig

    monitors = {name: info.annotation for name, info in DeepSpeedMonitorConfig.model_fields.items()}
    return {
        **monitors,
        **_precisions(),
        "comms_logger": CommsLoggerConfig,
        "compile": CompileConfig,
        "hybrid_engine": HybridEngineConfig,
        "tensor_parallel": tensor_parallel.config.TPTrainingConfig,
        "throughput": DeepSpeedThroughputTimerConfig,
        "weight_quantization": WeightQuantConfig,
        "zero_optimization": DeepSpeedZeroConfig,
    }


def _precisions() -> dict[str, Any]:
    """Those of the precisions; {} before DeepSpeed 0.17, which had none."""
    try:
        from deepspeed.runtime import precision_config
    except ImportError:
        return {}
    bf16 = precision_config.DeepSpeedBF16Config
    return {
        "bf16": bf16,
        "bfloat16": bf16,
        "fp16": precision_config.DeepSpeedFP16Config,
    }  # bfloat16: its old name


def _fields(model: Any) -> Kinds:
    # An alias stands for its field: with both, the one in the preset and the user's would contradict each other.
    made = {
        info.alias or name: "auto"
        if info.default == "auto"
        else _ranged(_kind(info.annotation), info.metadata)
        for name, info in model.model_fields.items()
        if not _deprecated(info)
    }
    return dict(sorted(made.items()))


def deprecated(model: Any) -> set[str]:
    """The fields of a model that DeepSpeed takes for another one, with a warning."""
    return {name for name, info in model.model_fields.items() if _deprecated(info)}


def _deprecated(info: Any) -> bool:
    return bool((info.json_schema_extra or {}).get("deprecated"))


def _ranged(kind: Any, metadata: list[Any]) -> Any:
    """A kind with the bounds that the field has, as annotated-types says them."""
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    bounds = [
        f"{sign}{getattr(m, name):g}" for m in metadata for name, sign in signs.items() if hasattr(m, name)
    ]
    return " ".join([kind, *bounds]) if isinstance(kind, str) else kind


def _kind(annotation: Any) -> Any:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        inner = [a for a in typing.get_args(annotation) if a is not type(None)]
        return _kind(inner[0]) if len(inner) == 1 else "any"
    if typing.get_origin(annotation) is typing.Literal:
        return sorted(typing.get_args(annotation))
    if isinstance(annotation, type) and hasattr(annotation, "model_fields"):
        return _fields(annotation)
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        values = [member.value for member in annotation]
        return sorted(values) if all(isinstance(v, (int, str)) for v in values) else "any"
    if isinstance(annotation, type) and issubclass(annotation, os.PathLike):
        return "text"
    return KINDS.get(annotation, "any")


def _section(section: Watched) -> Any:
    made = dict(section.asked)
    for key, value in section.items():
        if isinstance(value, Watched):
            made[key] = "any" if key in FREE else _section(value)
    return dict(sorted(made.items()))


def _pipeline(config: Any) -> Kinds:
    defaults = config.get_pipeline_config({})
    return {k: "auto" if v == "auto" else KINDS.get(type(v), "any") for k, v in sorted(defaults.items())}


def parameters() -> dict[str, dict[str, Kinds | None]]:
    """Section → type → its parameters, of all the classes that the type can stand for.

    DeepSpeed takes its own optimizers' types, lower case here, in any case. null: those that need another package.
    """
    import torch
    from deepspeed.ops import adagrad, adam, lamb, lion
    from deepspeed.runtime import config, engine, lr_schedules

    adams = [adam.FusedAdam, adam.DeepSpeedCPUAdam, torch.optim.Adam]
    classes: dict[str, list[Any]] = {
        config.ADAGRAD_OPTIMIZER: [adagrad.DeepSpeedCPUAdagrad, torch.optim.Adagrad],
        config.ADAM_OPTIMIZER: adams,
        config.ADAMW_OPTIMIZER: adams,
        config.LAMB_OPTIMIZER: [lamb.FusedLamb],
        config.LION_OPTIMIZER: [lion.FusedLion, lion.DeepSpeedCPULion],
    }
    optimizers: dict[str, Any] = {name: _parameters(kinds) for name, kinds in classes.items()}
    # popped by the engine before the class gets the rest: get_optimizer_configuration
    popped = {config.TORCH_ADAM_PARAM: "bool", config.ADAM_W_MODE: "bool", "fp32_optimizer_states": "bool"}
    for name in (config.ADAM_OPTIMIZER, config.ADAMW_OPTIMIZER):
        optimizers[name] = dict(sorted({**optimizers[name], **popped}.items()))
    if hasattr(engine.DeepSpeedEngine, "_MUON_HALF_KEYS"):  # since 0.19
        optimizers[config.MUON_OPTIMIZER] = _muon(optimizers, popped)
    own = {name: getattr(lr_schedules, name) for name in lr_schedules.VALID_LR_SCHEDULES}
    others = {name: None for name in config.DEEPSPEED_OPTIMIZERS if name not in optimizers}
    return {
        "optimizer": optimizers | others | _of_torch(torch.optim, torch.optim.Optimizer),
        "scheduler": dict[str, Any]({name: _parameters([kind]) for name, kind in own.items()})
        | _of_torch(torch.optim.lr_scheduler, torch.optim.lr_scheduler.LRScheduler),
    }


def _muon(optimizers: dict[str, Any], popped: Kinds) -> Kinds:
    from deepspeed.runtime import config, engine

    halves = engine.DeepSpeedEngine._MUON_HALF_KEYS, engine.DeepSpeedEngine._ADAM_HALF_KEYS
    known = {**optimizers[config.ADAM_OPTIMIZER], "momentum": "numbers", "ns_method": "text"}
    muon = {key: known[key] for half in halves for key in half}
    return dict(sorted({**muon, **popped, "muon_lr": "numbers", "adam_lr": "numbers"}.items()))


def _of_torch(module: Any, parent: type) -> dict[str, Kinds]:
    kinds = {n: o for n, o in vars(module).items() if isinstance(o, type) and issubclass(o, parent)}
    return {
        n: _parameters([o]) for n, o in sorted(kinds.items()) if o is not parent and not n.startswith("_")
    }


# Not a job's to give: what is optimized, and what DeepSpeed itself refuses in favour of `gradient_clipping`.
_NOT_GIVEN = {"self", "args", "kwargs", "params", "model_params", "optimizer", "max_grad_norm"}


def _parameters(classes: list[Any]) -> Kinds:
    """The parameters of their constructors, with the kinds of the defaults: each rate may be a list, one a group."""
    kinds: Kinds = {}
    for parameter in (p for c in classes for p in inspect.signature(c.__init__).parameters.values()):
        if parameter.name not in _NOT_GIVEN:
            default = parameter.default
            many = isinstance(default, (int, float, tuple)) and not isinstance(default, bool)
            kinds.setdefault(parameter.name, "numbers" if many else KINDS.get(type(default), "any"))
    return dict(sorted(kinds.items()))


def document() -> dict[str, Any]:
    """The whole of keys.json."""
    import deepspeed

    version = deepspeed.__version__.partition("+")[0].strip()
    return {"version": version, "keys": found(), "parameters": parameters()}


def difference(ours: Kinds, theirs: Kinds) -> Kinds:
    """What makes `theirs` of `ours`, as a JSON Merge Patch (RFC 7386): null takes a key away."""
    made: Kinds = {key: None for key in ours if key not in theirs}
    for key, kind in theirs.items():
        if key in ours and isinstance(kind, dict) and isinstance(ours[key], dict):
            if inner := difference(ours[key], kind):
                made[key] = inner
        elif key not in ours or kind != ours[key]:
            made[key] = kind
    return dict(sorted(made.items()))


def versions(paths: list[str]) -> dict[str, Any]:
    """versions.json, from the documents of other versions: what each has otherwise than keys.json."""
    ours, made = json.loads(KEYS.read_text(encoding="utf-8")), {}
    for path in paths:
        theirs = json.loads(Path(path).read_text(encoding="utf-8"))
        types = [set(document["parameters"]["optimizer"]) for document in (ours, theirs)]
        made[theirs["version"].rpartition(".")[0]] = {
            "version": theirs["version"],
            "keys": difference(ours["keys"], theirs["keys"]),
            "optimizers": {"gone": sorted(types[1] - types[0]), "new": sorted(types[0] - types[1])},
        }
    return dict(sorted(made.items()))


KEYS = Path(__file__).parents[1] / "launcher" / "deepspeed" / "keys.json"

if __name__ == "__main__":
    print(json.dumps(versions(sys.argv[1:]) if sys.argv[1:] else document(), indent=1), file=sys.stdout)
