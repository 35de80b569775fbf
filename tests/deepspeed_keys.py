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
import functools
import inspect
import json
import os
import re
import sys
import types
import typing
from pathlib import Path
from typing import Any

from launcher.deepspeed import keys

Kinds = dict[str, Any]
KINDS: dict[Any, str] = {bool: "bool", int: "int", float: "number", str: "text"}
# Sections that DeepSpeed reads key by key; what it reads as a pydantic model is found through the model.
READ = {
    "activation_checkpointing": {},
    "aio": {},
    "autotuning": {"enabled": True},
    "checkpoint": {"parallel_write": {}, "writer": {}},
    "data_types": {},
    "expert_parallel": {"enabled": False},
    "flops_profiler": {},
    "optimizer": {"type": "AdamW", "params": {}},
    "scheduler": {"type": "WarmupLR", "params": {}},
    "torch_autocast": {"lower_precision_safe_modules": []},
}
# Read elsewhere than in DeepSpeedConfig: deepspeed/__init__.py (initialize) for Ulysses sequence parallelism.
ELSEWHERE = {"sequence_parallel_size": "int", "data_parallel_size": "int"}
# Read by the data pipeline as it goes: the names are those of its constants (data_efficiency()).
CURRICULUM = {
    "difficulty_type": ["percentile", "value"],
    "schedule_type": ["custom", "fixed_discrete", "fixed_linear", "fixed_root"],
}
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
    top |= {"data_efficiency": data_efficiency()}
    for path in keys.UNREAD:
        _drop(top, path)
    kinds = {"train_batch_size": "int", "train_micro_batch_size_per_gpu": "int", "datastates_ckpt": "any"}
    return dict(sorted({**top, **kinds, **ELSEWHERE}.items()))


def _drop(section: Kinds, path: tuple[str, ...]) -> None:
    for name in path[:-1]:
        section = section.get(name, {})
    section.pop(path[-1], None)


def data_efficiency() -> Kinds:
    """What deepspeed/runtime/data_pipeline/ reads, under the names of its constants."""
    from deepspeed.runtime.data_pipeline import constants

    def named(prefix: str, **kinds: Any) -> Kinds:
        return dict(sorted((getattr(constants, f"{prefix}_{name}"), kind) for name, kind in kinds.items()))

    schedule = named(
        "CURRICULUM_LEARNING_SCHEDULE",
        DIFFICULTY="any",
        MAX_STEP="any",
        TOTAL_STEP="int",
        DIFFICULTY_STEP="int",
        ROOT_DEGREE="int",
    )
    metric = named(
        "CURRICULUM_LEARNING",
        SAMPLE_PATH="text",
        METRIC_PATH="text",
        CLUSTERING_TYPE="text",
        MIN_DIFFICULTY="number",
        MAX_DIFFICULTY="number",
        SCHEDULE_CONFIG=schedule,
    )
    curriculum = named(
        "CURRICULUM_LEARNING", ENABLED="bool", CLUSTER_PATH="text", METRICS={"*": {**metric, **CURRICULUM}}
    )
    batching = named(
        "DYNAMIC_BATCHING",
        ENABLED="bool",
        METRICS_PATH="text",
        LR_SCALING_METHOD="text",
        MIN_BATCH_SIZE="int",
        MAX_BATCH_SIZE="int",
        SEQUENCE_PICKING_ORDER="text",
        MAX_TOKENS="int",
        VERBOSE="bool",
    )
    growth = named("RANDOM_LTD", INCREASE_STEP="int", REQUIRE_STEP="int")
    layers = named(
        "RANDOM_LTD", MIN_VALUE="int", MAX_VALUE="int", SCHEDULER_TYPE="text", SCHEDULE_CONFIG=growth
    )
    rates = named(
        "RANDOM_LTD",
        LAYER_TOKEN_LR_ENABLED="bool",
        TOTAL_LAYER_TOKENS="int",
        WARMUP_TYPE="text",
        WARMUP_LAYER_TOKENS="int",
    )
    random_ltd = named(
        "RANDOM_LTD",
        ENABLED="bool",
        MODEL_MASK_NAME="any",
        MODEL_TYPE="text",
        MICRO_BATCH_SIZE="int",
        GLOBAL_BATCH_SIZE="int",
        HIDDEN_STATE_ORDER="text",
        LAYER_NUM="int",
        LAYER_ID="any",
        TOTAL_LAYER_NUM="int",
        SCHEDULER=layers,
        LAYER_TOKEN_LR_SCHEDULE=rates,
    )
    sampling = named("DATA_SAMPLING", ENABLED="bool", NUM_EPOCHS="int", NUM_WORKERS="int", PIN_MEMORY="bool")
    sampling |= {constants.CURRICULUM_LEARNING: curriculum, constants.DYNAMIC_BATCHING: batching}
    routing = {**named("DATA_ROUTING", ENABLED="bool"), constants.RANDOM_LTD: random_ltd}
    return {
        **named("DATA_EFFICIENCY", ENABLED="bool", SEED="int"),
        constants.DATA_ROUTING: routing,
        constants.DATA_SAMPLING: sampling,
    }


