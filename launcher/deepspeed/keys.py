"""Whether DeepSpeed reads the keys that a job lays over a preset, before it is asked.

Owns the names of keys; what a kind takes is in kinds.py, what goes together in rules.py. DeepSpeed ignores a key at the
top that it does not know, so a slip of the pen trains something else. keys.json is what tests/deepspeed_keys.py sees it
read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from launcher import workloads
from launcher.deepspeed import kinds, parameters, spellings, versions
from launcher.errors import Problem, did_you_mean, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    KeyPath = tuple[str, ...]

# What DeepSpeed 0.19 removed and refuses, and what to do instead: _REMOVED_TOP_LEVEL_CONFIG_KEYS and
# _REMOVED_ZERO_CONFIG_KEYS of deepspeed/runtime/config.py; https://github.com/deepspeedai/DeepSpeed/issues/8489
REMOVED: dict[KeyPath, str] = {
    ("amp",): "set the job's `precision:`",
    ("compression_training",): "quantize the trained model with a tool of its own",
    ("curriculum_learning",): "use data_efficiency.data_sampling.curriculum_learning",
    ("eigenvalue",): "leave it out",
    (
        "elasticity",
    ): "use nodes: {min, max}, or change it between runs: a new one resumes with checkpoint.resume",
    ("graph_harvesting",): "leave it out",
    ("nebula",): "leave it out: the workload writes complete checkpoints",
    ("progressive_layer_drop",): "leave it out",
    ("quantize_training",): "quantize the trained model with a tool of its own",
    ("sparse_attention",): "set args.attention",
    ("sparse_gradients",): "leave it out: embeddings made with sparse=True need no flag",
    ("zero_optimization", "mics_hierarchical_params_gather"): "use ZeRO++: preset zeropp",
    ("zero_optimization", "mics_shard_size"): "use ZeRO++: preset zeropp",
    ("zero_optimization", "zeropp_loco_param"): "leave it out",
}
# What DeepSpeed still takes for something else, with a warning (`deprecated` in deepspeed/runtime/zero/config.py) or
# without one (BFLOAT16_OLD in deepspeed/runtime/constants.py).
DEPRECATED: dict[KeyPath, str] = {
    ("bfloat16",): "set the job's `precision:`",
    ("zero_optimization", "cpu_offload"): "use offload_optimizer: {device: cpu}",
    ("zero_optimization", "cpu_offload_param"): "use offload_param: {device: cpu}",
    (
        "zero_optimization",
        "cpu_offload_use_pin_memory",
    ): "use pin_memory in offload_optimizer and offload_param",
    (
        "zero_optimization",
        "stage3_gather_fp16_weights_on_model_save",
    ): "use stage3_gather_16bit_weights_on_model_save",
}
# What DeepSpeed takes and then does nothing with, and what it always refuses (runtime/engine.py: only versions up to
# 0.5.8 had it). tests/deepspeed_keys.py looks for their readers.
UNREAD: dict[KeyPath, str] = {
    ("autotuning", "min_train_batch_size"): "use min_train_micro_batch_size_per_gpu",
    ("disable_allgather",): "leave it out",
    ("weight_quantization", "enabled"): "leave it out: training reads quantized_initialization alone",
    ("weight_quantization", "num_bits"): "use quantized_initialization: {num_bits: …}",
    ("weight_quantization", "q_groups"): "leave it out: training reads quantized_initialization alone",
    ("weight_quantization", "q_type"): "leave it out: training reads quantized_initialization alone",
    ("zero_optimization", "allgather_partitions"): "leave it out",
}
# The launcher derives these: https://www.deepspeed.ai/docs/config-json/#batch-size-related-parameters
BATCH = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
# `auto` is a word of Hugging Face's Trainer, which fills it in; DeepSpeed itself fails on it or takes its default.
# Here the launcher knows some of them for any workload, and the workloads that use the Trainer (which say so:
# Traits.resolves_auto) the rest of those in transformers/integrations/deepspeed.py (HfTrainerDeepSpeedConfig).
OURS: tuple[KeyPath, ...] = (
    *((key,) for key in BATCH),
    ("gradient_clipping",),
    ("bf16", "enabled"),
    ("fp16", "enabled"),
)
AUTO: tuple[KeyPath, ...] = (
    *(("optimizer", "params", name) for name in ("betas", "eps", "lr", "weight_decay")),
    *(("scheduler", "params", f"warmup_{name}") for name in ("max_lr", "min_lr", "num_steps")),
    ("scheduler", "params", "total_num_steps"),
    ("zero_optimization", "reduce_bucket_size"),
    ("zero_optimization", "stage3_param_persistence_threshold"),
    ("zero_optimization", "stage3_prefetch_bucket_size"),
)
# Words that DeepSpeed compares a value with, where its own types do not say so.
WORDS: dict[KeyPath, tuple[str, ...]] = {
    ("communication_data_type",): ("bf16", "fp16", "fp32"),
    ("seq_parallel_communication_data_type",): ("bf16", "fp16", "fp32"),
    ("gradient_allreduce_op",): ("mean", "sum"),
    ("log_level",): ("critical", "debug", "error", "info", "warning"),
    ("checkpoint", "tag_validation"): ("fail", "ignore", "warn"),
    ("checkpoint", "writer", "data_parallel"): ("machine", "replica", "socket"),
    ("checkpoint", "writer", "type"): ("fast", "mock", "python"),
}
# Types that the configuration names: deepspeed/runtime/config.py. A null leaves these to their defaults, and more.
_DTYPES = tuple(("data_types", f"{what}_dtype") for what in ("buffer", "grad_accum", "param"))
_NULLS = (*_DTYPES, ("checkpoint", "writer", "data_parallel"), ("log_level",))
# Kinds that DeepSpeed's types do not say: it divides by these, or refuses them where they are used (fp16: see
# deepspeed/runtime/precision_config.py; prints and gradients: deepspeed/runtime/engine.py; ZenFlow: its config's
# validate_fields).
RANGES: dict[KeyPath, Any] = {
    **dict.fromkeys((*_DTYPES, ("torch_autocast", "dtype")), sorted(spellings.DTYPES)),
    ("comms_logger", "prof_ops"): "texts",
    ("data_types", "keep_in_fp32_modules"): "texts",
    # module_inject/auto_ep_config.py (validate_autoep_config)
    ("expert_parallel", "autoep_size"): "int >0",
    ("expert_parallel", "expert_tensor_parallel_size"): "int >0",
    ("expert_parallel", "combine_impl"): ["auto", "fused_weighted_sum", "legacy_bmm", "weighted_sum"],
    ("expert_parallel", "comm_backend"): ["comm", "deepep"],
    ("expert_parallel", "gate_up_impl"): ["fused", "separate"],
    ("expert_parallel", "row_weighting_impl"): ["auto", "eager", "fused"],
    ("expert_parallel", "score_apply"): ["auto", "post", "pre"],
    ("expert_parallel", "score_func"): ["auto", "sigmoid", "softmax"],
    ("torch_autocast", "lower_precision_safe_modules"): "texts",
    ("zero_optimization", "zenflow", "select_interval"): "int >0",
    ("zero_optimization", "zenflow", "select_strategy"): ["auto", "epoch", "step"],
    ("zero_optimization", "zenflow", "update_interval"): "int >0",
    ("aio", "block_size"): "int >0",
    ("aio", "intra_op_parallelism"): "int >0",
    ("aio", "queue_depth"): "int >0",
    ("fp16", "loss_scale"): "number >=0",
    ("fp16", "loss_scale_window"): "int >0",
    ("fp16", "min_loss_scale"): "int >0",
    ("gradient_clipping",): "number >=0",
    ("gradient_predivide_factor",): "number >0",
    ("pipeline", "stages"): "int >0",
    ("sequence_parallel_size",): "int >0",
    ("steps_per_print",): "int >0",
    ("tensor_parallel", "autotp_size"): "int >=0",
}


def known() -> dict[str, Any]:
    """The keys of the DeepSpeed in the images: a section is a mapping, a key has the kind of its value."""
    keys: dict[str, Any] = spellings.table()["keys"]
    return keys


def schema() -> dict[str, Any]:
    """The JSON Schema of these keys in a job: each with the kind of its value, for editors."""
    derived = {key: {"const": "auto"} for key in BATCH}
    taken = {key: kind for key, kind in known().items() if (key,) not in DEPRECATED}
    return {key: derived.get(key) or _schema(kind, (key,)) for key, kind in taken.items()}


def _schema(kind: Any, path: KeyPath) -> dict[str, Any]:
    plain = _schema_of_value(kind, path)
    if path == ("zero_optimization",):
        return {"anyOf": [plain, {"type": "boolean"}]}
    nullable = spellings.may_be_null(path) or path in _NULLS
    return {"anyOf": [plain, {"type": "null"}]} if plain and nullable else plain


def _schema_of_value(kind: Any, path: KeyPath) -> dict[str, Any]:
    if isinstance(kind, dict):
        inner = {key: _schema(below, (*path, key)) for key, below in kind.items()}
        more = inner.pop(_ANY_NAME, False)
        others = spellings.names(path[0]) if path[1:] == () else {}
        inner |= {name: inner[own] for name, own in others.items() if own in inner}
        return {"type": "object", "properties": inner, "additionalProperties": more}
    ranged = RANGES.get(path, kind)
    if isinstance(ranged, list):
        return {"enum": ranged}
    plain = kinds.schema(ranged)
    if path == ("zero_optimization", "zero_hpz_partition_size"):
        return {"anyOf": [plain, {"const": "slots"}]}
    may_be_auto = path in AUTO or path in OURS or (kind == "auto" and plain)
    return {"anyOf": [plain, {"const": "auto"}]} if may_be_auto else plain


def problems(
    overrides: Mapping[str, Any], workload: str, version: str = ""
) -> Iterator[tuple[KeyPath, Problem]]:
    """What is wrong with DeepSpeed's keys in a job, as (path, problem without a place).

    `version`: of the ranks' DeepSpeed, where it is known.
    """
    table = versions.table(version)
    optimizer = overrides.get("optimizer")
    named = str(optimizer.get("type")).lower() if isinstance(optimizer, dict) else ""
    for path, problem in _section(overrides, table.keys, (), workloads.traits(workload).resolves_auto):
        if path == ("optimizer", "type") and named in table.gone:
            continue
        if problem.message.startswith("unknown key") and _is_in(versions.ours().keys, path):
            what = f"deepspeed.{'.'.join(path)}: DeepSpeed {table.version} has no such key"
            yield path, Problem(what, f"leave it out; {versions.ours().version} has it")
        else:
            yield path, problem
    if named in table.new:
        what = f"deepspeed.optimizer.type: DeepSpeed {table.version} has no optimizer {shown(named)}"
        yield ("optimizer", "type"), Problem(what)
    yield from parameters.lacking(overrides)


def _is_in(known_keys: Any, path: KeyPath) -> bool:
    for key in path:
        if not isinstance(known_keys, dict) or key not in known_keys:
            return False
        known_keys = known_keys[key]
    return True


def _section(
    given: Mapping[str, Any], known_keys: Mapping[str, Any], above: KeyPath, resolves: bool
) -> Iterator[tuple[KeyPath, Problem]]:
    for key, value in given.items():
        path = (*above, key)
        *_, own = spellings.known(path)
        kind = known_keys.get(own, known_keys.get(_ANY_NAME))
        if spellings.is_other_value(path, value) or (path in OURS and value == "auto"):
            continue
        if own != key and own in given:
            what = f"deepspeed.{'.'.join(path)} is another name of {own}, which is there too"
            yield path, Problem(what, "leave one of them out")
        elif problem := _problem_of_name(path, known_keys, kind):
            yield path, problem
        elif isinstance(kind, dict) and isinstance(value, dict):
            yield from _section(value, kind, path, resolves)
        elif path in (("optimizer", "params"), ("scheduler", "params")):
            yield from _parameters(path, value, given.get("type"), resolves)
        else:
            yield from _value(path, value, kind, resolves)


def _problem_of_name(path: KeyPath, known_keys: Mapping[str, Any], kind: Any) -> Problem | None:
    """What is wrong with a key whatever its value is; `kind`: the key's, None for one that is not known."""
    name = f"deepspeed.{'.'.join(path)}"
    if path in UNREAD:
        return Problem(f"{name}: DeepSpeed does nothing with it", UNREAD[path])
    if path in REMOVED and path[-1] not in known_keys:  # a version before may still have it
        return Problem(f"{name}: DeepSpeed has removed this feature", REMOVED[path])
    if path in DEPRECATED:
        return Problem(f"{name} is deprecated", DEPRECATED[path])
    if len(path) == 1 and path[0] in BATCH:
        return Problem(f"{name} is derived from `batch:`", "remove it")
    return None if kind else Problem(f"unknown key {shown(name)}", _suggestion(path, known_keys))


