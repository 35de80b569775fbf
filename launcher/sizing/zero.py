"""The part of a DeepSpeed configuration that decides memory and traffic, with DeepSpeed's own defaults filled in.

Owns the reading of these keys; leaves what they cost to memory.py and traffic.py, and whether a key exists at all
to the configuration's own check.

    zero.read(ds_config) -> Zero

Defaults are those of DeepSpeed 0.19.8: deepspeed/runtime/zero/config.py, deepspeed/runtime/zero/offload_config.py
and DeepSpeedEngine.get_data_types in deepspeed/runtime/engine.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

from launcher.deepspeed import spellings
from launcher.namedtuple import NamedTuple

Config = Mapping[str, object]

# State tensors of the size of the parameters that each optimizer keeps, besides the master weights. A mixed one
# (Muon, with Adam for embeddings and norms) counts as its larger part, so that no estimate falls short.
STATES = {
    **{
        "sgd": 0,
        "lion": 1,
        "adagrad": 1,
        "asgd": 1,
        "rmsprop": 1,
        "adam": 2,
        "adamw": 2,
        "lamb": 2,
        "muon": 2,
    },
    "onebitadam": 3,
}
# Parameters that add a tensor where they are on: torch.optim's constructors.
_MORE = {
    "sgd": ("momentum",),
    "rmsprop": ("momentum", "centered"),
    "adam": ("amsgrad",),
    "adamw": ("amsgrad",),
}


class Zero(NamedTuple):
    """What memory and traffic depend on. Sizes that DeepSpeed counts in elements are in elements here."""

    stage: int
    offload_optimizer: str  # none, cpu or nvme
    offload_param: str
    offload_ratio: float  # share of the optimizer that goes to the host (stage 3)
    pin_optimizer: bool
    pin_param: bool
    optimizer_buffers: int  # tensors in the NVMe swapper's pool
    param_buffers: int
    param_buffer_size: int
    max_in_cpu: int  # parameters held in host memory although they live on NVMe
    overlap: bool
    contiguous: bool
    multi_rank: bool  # gradients of all ranks' partitions in one all-reduce
    reduce_bucket: int
    allgather_bucket: int
    prefetch: int
    persistence: int  # a tensor below this size is kept whole on every rank
    max_live: int
    max_reuse: int
    sub_group: int
    hpz: int
    quantized_weights: bool
    quantized_gradients: bool
    accumulation: int  # gradient accumulation steps
    weight_bytes: int
    activation_bytes: int
    master_bytes: int
    state_bytes: int
    gradient_bytes: int  # of the gradients that wait for the step
    states: int
    torch_adam: bool  # torch's own, and not its fused one
    autocast: bool

    @property
    def whole_gradients(self) -> bool:
        """Whether stage 1 runs as BF16_Optimizer, which keeps all gradients in fp32 (engine.py, 0.19.8)."""
        low, offloaded = self.weight_bytes < self.gradient_bytes, self.offload_optimizer != "none"
        return self.stage == 1 and low and not offloaded


def read(config: Config) -> Zero:
    """The settings in `config` (DeepSpeed's keys), with defaults for those missing, "auto" or of the wrong kind."""
    zero = _section(config, "zero_optimization")
    optimizer = _section(zero, "offload_optimizer")
    param = _section(zero, "offload_param")
    bf16 = _section(config, "bf16") or _section(config, "bfloat16")
    fp16 = _section(config, "fp16")
    low = _flag(bf16, "enabled") or _flag(fp16, "enabled")
    autocast = _flag(_section(config, "torch_autocast"), "enabled")
    kind = _section(config, "optimizer")
    stage = min(_number(zero, "stage", 0), 3)
    weight = 2 if low else 4
    short = _flag(bf16, "bf16_master_weights_and_grads") or _flag(fp16, "fp16_master_weights_and_grads")
    master = 2 if low and short else 4
    accumulate = spellings.DTYPES.get(str(_section(config, "data_types").get("grad_accum_dtype")))
    return Zero(
        stage=stage,
        offload_optimizer=_device(optimizer),
        offload_param=_device(param) if stage == 3 else "none",
        offload_ratio=_ratio(optimizer.get("ratio")),
        pin_optimizer=_flag(optimizer, "pin_memory", True),
        pin_param=_flag(param, "pin_memory", True),
        optimizer_buffers=_number(optimizer, "buffer_count", 4),
        param_buffers=_number(param, "buffer_count", 5),
        param_buffer_size=_number(param, "buffer_size", 100_000_000),
        max_in_cpu=_number(param, "max_in_cpu", 1_000_000_000),
        overlap=_flag(zero, "overlap_comm", stage == 3),
        contiguous=_flag(zero, "contiguous_gradients", True),
        multi_rank=_flag(zero, "use_multi_rank_bucket_allreduce", True),
        reduce_bucket=_number(zero, "reduce_bucket_size", 500_000_000),
        allgather_bucket=_number(zero, "allgather_bucket_size", 500_000_000),
        prefetch=_number(zero, "stage3_prefetch_bucket_size", 50_000_000),
        persistence=_number(zero, "stage3_param_persistence_threshold", 100_000),
        max_live=_number(zero, "stage3_max_live_parameters", 1_000_000_000),
        max_reuse=_number(zero, "stage3_max_reuse_distance", 1_000_000_000),
        sub_group=_number(zero, "sub_group_size", 1_000_000_000),
        hpz=max(_number(zero, "zero_hpz_partition_size", 1), 1),
        quantized_weights=_flag(zero, "zero_quantized_weights"),
        quantized_gradients=_flag(zero, "zero_quantized_gradients"),
        accumulation=max(_number(config, "gradient_accumulation_steps", 1), 1),
        weight_bytes=weight,
        activation_bytes=2 if low or autocast else 4,
        master_bytes=master,
        state_bytes=2 if low and _flag(bf16, "bf16_optimizer_states") else 4,
        gradient_bytes=4 if accumulate == "fp32" else 2 if accumulate else weight,
        states=_states(str(kind.get("type", "adamw")).lower(), _section(kind, "params")),
        torch_adam=_is_unfused(_section(kind, "params")),
        autocast=autocast,
    )


def filled_by_trainer(config: Config, hidden: int) -> Config:
    """`config` with the sizes that Hugging Face's Trainer puts in place of `auto` for a model of width `hidden`.

    transformers/integrations/deepspeed.py (trainer_config_finalize), 5.23.
    """
    sizes = {
        "reduce_bucket_size": hidden * hidden,
        "stage3_prefetch_bucket_size": int(0.9 * hidden * hidden),
        "stage3_param_persistence_threshold": 10 * hidden,
    }
    zero = _section(config, "zero_optimization")
    filled = {key: size for key, size in sizes.items() if zero.get(key) == "auto"}
    return {**config, "zero_optimization": {**zero, **filled}}


def _section(config: Config, key: str) -> Config:
    value = config.get(key)
    return cast("Config", value) if isinstance(value, Mapping) else {}


def _number(config: Config, key: str, default: int) -> int:
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        return default
    return int(value)


def _flag(config: Config, key: str, default: bool = False) -> bool:
    value = config.get(key)
    return value if isinstance(value, bool) else default


def _states(name: str, params: Config) -> int:
    return STATES.get(name, 2) + sum(bool(params.get(key)) for key in _MORE.get(name, ()))


def _is_unfused(params: Config) -> bool:
    """Whether Adam is torch's own with temporary tensors; the workloads ask for its fused one, but for `foreach`.

    docker/workloads/engines.py (optimizer).
    """
    return _flag(params, "torch_adam") and not _flag(params, "fused", not _flag(params, "foreach"))


def _ratio(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        return 1.0
    return float(value)


def _device(section: Config) -> str:
    return str(section.get("device", "none")).lower()
