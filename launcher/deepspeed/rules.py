"""What a DeepSpeed configuration cannot combine, found before the job waits in a queue.

Owns what goes together; names and kinds of keys are keys.py's. Each rule is one that DeepSpeed 0.19.8 asserts only
when all ranks are up, or that it passes over in silence; the place in its code stands beside it.

    rules.problems(ds_config, rules.Hosts(gpu="h100-80gb", capability=(9, 0), slots=8, local=("/nvme",)), "pretrain")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from launcher import workloads
from launcher.deepspeed import parameters, spellings
from launcher.deepspeed.config import BUFFER, below
from launcher.errors import Problem, shown
from launcher.namedtuple import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# ZERO_SUPPORTED_OPTIMIZERS of runtime/zero/utils.py, as a configuration names them
_SHARDABLE = ("adagrad", "adam", "adamw", "lion", "muon")
# Tensors of each weight that they keep besides its master, where it is not two
_STATES = {"adagrad": 1, "lion": 1}
# VALID_LR_SCHEDULES of runtime/lr_schedules.py, which take what wraps an optimizer
_SCHEDULES = ("LRRangeTest", "OneCycle", "WarmupCosineLR", "WarmupDecayLR", "WarmupLR")
# Keys of the stages that read them; DeepSpeed says nothing when another stage is on.
_STAGE_3 = (
    "offload_param",
    "zero_hpz_partition_size",
    "zero_quantized_weights",
    "zero_quantized_nontrainable_weights",
    "zero_quantized_gradients",
)
# What splits a model or a sample among ranks, for programs that do so: what it is, what to do instead.
_SPLITS = {
    ("sequence_parallel_size",): ("Ulysses sequence parallelism", "set args.sequence-parallel of pretrain"),
    ("tensor_parallel", "autotp_size"): ("tensor parallelism", "leave it out: ZeRO splits the model"),
}
# Sections that do something only in programs that ask for it; ours do not.
_IDLE = {
    "activation_checkpointing": "set args.activation-checkpointing: true",
    "data_efficiency": "leave it out",
    "hybrid_engine": "leave it out",
    "pipeline": "leave it out",
}

# Sections that DeepSpeed refuses when they are enabled without a key, also where `data_efficiency` is not
# (get_curriculum_learning and get_dynamic_batching in runtime/data_pipeline/config.py).
_NEEDED = {
    ("data_efficiency", "data_sampling", "curriculum_learning"): "curriculum_metrics",
    ("data_efficiency", "data_sampling", "dynamic_batching"): "max_tokens",
}


class Hosts(NamedTuple):
    """The hosts that the ranks are on; `gpu` is None where they have none.

    `local`: folders on a host's own disk, as the ranks see them. `part` and `own`: elements of a rank's part of the
    model's largest tensor, and of all that is trained; None where the model is not known. `world`: the ranks; 0: not
    said.
    """

    gpu: str | None
    capability: tuple[int, int]  # CUDA's
    slots: int
    local: tuple[str, ...] = ()
    part: int | None = None
    own: int | None = None
    world: int = 0


class _Config(NamedTuple):
    """A configuration with the parts that most rules ask for."""

    whole: Mapping[str, Any]

    @property
    def zero(self) -> Mapping[str, Any]:
        return self.section("zero_optimization")

    @property
    def stage(self) -> int:
        return int(self.zero.get("stage", 0))

    @property
    def optimizer(self) -> str:
        return str(self.section("optimizer").get("type", "AdamW")).lower()

    @property
    def torch_adam(self) -> bool:
        return bool(self.section("optimizer", "params").get("torch_adam"))

    @property
    def added(self) -> str:
        """What gradients are added up in: bf16, fp16 or fp32; '' where it is not said."""
        return spellings.DTYPES.get(str(self.section("data_types").get("grad_accum_dtype")), "")

    def section(self, *names: str) -> Mapping[str, Any]:
        """A section; empty where there is none."""
        section: Any = self.whole
        for name in names:
            section = section.get(name) if isinstance(section, dict) else None
        return section if isinstance(section, dict) else {}

    def offload(self, part: str) -> str:
        """Where `part` ("optimizer" or "param") is offloaded to: none, cpu or nvme."""
        return str(self.section("zero_optimization", f"offload_{part}").get("device", "none"))


def problems(
    config: Mapping[str, Any], hosts: Hosts, workload: str, precision: str, named: bool = True
) -> Iterator[Problem]:
    """Everything that cannot work together, each with the field that it is about.

    `precision` is the job's. Where the job has `named` it, it is checked elsewhere; here it is the configuration's.
    """
    given = _Config(config)
    yield from _stages(given)
    yield from _masters(given)
    yield from _offload(given, hosts)
    yield from _zenflow(given)
    yield from _zeropp(given, hosts)
    yield from _precision(given, hosts, precision, named)
    yield from _gradients(given)
    yield from _optimizer(given, hosts, workload)
    yield from _needed(given)
    yield from _groups(given, hosts)
    yield from _programs(given, workload)
    yield from _writers(given, workload)


def _zero(key: str, message: str, hint: str) -> Problem:
    about = ("job", "deepspeed", "zero_optimization", *key.split("."))
    return Problem(f"deepspeed.zero_optimization.{key} {message}", hint, about=about)


def _top(key: str, message: str, hint: str) -> Problem:
    return Problem(f"deepspeed.{key} {message}", hint, about=("job", "deepspeed", *key.split(".")))


def _on(value: Any) -> bool:
    """Whether a value turns a feature of _STAGE_3 on."""
    if isinstance(value, dict):
        return str(value.get("device", "none")) != "none"
    return value not in (None, False, 0, 1) if not isinstance(value, bool) else value


def _stages(given: _Config) -> Iterator[Problem]:
    stage, zero = given.stage, given.zero
    for key in _STAGE_3:
        if stage < 3 and _on(zero.get(key)):
            yield _zero(
                key, f"works in stage 3 alone, and this is stage {stage}", "use stage 3, or leave it out"
            )
    if stage == 0 and given.offload("optimizer") != "none":
        yield _zero("offload_optimizer", "needs ZeRO, and this is stage 0", "use stage 1, 2 or 3")
    # runtime/zero/stage_1_and_2.py: NCCL's buffers start at 4 bytes
    if stage in (1, 2) and int(zero.get("allgather_bucket_size", 0)) % 2:
        yield _zero("allgather_bucket_size", "must be even", "add one")
    if zero.get("legacy_stage1"):  # runtime/engine.py: DeepSpeed up to 0.5.8 had it
        yield _zero("legacy_stage1", "is refused by DeepSpeed", "leave it out")
    if zero.get("reduce_bucket_size") == 0:
        yield _zero("reduce_bucket_size", "must be above 0", "leave it out")


def _masters(given: _Config) -> Iterator[Problem]:
    """Master weights in 16 bits: runtime/config.py (_do_error_check), runtime/base_optimizer.py."""
    bf16, fp16 = given.section("bf16"), given.section("fp16")
    masters = {
        "bf16.bf16_master_weights_and_grads": bool(bf16.get("bf16_master_weights_and_grads")),
        "fp16.fp16_master_weights_and_grads": bool(fp16.get("fp16_master_weights_and_grads")),
    }
    states = bool(bf16.get("bf16_optimizer_states"))
    if states and not masters["bf16.bf16_master_weights_and_grads"]:
        hint = "add bf16_master_weights_and_grads: true"
        yield _top("bf16.bf16_optimizer_states", "needs bf16_master_weights_and_grads", hint)
    for key, on in masters.items():
        if on and given.stage == 0:
            yield _top(key, "needs ZeRO, and this is stage 0", "use stage 1, 2 or 3")
        elif on and given.offload("optimizer") == "none" and not (states and key.startswith("bf16")):
            yield _top(key, "needs the optimizer in host memory", "add offload_optimizer: {device: cpu}")
    adam = given.optimizer in ("adam", "adamw")
    if given.offload("optimizer") != "none" and not (adam and not given.torch_adam):
        hint = "leave torch_adam out" if adam else "use type: AdamW"
        # "requires ZeRO-3 Offload with DeepSpeedCPUAdam", "Hybrid Optimizer Only Supports DeepSpeedCPUAdam"
        for key in (key for key, on in masters.items() if on):
            yield _top(key, "needs DeepSpeed's own Adam", hint)
        if float(given.section("zero_optimization", "offload_optimizer").get("ratio", 1.0)) < 1.0:
            yield _zero("offload_optimizer.ratio", "below 1 needs DeepSpeed's own Adam", hint)
    if all(masters.values()):
        yield _top(
            "fp16.fp16_master_weights_and_grads", "and that of bf16 are both on", "leave one of them out"
        )


def _offload(given: _Config, hosts: Hosts) -> Iterator[Problem]:
    stage = given.stage
    nvme = [part for part in ("optimizer", "param") if given.offload(part) == "nvme"]
    for part in nvme:
        section, key = given.section("zero_optimization", f"offload_{part}"), f"offload_{part}"
        # runtime/zero/stage_1_and_2.py takes any device for host memory
        if part == "optimizer" and stage in (1, 2):
            yield _zero(
                key, f"would go to host memory in stage {stage}, not to NVMe", "use stage 3, or device: cpu"
            )
        path = section.get("nvme_path")
        if path is None:
            if part == nvme[0]:  # said once
                hint = "add nvme: {path: /local/disk, size: 7TB} to the cluster"
                yield _zero(key, "goes to NVMe and the cluster file names none", hint)
        elif not any(below(str(path), folder) for folder in hosts.local):
            known = ", ".join(hosts.local)
            hint = f"use a folder below {known}" if known else "add `nvme:` to the cluster"
            yield _zero(
                f"{key}.nvme_path",
                f"{path} is not known to be on a host's own disk",
                f"{hint}, or a mount with local: true",
            )
    buffer = int(given.section("zero_optimization", "offload_param").get("buffer_size", BUFFER))
    if given.offload("param") == "nvme" and hosts.part is not None and buffer < hosts.part:
        # runtime/swap_tensor/partitioned_param_swapper.py (get_buffer)
        what = f"of {buffer:,} does not hold a rank's part of the largest tensor, {hosts.part:,} elements"
        yield _zero("offload_param.buffer_size", what, f"use at least {hosts.part}, or leave it out")
    section = given.section("zero_optimization", "offload_optimizer")
    if section.get("device") == "nvme" and stage == 3:
        yield from _swapped(given, section, hosts)
    if float(section.get("ratio", 1.0)) < 1.0 and stage < 3:  # runtime/zero/config.py (offload_ratio_check)
        yield _zero(
            "offload_optimizer.ratio", "below 1 works in stage 3 alone", "use stage 3, or leave it out"
        )
    if section.get("super_offload") and (hosts.gpu is None or stage < 3):
        yield _zero("offload_optimizer.super_offload", "needs stage 3 and NVIDIA GPUs", "leave it out")


def _swapped(given: _Config, section: Mapping[str, Any], hosts: Hosts) -> Iterator[Problem]:
    """Buffers of a sub-group's weights, gradients and states, of each that is read, in use and written at once.

    "ran out of swap buffers": runtime/swap_tensor/pipelined_optimizer_swapper.py, partitioned_optimizer_swapper.py
    """
    ahead = [key for key in ("pipeline_read", "pipeline_write") if section.get(key)]
    several = hosts.own is None or hosts.own > int(given.zero.get("sub_group_size", 1_000_000_000))
    needed = (2 + _STATES.get(given.optimizer, 2)) * (1 + (len(ahead) if several else 0))
    if int(section.get("buffer_count", 4)) < needed:
        what = f"is less than the {needed} that {' and '.join((given.optimizer, *ahead))} take"
        yield _zero("offload_optimizer.buffer_count", what, f"use {needed}")


def _zenflow(given: _Config) -> Iterator[Problem]:
    """An empty mapping turns it on too: runtime/zenflow/engine.py, zenflow_stage_1_and_2.py, engine_stage3.py."""
    zenflow = given.section("zero_optimization", "zenflow")
    if given.zero.get("zenflow") is None:
        return
    if given.offload("optimizer") != "cpu" and (zenflow or given.stage < 3):
        yield _zero("zenflow", "needs the optimizer in host memory", "add offload_optimizer: {device: cpu}")
    if zenflow.get("offload") and not given.zero.get("overlap_comm", given.stage == 3):
        yield _zero("zenflow.offload", "needs overlap_comm", "add overlap_comm: true")
    strategy, interval = zenflow.get("select_strategy", "auto"), zenflow.get("select_interval", "auto")
    update = zenflow.get("update_interval", "auto")
    if strategy == "auto" and interval != "auto":
        what = "is chosen by select_strategy auto"
        yield _zero("zenflow.select_interval", what, "leave it out, or add select_strategy: step")
    elif strategy != "auto" and interval == "auto":
        yield _zero("zenflow.select_strategy", f"{strategy} needs select_interval", "add select_interval")
    elif strategy == "step" and update != "auto" and update > interval:
        yield _zero("zenflow.update_interval", f"is above select_interval {interval}", "use at most that")
    taken = set(parameters.classes("adamw")["torch"]) - {*parameters.POPPED}
    for key in given.section("optimizer", "params") if given.stage < 3 else ():
        if key not in taken:
            what = "does not go with ZenFlow, which gives it to torch's AdamW"
            yield _top(f"optimizer.params.{key}", what, "leave it out, or use stage 3")


def _zeropp(given: _Config, hosts: Hosts) -> Iterator[Problem]:
    zero = given.zero
    if given.stage < 3:
        return
    group = zero.get("zero_hpz_partition_size", 1)
    # utils/groups.py (_create_zero_param_parallel_group) cuts a group that is too large, and groups ranks by number:
    # one that does not divide a host's would send what it is meant to keep off the fabric
    if group not in (0, 1) and hosts.slots % group:
        what = f"is {shown(group)}, and a host has {hosts.slots} slots"
        yield _zero("zero_hpz_partition_size", what, f"use {hosts.slots}, a divisor of it, or the word slots")
    quantized = [key for key in _STAGE_3 if "quantized" in key and zero.get(key)]
    if quantized and hosts.gpu is None:
        yield _zero(quantized[0], "needs a GPU: DeepSpeed quantizes in CUDA alone", "use preset zero3")
    if zero.get("zero_quantized_weights") and given.section("torch_autocast").get("enabled"):
        # runtime/torch_autocast.py
        yield _zero("zero_quantized_weights", "does not go with torch_autocast", "leave one of them out")
    if zero.get("zero_quantized_gradients") and zero.get("reduce_scatter") is False:  # runtime/zero/stage3.py
        yield _zero("zero_quantized_gradients", "needs reduce_scatter", "leave reduce_scatter out")


def _precision(given: _Config, hosts: Hosts, precision: str, named: bool) -> Iterator[Problem]:
    bf16, fp16 = (bool(given.section(name).get("enabled")) for name in ("bf16", "fp16"))
    if precision in ("bf16", "fp16") and not given.section(precision).get("enabled"):
        yield _top(precision, f"is off, and the job's precision is {precision}", "set precision: fp32")
    if bf16 and fp16:
        other = "bf16" if precision == "fp16" else "fp16"
        yield _top(other, f"is on beside {precision}", f"leave one of them out, or set precision: {other}")
    checked = precision if named else ""
    if bf16 and checked != "bf16" and hosts.gpu is not None and hosts.capability < (8, 0):
        what = f"is on, and {hosts.gpu} has none (compute capability 8.0 and up)"
        yield _top("bf16", what, "use precision: fp16")
    if fp16 and checked != "fp16" and hosts.gpu is None:
        yield _top("fp16", "is on, and the ranks have no GPU", "use precision: bf16 or fp32")
    asked = given.section("data_types").get(
        "param_dtype"
    )  # runtime/engine.py (_assert_valid_mixed_precision_config)
    enabled = "bf16" if bf16 else "fp16" if fp16 else "fp32"
    if asked is not None and spellings.DTYPES.get(str(asked)) != enabled:
        what = f"is {shown(asked)}, and the weights are in {enabled}"
        yield _top("data_types.param_dtype", what, "leave it out, or set `precision:` of the job")
    if given.stage == 0 and given.added not in (
        "",
        enabled,
    ):  # runtime/engine.py (_do_optimizer_sanity_check)
        what = f"{given.added} does not work in stage 0 with weights in {enabled}"
        yield _top("data_types.grad_accum_dtype", what, "use stage 1, 2 or 3")
    for section, key in (("compile", "deepcompile"), ("aio", "use_gds")):
        if given.section(section).get(key) and hosts.gpu is None:
            yield _top(f"{section}.{key}", "needs a GPU", "leave it out")


def _gradients(given: _Config) -> Iterator[Problem]:
    stage, whole, zero = given.stage, given.whole, given.zero
    scattered = zero.get("reduce_scatter", True)
    averaged = str(whole.get("gradient_allreduce_op", "mean")).lower() == "mean"
    # runtime/zero/stage3.py, stage_1_and_2.py: "not yet supported … with reduce scatter enabled"
    if scattered and (stage == 3 or (stage == 2 and averaged)):
        if float(whole.get("gradient_predivide_factor", 1.0)) != 1.0:
            yield _top(
                "gradient_predivide_factor", f"does not work in stage {stage}", "set reduce_scatter: false"
            )
        if whole.get("prescale_gradients"):
            yield _top("prescale_gradients", f"does not work in stage {stage}", "set reduce_scatter: false")
    if not averaged:
        yield from _summed(given)
    yield from _own_accumulation(given)
    if zero.get("compute_grad_norm") is False:  # runtime/zero/config.py, stage_1_and_2.py
        if stage not in (1, 2):
            yield _zero("compute_grad_norm", "false works in stages 1 and 2", "leave it out")
        elif float(whole.get("gradient_clipping", 0)) > 0:
            yield _zero(
                "compute_grad_norm", "false leaves nothing to clip", "set gradient_clipping: 0 as well"
            )
        elif given.offload("optimizer") != "none" or zero.get("zenflow"):
            yield _zero("compute_grad_norm", "false does not work with offload", "leave it out")
        elif stage == 1 and given.section("bf16").get("enabled") and given.added == "fp32":
            what = "false does not work in stage 1 with bf16 and data_types.grad_accum_dtype fp32"
            yield _zero("compute_grad_norm", what, "use stage 2, or leave it out")


def _summed(given: _Config) -> Iterator[Problem]:
    """Gradients that are added up: runtime/config.py (_do_error_check)."""
    if given.stage == 3:
        yield _top("gradient_allreduce_op", "sum does not work in stage 3", "use stage 2, or mean")
    if given.zero.get("zenflow") is not None:
        yield _top("gradient_allreduce_op", "sum does not work with ZenFlow", "use mean")
    if given.section("compile").get("deepcompile"):
        yield _top("gradient_allreduce_op", "sum does not work with DeepCompile", "use mean")


def _own_accumulation(given: _Config) -> Iterator[Problem]:
    """A program that counts its micro batches itself: runtime/engine.py (_do_sanity_check)."""
    if given.whole.get("managed_gradient_accumulation") is not False:
        return
    if given.stage < 2 and given.zero.get("overlap_comm"):
        what = f"false does not work with overlap_comm in stage {given.stage}"
        yield _top("managed_gradient_accumulation", what, "set zero_optimization.overlap_comm: false")
    if given.section("compile").get("deepcompile"):
        yield _top("managed_gradient_accumulation", "false does not work with DeepCompile", "leave it out")


def _optimizer(given: _Config, hosts: Hosts, workload: str) -> Iterator[Problem]:
    optimizer, scheduler, stage = given.section("optimizer"), given.section("scheduler"), given.stage
    if optimizer and "type" not in optimizer:
        yield _top("optimizer", "has no `type`", "add type: AdamW")
    if scheduler and "type" not in scheduler:  # runtime/config.py (get_scheduler_name): there is none then
        yield _top("scheduler", "has no `type`, so there would be none", "add type: WarmupCosineLR")
    params = optimizer.get("params")
    if (
        isinstance(params, dict) and "max_grad_norm" in params
    ):  # runtime/engine.py (_configure_basic_optimizer)
        yield _top(
            "optimizer.params.max_grad_norm", "is refused by DeepSpeed", "use deepspeed.gradient_clipping"
        )
    yield from _made(given, hosts, workload)
    own = parameters.own("scheduler", scheduler.get("type"))
    wrapped = stage > 0 or any(given.section(name).get("enabled") for name in ("bf16", "fp16"))
    if own is not None and own not in _SCHEDULES and own not in parameters.IMPOSSIBLE and wrapped:
        what = f"{own} is torch's, which takes no optimizer that ZeRO or 16 bits wrap"
        yield _top("scheduler.type", what, "use WarmupCosineLR, or another of DeepSpeed's own")
    untested = given.optimizer not in _SHARDABLE and not given.whole.get("zero_allow_untested_optimizer")
    if stage and untested:
        name = shown(optimizer.get("type"))
        yield _top("optimizer", f"{name} is not tested with ZeRO", "add zero_allow_untested_optimizer: true")
    if given.optimizer == "muon" and stage == 3 and given.zero.get("reduce_scatter", True):
        yield _zero("reduce_scatter", "does not go with Muon in stage 3", "set reduce_scatter: false")


def _made(given: _Config, hosts: Hosts, workload: str) -> Iterator[Problem]:
    """What the class that becomes the optimizer refuses: runtime/engine.py (_configure_basic_optimizer)."""
    params, name, own = (
        given.section("optimizer", "params"),
        given.optimizer,
        not workloads.is_script(workload),
    )
    # without DeepSpeed's compiled ones ours take torch's (docker/workloads/engines.py)
    offloaded = given.offload("optimizer") != "none"
    if not own or hosts.gpu is not None or params.get("torch_adam"):
        for key in parameters.misplaced(name, params, offloaded):
            torch = "torch" in parameters.classes(name) and not params.get("torch_adam")
            hint = "add torch_adam: true" if torch else "leave it out"
            yield _top(f"optimizer.params.{key}", f"is not taken by the {name} that is used here", hint)
    if hosts.gpu is None and (
        name == "lamb" or (name == "lion" and not offloaded)
    ):  # op_builder/cpu/no_impl.py
        yield _top("optimizer.type", f"{name} needs a GPU", "use AdamW")
    if name == "lamb" and float(given.section("fp16").get("loss_scale", 0)) != 0:
        yield _top(
            "fp16.loss_scale", "must be 0 with Lamb", "leave it out"
        )  # runtime/engine.py (_do_sanity_check)
    if own and name == "adagrad" and given.stage and not offloaded:
        # runtime/zero/stage_1_and_2.py (initialize_optimizer_states) and stage3.py make it anew with one group of
        # parameters, and ours have two (docker/workloads/engines.py, decay_groups)
        yield _top("optimizer.type", f"Adagrad does not work in stage {given.stage}", "use stage 0 or AdamW")
    if own and name == "rprop":
        yield _top(
            "optimizer.type", f"Rprop takes no weight decay, which workload {workload!r} gives", "use AdamW"
        )
    if own and name.startswith("mu") and name != "muon":
        what = f"{name} is for models that were made with the package mup"
        yield _top("optimizer.type", what, "use AdamW")


def _needed(given: _Config) -> Iterator[Problem]:
    for place, key in _NEEDED.items():
        section = given.section(*place)
        if section.get("enabled") and key not in section:
            yield _top(
                ".".join((*place, "enabled")),
                f"needs {key} beside it",
                f"add {key}, or leave the section out",
            )


def _writers(given: _Config, workload: str) -> Iterator[Problem]:
    """DeepSpeed's own ways to write a checkpoint (templates/deepspeed/README.md)."""
    writer = given.section("checkpoint", "writer")
    # runtime/model_checkpointing/data_parallel_writer_factory.py asks for a dp_rank that nothing has
    if writer and given.stage < 3 and not writer.get("data_parallel"):
        what = f"does not start in stage {given.stage} without data_parallel"
        yield _top("checkpoint.writer", what, "add data_parallel: replica, or leave it out")
    if workloads.is_script(workload):
        return
    # they still write when save_checkpoint has returned, and a checkpoint would be marked before it is whole
    hint = "set checkpoint.async of the job instead"
    if writer.get("decoupled"):
        yield _top("checkpoint.writer.decoupled", "is no part of complete checkpoints", hint)
    if given.whole.get("datastates_ckpt"):
        yield _top("datastates_ckpt", "is no part of complete checkpoints", hint)