def names() -> dict[str, dict[str, str]]:
    """Section → field names that its model takes beside their aliases, which keys.json has."""
    made = {
        section: {
            name: info.alias
            for name, info in sorted(model.model_fields.items())
            if info.alias not in (None, name)
        }
        for section, model in models().items()
        if model.model_config.get("populate_by_name")
    }
    return {section: found for section, found in sorted(made.items()) if found}


def nulls() -> list[str]:
    """Where a model takes null."""
    return sorted(path for section, model in models().items() for path in _nulls(model, section))


def _nulls(model: Any, path: str) -> typing.Iterator[str]:
    for name, info in model.model_fields.items():
        arguments = typing.get_args(info.annotation)
        here = f"{path}.{info.alias or name}"
        if type(None) in arguments and not _deprecated(info):
            yield here
        for inner in (a for a in arguments or (info.annotation,) if hasattr(a, "model_fields")):
            yield from _nulls(inner, here)


def texts() -> str:
    """DeepSpeed's whole source, but for the files that declare keys."""
    return "\n".join(text for file, text in _sources().items() if not file.endswith(_DECLARING))


def mentions(name: str) -> set[str]:
    """The files of DeepSpeed that say a key's name or its constant's, but for those that declare keys."""
    found = _sources()
    named = re.compile(rf"^([A-Z_]+) = [\"']{name}[\"']", re.MULTILINE)
    constants = {constant for text in found.values() for constant in named.findall(text)}
    word = re.compile(rf"\b({'|'.join([name, *constants])})\b")
    return {file for file, text in found.items() if word.search(text) and not file.endswith(_DECLARING)}


_DECLARING = ("config.py", "constants.py")


@functools.cache
def _sources() -> dict[str, str]:
    import deepspeed

    folder = Path(deepspeed.__file__).parent
    return {str(path.relative_to(folder)): path.read_text("utf-8") for path in folder.rglob("*.py")}


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
    made = {k: "auto" if v == "auto" else KINDS.get(type(v), "any") for k, v in defaults.items()}
    # its engine asks for more than has a default
    from deepspeed.runtime.pipe import engine

    asked = re.findall(r"\.pipeline(?:\.get\(|\[)'(\w+)'", inspect.getsource(engine))
    return dict(sorted({**{key: "bool" for key in asked}, **made}.items()))


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
        "scheduler": dict[str, Any]({name: _parameters([kind], True) for name, kind in own.items()})
        | _of_torch(torch.optim.lr_scheduler, torch.optim.lr_scheduler.LRScheduler),
    }


def _muon(optimizers: dict[str, Any], popped: Kinds) -> Kinds:
    from deepspeed.runtime import config, engine

    halves = engine.DeepSpeedEngine._MUON_HALF_KEYS, engine.DeepSpeedEngine._ADAM_HALF_KEYS
    known = {**optimizers[config.ADAM_OPTIMIZER], "momentum": "number", "ns_method": "text"}
    muon = {key: known[key] for half in halves for key in half}
    return dict(sorted({**muon, **popped, "muon_lr": "number", "adam_lr": "number"}.items()))