def _parameters(path: KeyPath, given: Any, named: Any, resolves: bool) -> Iterator[tuple[KeyPath, Problem]]:
    """What is wrong with the parameters `given` to the optimizer or schedule that is `named`."""
    section = path[0]
    if not isinstance(given, dict):
        what = f"deepspeed.{section}.params: a mapping of its parameters is expected, not {shown(given)}"
        yield path, Problem(what)
        return
    own = parameters.own(section, named)
    known_parameters = parameters.types(section).get(own) if own else None
    for key, value in given.items():
        here = (*path, key)
        if parameters.is_unset(section, key, value):
            continue
        if known_parameters is None:
            yield from _value(here, value, "any", resolves)
        elif key not in known_parameters:
            hint = "use gradient_clipping" if key == "max_grad_norm" else did_you_mean(key, known_parameters)
            yield here, Problem(f"deepspeed.{'.'.join(path)}: {own} has no parameter {shown(key)}", hint)
        else:
            kind = parameters.kind(section, key, known_parameters[key])
            yield from _value(here, value, kind, resolves)


def _value(path: KeyPath, value: Any, kind: Any, resolves: bool) -> Iterator[tuple[KeyPath, Problem]]:
    name = f"deepspeed.{'.'.join(path)}"
    if path in (("optimizer", "type"), ("scheduler", "type")):
        if problem := parameters.problem_of_type(path[0], value):
            yield path, problem
    elif isinstance(value, dict) and kind == "any":
        for key, inner in value.items():
            yield from _value((*path, key), inner, "any", resolves)
    elif value == "auto":
        if kind == "auto" or (resolves and spellings.known(path) in AUTO):
            return
        who = "Hugging Face's Trainer" if resolves else "this workload"
        yield path, Problem(f"{name}: {who} does not resolve `auto` here", "give a value, or leave it out")
    elif value is None and (path[-1].endswith("communication_data_type") or path in _NULLS):
        return  # what follows from the rest: deepspeed/runtime/config.py, get_communication_data_type
    elif path in WORDS and str(value).lower() not in WORDS[path]:
        yield path, Problem(f"{name}: {shown(value)} is not known", did_you_mean(str(value), WORDS[path]))
    else:
        expected = _mismatch(path, value, RANGES.get(path, kind))
        if expected:
            yield path, Problem(f"{name}: {expected} is expected, not {shown(value)}")