def _groups(given: _Config, hosts: Hosts) -> Iterator[Problem]:
    """Ranks that share a model or its experts."""
    tensors, experts = given.section("tensor_parallel"), given.section("expert_parallel")
    parts = given.section("tensor_parallel", "tp").get("tp_size", 1)
    if parts not in (None, 1, tensors.get("autotp_size", 0)):
        # runtime/engine.py (_apply_autotp_partitioning): alone it splits nothing
        hint = "use tensor_parallel.autotp_size, and leave it out"
        yield _top("tensor_parallel.tp.tp_size", f"{shown(parts)} is not autotp_size", hint)
    width = int(experts.get("autoep_size", 1)) * int(experts.get("expert_tensor_parallel_size", 1))
    if experts.get("enabled") and hosts.world % width:  # module_inject/auto_ep_folding.py
        what = f"gives groups of {width} ranks, which do not divide {hosts.world}"
        yield _top("expert_parallel.autoep_size", what, "use a divisor of the ranks")


def _programs(given: _Config, workload: str) -> Iterator[Problem]:
    if given.section("autotuning").get("enabled"):
        hint = "leave it out; deepspeed: auto picks the configuration"
        yield _top("autotuning", "ends a run after a few steps", hint)
    if workloads.is_script(workload):
        return
    for path, (what, hint) in _SPLITS.items():
        value = (given.section(*path[:-1]) if path[1:] else given.whole).get(path[-1])
        if value is True or (isinstance(value, int) and value > 1):
            yield _top(".".join(path), f"is {what}, which workload {workload!r} does not do", hint)
    if workload != "pretrain" and given.section("expert_parallel").get("enabled"):
        yield _top("expert_parallel.enabled", f"is not supported by workload {workload!r}", "leave it out")
    if given.zero.get("zenflow") is not None and not workloads.traits(workload).resolves_auto:
        # it replaces the batch's accumulation (runtime/zenflow/engine.py, configure_zenflow)
        what = f"decides itself when a step ends, and workload {workload!r} ends one with its batch"
        yield _zero("zenflow", what, "leave it out")
    if given.whole.get("managed_gradient_accumulation") is False:
        what = f"false is for programs that call step() once a batch, and workload {workload!r} does not"
        yield _top("managed_gradient_accumulation", what, "leave it out")
    for key, hint in _IDLE.items():
        if key in given.whole and given.section(key).get("enabled", True):
            yield _top(key, f"does nothing in workload {workload!r}", hint)
