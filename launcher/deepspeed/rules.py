"""What a DeepSpeed configuration cannot combine, found before the job waits in a queue.

Owns what goes together; names and kinds of keys are keys.py's. Each rule is one that DeepSpeed 0.19.8 asserts only
when all ranks are up, or that it passes over in silence; the place in its code stands beside it.

    rules.problems(ds_config, view.Hosts(gpu="h100-80gb", capability=(9, 0), slots=8, local=("/nvme",)), "pretrain")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from launcher.deepspeed import optimizer_rules, parameters, program_rules, spellings
from launcher.deepspeed.config import BUFFER, below
from launcher.deepspeed.view import Config, Hosts, of_key, of_zero
from launcher.errors import Problem, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# Tensors of each weight that they keep besides its master, where it is not two
_STATES = {"adagrad": 1, "lion": 1}
# Keys of the stages that read them; DeepSpeed says nothing when another stage is on.
_STAGE_3 = (
    "offload_param",
    "zero_hpz_partition_size",
    "zero_quantized_weights",
    "zero_quantized_nontrainable_weights",
    "zero_quantized_gradients",
)


def problems(
    config: Mapping[str, Any], hosts: Hosts, workload: str, precision: str, named: bool = True
) -> Iterator[Problem]:
    """Everything that cannot work together, each with the field that it is about.

    `precision` is the job's. Where the job has `named` it, it is checked elsewhere; here it is the configuration's.
    """
    given = Config(config)
    yield from _stages(given)
    yield from _masters(given)
    yield from _offload(given, hosts)
    yield from _zenflow(given)
    yield from _zeropp(given, hosts)
    yield from _precision(given, hosts, precision, named)
    yield from _gradients(given)
    yield from optimizer_rules.problems(given, hosts, workload)
    yield from program_rules.problems(given, hosts, workload)


def _on(value: Any) -> bool:
    """Whether a value turns a feature of _STAGE_3 on."""
    if isinstance(value, dict):
        return str(value.get("device", "none")) != "none"
    return value not in (None, False, 0, 1) if not isinstance(value, bool) else value


def _stages(given: Config) -> Iterator[Problem]:
    stage, zero = given.stage, given.zero
    for key in _STAGE_3:
        if stage < 3 and _on(zero.get(key)):
            yield of_zero(
                key, f"works in stage 3 alone, and this is stage {stage}", "use stage 3, or leave it out"
            )
    if stage == 0 and given.offload("optimizer") != "none":
        yield of_zero("offload_optimizer", "needs ZeRO, and this is stage 0", "use stage 1, 2 or 3")
    # runtime/zero/stage_1_and_2.py: NCCL's buffers start at 4 bytes
    if stage in (1, 2) and int(zero.get("allgather_bucket_size", 0)) % 2:
        yield of_zero("allgather_bucket_size", "must be even", "add one")
    if zero.get("legacy_stage1"):  # runtime/engine.py: DeepSpeed up to 0.5.8 had it
        yield of_zero("legacy_stage1", "is refused by DeepSpeed", "leave it out")
    if zero.get("reduce_bucket_size") == 0:
        yield of_zero("reduce_bucket_size", "must be above 0", "leave it out")


def _masters(given: Config) -> Iterator[Problem]:
    """Master weights in 16 bits: runtime/config.py (_do_error_check), runtime/base_optimizer.py."""
    bf16, fp16 = given.section("bf16"), given.section("fp16")
    masters = {
        "bf16.bf16_master_weights_and_grads": bool(bf16.get("bf16_master_weights_and_grads")),
        "fp16.fp16_master_weights_and_grads": bool(fp16.get("fp16_master_weights_and_grads")),
    }
    states = bool(bf16.get("bf16_optimizer_states"))
    if states and not masters["bf16.bf16_master_weights_and_grads"]:
        hint = "add bf16_master_weights_and_grads: true"
        yield of_key("bf16.bf16_optimizer_states", "needs bf16_master_weights_and_grads", hint)
    for key, on in masters.items():
        if on and given.stage == 0:
            yield of_key(key, "needs ZeRO, and this is stage 0", "use stage 1, 2 or 3")
        elif on and given.offload("optimizer") == "none" and not (states and key.startswith("bf16")):
            yield of_key(key, "needs the optimizer in host memory", "add offload_optimizer: {device: cpu}")
    adam = given.optimizer in ("adam", "adamw")
    if given.offload("optimizer") != "none" and not (adam and not given.torch_adam):
        hint = "leave torch_adam out" if adam else "use type: AdamW"
        # "requires ZeRO-3 Offload with DeepSpeedCPUAdam", "Hybrid Optimizer Only Supports DeepSpeedCPUAdam"
        for key in (key for key, on in masters.items() if on):
            yield of_key(key, "needs DeepSpeed's own Adam", hint)
        if float(given.section("zero_optimization", "offload_optimizer").get("ratio", 1.0)) < 1.0:
            yield of_zero("offload_optimizer.ratio", "below 1 needs DeepSpeed's own Adam", hint)
    if all(masters.values()):
        yield of_key(
            "fp16.fp16_master_weights_and_grads", "and that of bf16 are both on", "leave one of them out"
        )


def _offload(given: Config, hosts: Hosts) -> Iterator[Problem]:
    stage = given.stage
    nvme = [part for part in ("optimizer", "param") if given.offload(part) == "nvme"]
    for part in nvme:
        section, key = given.section("zero_optimization", f"offload_{part}"), f"offload_{part}"
        # runtime/zero/stage_1_and_2.py takes any device for host memory
        if part == "optimizer" and stage in (1, 2):
            yield of_zero(
                key, f"would go to host memory in stage {stage}, not to NVMe", "use stage 3, or device: cpu"
            )
        path = section.get("nvme_path")
        if path is None:
            if part == nvme[0]:  # said once
                hint = "add nvme: {path: /local/disk, size: 7TB} to the cluster"
                yield of_zero(key, "goes to NVMe and the cluster file names none", hint)
        elif not any(below(str(path), folder) for folder in hosts.local):
            known = ", ".join(hosts.local)
            hint = f"use a folder below {known}" if known else "add `nvme:` to the cluster"
            yield of_zero(
                f"{key}.nvme_path",
                f"{path} is not known to be on a host's own disk",
                f"{hint}, or a mount with local: true",
            )
    buffer = int(given.section("zero_optimization", "offload_param").get("buffer_size", BUFFER))
    if given.offload("param") == "nvme" and hosts.part is not None and buffer < hosts.part:
        # runtime/swap_tensor/partitioned_param_swapper.py (get_buffer)
        what = f"of {buffer:,} does not hold a rank's part of the largest tensor, {hosts.part:,} elements"
        yield of_zero("offload_param.buffer_size", what, f"use at least {hosts.part}, or leave it out")
    section = given.section("zero_optimization", "offload_optimizer")
    if section.get("device") == "nvme" and stage == 3:
        yield from _swapped(given, section, hosts)
    if float(section.get("ratio", 1.0)) < 1.0 and stage < 3:  # runtime/zero/config.py (offload_ratio_check)
        yield of_zero(
            "offload_optimizer.ratio", "below 1 works in stage 3 alone", "use stage 3, or leave it out"
        )
    if section.get("super_offload") and (hosts.gpu is None or stage < 3):
        yield of_zero("offload_optimizer.super_offload", "needs stage 3 and NVIDIA GPUs", "leave it out")


def _swapped(given: Config, section: Mapping[str, Any], hosts: Hosts) -> Iterator[Problem]:
    """Buffers of a sub-group's weights, gradients and states, of each that is read, in use and written at once.

    "ran out of swap buffers": runtime/swap_tensor/pipelined_optimizer_swapper.py, partitioned_optimizer_swapper.py
    """
    ahead = [key for key in ("pipeline_read", "pipeline_write") if section.get(key)]
    several = hosts.own is None or hosts.own > int(given.zero.get("sub_group_size", 1_000_000_000))
    needed = (2 + _STATES.get(given.optimizer, 2)) * (1 + (len(ahead) if several else 0))
    if int(section.get("buffer_count", 4)) < needed:
        what = f"is less than the {needed} that {' and '.join((given.optimizer, *ahead))} take"
        yield of_zero("offload_optimizer.buffer_count", what, f"use {needed}")


def _zenflow(given: Config) -> Iterator[Problem]:
    """An empty mapping turns it on too: runtime/zenflow/engine.py, zenflow_stage_1_and_2.py, engine_stage3.py."""
    zenflow = given.section("zero_optimization", "zenflow")
    if given.zero.get("zenflow") is None:
        return
    if given.offload("optimizer") != "cpu" and (zenflow or given.stage < 3):
        yield of_zero("zenflow", "needs the optimizer in host memory", "add offload_optimizer: {device: cpu}")
    if zenflow.get("offload") and not given.zero.get("overlap_comm", given.stage == 3):
        yield of_zero("zenflow.offload", "needs overlap_comm", "add overlap_comm: true")
    strategy, interval = zenflow.get("select_strategy", "auto"), zenflow.get("select_interval", "auto")
    update = zenflow.get("update_interval", "auto")
    if strategy == "auto" and interval != "auto":
        what = "is chosen by select_strategy auto"
        yield of_zero("zenflow.select_interval", what, "leave it out, or add select_strategy: step")
    elif strategy != "auto" and interval == "auto":
        yield of_zero("zenflow.select_strategy", f"{strategy} needs select_interval", "add select_interval")
    elif strategy == "step" and update != "auto" and update > interval:
        yield of_zero("zenflow.update_interval", f"is above select_interval {interval}", "use at most that")
    taken = set(parameters.classes("adamw")["torch"]) - {*parameters.POPPED}
    for key in given.section("optimizer", "params") if given.stage < 3 else ():
        if key not in taken:
            what = "does not go with ZenFlow, which gives it to torch's AdamW"
            yield of_key(f"optimizer.params.{key}", what, "leave it out, or use stage 3")


def _zeropp(given: Config, hosts: Hosts) -> Iterator[Problem]:
    zero = given.zero
    if given.stage < 3:
        return
    group = zero.get("zero_hpz_partition_size", 1)
    # utils/groups.py (_create_zero_param_parallel_group) cuts a group that is too large, and groups ranks by number:
    # one that does not divide a host's would send what it is meant to keep off the fabric
    if group not in (0, 1) and hosts.slots % group:
        what = f"is {shown(group)}, and a host has {hosts.slots} slots"
        yield of_zero(
            "zero_hpz_partition_size", what, f"use {hosts.slots}, a divisor of it, or the word slots"
        )
    quantized = [key for key in _STAGE_3 if "quantized" in key and zero.get(key)]
    if quantized and hosts.gpu is None:
        yield of_zero(quantized[0], "needs a GPU: DeepSpeed quantizes in CUDA alone", "use preset zero3")
    if zero.get("zero_quantized_weights") and given.section("torch_autocast").get("enabled"):
        # runtime/torch_autocast.py
        yield of_zero("zero_quantized_weights", "does not go with torch_autocast", "leave one of them out")
    if zero.get("zero_quantized_gradients") and zero.get("reduce_scatter") is False:  # runtime/zero/stage3.py
        yield of_zero("zero_quantized_gradients", "needs reduce_scatter", "leave reduce_scatter out")


def _precision(given: Config, hosts: Hosts, precision: str, named: bool) -> Iterator[Problem]:
    bf16, fp16 = (bool(given.section(name).get("enabled")) for name in ("bf16", "fp16"))
    if precision in ("bf16", "fp16") and not given.section(precision).get("enabled"):
        yield of_key(precision, f"is off, and the job's precision is {precision}", "set precision: fp32")
    if bf16 and fp16:
        other = "bf16" if precision == "fp16" else "fp16"
        yield of_key(other, f"is on beside {precision}", f"leave one of them out, or set precision: {other}")
    checked = precision if named else ""
    if bf16 and checked != "bf16" and hosts.gpu is not None and hosts.capability < (8, 0):
        what = f"is on, and {hosts.gpu} has none (compute capability 8.0 and up)"
        yield of_key("bf16", what, "use precision: fp16")
    if fp16 and checked != "fp16" and hosts.gpu is None:
        yield of_key("fp16", "is on, and the ranks have no GPU", "use precision: bf16 or fp32")
    asked = given.section("data_types").get(
        "param_dtype"
    )  # runtime/engine.py (_assert_valid_mixed_precision_config)
    enabled = "bf16" if bf16 else "fp16" if fp16 else "fp32"
    if asked is not None and spellings.DTYPES.get(str(asked)) != enabled:
        what = f"is {shown(asked)}, and the weights are in {enabled}"
        yield of_key("data_types.param_dtype", what, "leave it out, or set `precision:` of the job")
    if given.stage == 0 and given.added not in (
        "",
        enabled,
    ):  # runtime/engine.py (_do_optimizer_sanity_check)
        what = f"{given.added} does not work in stage 0 with weights in {enabled}"
        yield of_key("data_types.grad_accum_dtype", what, "use stage 1, 2 or 3")
    for section, key in (("compile", "deepcompile"), ("aio", "use_gds")):
        if given.section(section).get(key) and hosts.gpu is None:
            yield of_key(f"{section}.{key}", "needs a GPU", "leave it out")


def _gradients(given: Config) -> Iterator[Problem]:
    stage, whole, zero = given.stage, given.whole, given.zero
    scattered = zero.get("reduce_scatter", True)
    averaged = str(whole.get("gradient_allreduce_op", "mean")).lower() == "mean"
    # runtime/zero/stage3.py, stage_1_and_2.py: "not yet supported … with reduce scatter enabled"
    if scattered and (stage == 3 or (stage == 2 and averaged)):
        if float(whole.get("gradient_predivide_factor", 1.0)) != 1.0:
            yield of_key(
                "gradient_predivide_factor", f"does not work in stage {stage}", "set reduce_scatter: false"
            )
        if whole.get("prescale_gradients"):
            yield of_key("prescale_gradients", f"does not work in stage {stage}", "set reduce_scatter: false")
    if not averaged:
        yield from _summed(given)
    yield from _own_accumulation(given)
    if zero.get("compute_grad_norm") is False:  # runtime/zero/config.py, stage_1_and_2.py
        if stage not in (1, 2):
            yield of_zero("compute_grad_norm", "false works in stages 1 and 2", "leave it out")
        elif float(whole.get("gradient_clipping", 0)) > 0:
            yield of_zero(
                "compute_grad_norm", "false leaves nothing to clip", "set gradient_clipping: 0 as well"
            )
        elif given.offload("optimizer") != "none" or zero.get("zenflow"):
            yield of_zero("compute_grad_norm", "false does not work with offload", "leave it out")
        elif stage == 1 and given.section("bf16").get("enabled") and given.added == "fp32":
            what = "false does not work in stage 1 with bf16 and data_types.grad_accum_dtype fp32"
            yield of_zero("compute_grad_norm", what, "use stage 2, or leave it out")


def _summed(given: Config) -> Iterator[Problem]:
    """Gradients that are added up: runtime/config.py (_do_error_check)."""
    if given.stage == 3:
        yield of_key("gradient_allreduce_op", "sum does not work in stage 3", "use stage 2, or mean")
    if given.zero.get("zenflow") is not None:
        yield of_key("gradient_allreduce_op", "sum does not work with ZenFlow", "use mean")
    if given.section("compile").get("deepcompile"):
        yield of_key("gradient_allreduce_op", "sum does not work with DeepCompile", "use mean")


def _own_accumulation(given: Config) -> Iterator[Problem]:
    """A program that counts its micro batches itself: runtime/engine.py (_do_sanity_check)."""
    if given.whole.get("managed_gradient_accumulation") is not False:
        return
    if given.stage < 2 and given.zero.get("overlap_comm"):
        what = f"false does not work with overlap_comm in stage {given.stage}"
        yield of_key("managed_gradient_accumulation", what, "set zero_optimization.overlap_comm: false")
    if given.section("compile").get("deepcompile"):
        yield of_key("managed_gradient_accumulation", "false does not work with DeepCompile", "leave it out")