def _mismatch(path: KeyPath, value: Any, kind: Any) -> str:
    """What should stand there instead of `value`; empty when it may."""
    if isinstance(kind, dict):
        return "a mapping of DeepSpeed's keys"
    if isinstance(kind, list):
        chosen = not isinstance(value, bool) and value in kind
        return "" if chosen else ", ".join(map(str, kind[:-1])) + f" or {kind[-1]}"
    if value == "slots" and path == ("zero_optimization", "zero_hpz_partition_size"):
        return ""  # our own word, which a plan fills in
    # 5e8 is how sizes are written in DeepSpeed's own examples
    return kinds.mismatch(kind, value, rounded=spellings.rounds(path))


def _suggestion(path: KeyPath, kinds: Mapping[str, Any]) -> str:
    """Where an unknown key belongs, or which known one is meant."""
    *_, key = path
    sections = {name: inner for name, inner in known().items() if isinstance(inner, dict)}
    if len(path) > 1 and key in known():
        return "it belongs at the top of `deepspeed:`"
    above = sorted(name for name, inner in sections.items() if key in inner and key not in _ANYWHERE)
    if above and (len(path) == 1 or above[0] != path[0]):
        return f"it belongs in {above[0]}: {{{key}: …}}"
    return did_you_mean(key, kinds) or "see https://www.deepspeed.ai/docs/config-json/"


_ANY_NAME = "*"  # in keys.json: what names of the user's own stand for
_ANYWHERE = ("enabled", "params", "type", "dtype", "mode")