def _of_torch(module: Any, parent: type) -> dict[str, Kinds]:
    lists = module.__name__.endswith("lr_scheduler")
    return {made.__name__: _parameters([made], lists) for made in _classes(module, parent)}


def _classes(module: Any, parent: type) -> list[Any]:
    kinds = {n: o for n, o in vars(module).items() if isinstance(o, type) and issubclass(o, parent)}
    return [o for n, o in sorted(kinds.items()) if o is not parent and not n.startswith("_")]


# Not a job's to give: what is optimized, what DeepSpeed refuses in favour of `gradient_clipping`, and what it gives
# itself (from adam_w_mode).
_NOT_GIVEN = {"self", "args", "kwargs", "params", "model_params", "optimizer", "max_grad_norm", "adamw_mode"}


def _parameters(classes: list[Any], lists: bool = False) -> Kinds:
    """The parameters of their constructors, with the kinds of the defaults; with `lists` each may be one a group."""
    kinds: Kinds = {}
    for parameter in (p for c in classes for p in _given(c)):
        default = parameter.default
        number = isinstance(default, (int, float)) and not isinstance(default, bool)
        usual = "number" if number and not lists else KINDS.get(type(default), "any")
        kinds.setdefault(
            parameter.name, "numbers" if isinstance(default, tuple) or (number and lists) else usual
        )
    return dict(sorted(kinds.items()))


def _given(made: Any) -> list[inspect.Parameter]:
    """The parameters that a configuration can give."""
    return [p for p in inspect.signature(made.__init__).parameters.values() if p.name not in _NOT_GIVEN]


def required() -> dict[str, dict[str, list[str]]]:
    """Section → type → the parameters without a default, of the types that have such."""
    import torch
    from deepspeed.runtime import lr_schedules

    own = [getattr(lr_schedules, name) for name in lr_schedules.VALID_LR_SCHEDULES]
    classes = {
        "optimizer": _classes(torch.optim, torch.optim.Optimizer),
        "scheduler": [*own, *_classes(torch.optim.lr_scheduler, torch.optim.lr_scheduler.LRScheduler)],
    }
    empty = inspect.Parameter.empty
    found = {
        section: {c.__name__: [p.name for p in _given(c) if p.default is empty] for c in kinds}
        for section, kinds in classes.items()
    }
    return {section: {n: names for n, names in kinds.items() if names} for section, kinds in found.items()}


def classes() -> dict[str, dict[str, list[str]]]:
    """Optimizer of DeepSpeed → where it is made → the parameters that are taken there (_configure_basic_optimizer)."""
    import torch
    from deepspeed.ops import adagrad, adam, lion
    from deepspeed.runtime import config

    adams = {"gpu": adam.FusedAdam, "host": adam.DeepSpeedCPUAdam}
    popped = (config.TORCH_ADAM_PARAM, config.ADAM_W_MODE, "fp32_optimizer_states")
    made = {
        config.ADAGRAD_OPTIMIZER: {"gpu": torch.optim.Adagrad, "host": adagrad.DeepSpeedCPUAdagrad},
        config.ADAM_OPTIMIZER: {**adams, "torch": torch.optim.Adam},
        config.ADAMW_OPTIMIZER: {**adams, "torch": torch.optim.AdamW},
        config.LION_OPTIMIZER: {"gpu": lion.FusedLion, "host": lion.DeepSpeedCPULion},
    }
    return {
        name: {
            where: sorted({p.name for p in _given(c)} | set(popped if "torch" in kinds else ()))
            for where, c in kinds.items()
        }
        for name, kinds in made.items()
    }


def document() -> dict[str, Any]:
    """The whole of keys.json."""
    import deepspeed

    version = deepspeed.__version__.partition("+")[0].strip()
    return {
        "version": version,
        "keys": found(),
        "models": sorted({"timers" if name == "throughput" else name for name in models()}),
        "names": names(),
        "nulls": nulls(),
        "parameters": parameters(),
        "required": required(),
        "classes": classes(),
    }


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
