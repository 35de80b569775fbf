"""What optimizers and schedules cannot be combined with: rules.py's of the classes that DeepSpeed makes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher import workloads
from launcher.deepspeed import parameters
from launcher.deepspeed.view import Config, Hosts, of_key, of_zero
from launcher.errors import Problem, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

# ZERO_SUPPORTED_OPTIMIZERS of runtime/zero/utils.py, as a configuration names them
_SHARDABLE = ("adagrad", "adam", "adamw", "lion", "muon")
# VALID_LR_SCHEDULES of runtime/lr_schedules.py, which take what wraps an optimizer
_SCHEDULES = ("LRRangeTest", "OneCycle", "WarmupCosineLR", "WarmupDecayLR", "WarmupLR")


def problems(given: Config, hosts: Hosts, workload: str) -> Iterator[Problem]:
    """Everything about `optimizer` and `scheduler` that cannot work."""
    optimizer, scheduler, stage = given.section("optimizer"), given.section("scheduler"), given.stage
    if optimizer and "type" not in optimizer:
        yield of_key("optimizer", "has no `type`", "add type: AdamW")
    if scheduler and "type" not in scheduler:  # runtime/config.py (get_scheduler_name): there is none then
        yield of_key("scheduler", "has no `type`, so there would be none", "add type: WarmupCosineLR")
    params = optimizer.get("params")
    if (
        isinstance(params, dict) and "max_grad_norm" in params
    ):  # runtime/engine.py (_configure_basic_optimizer)
        yield of_key(
            "optimizer.params.max_grad_norm", "is refused by DeepSpeed", "use deepspeed.gradient_clipping"
        )
    yield from _made(given, hosts, workload)
    own = parameters.own("scheduler", scheduler.get("type"))
    wrapped = stage > 0 or any(given.section(name).get("enabled") for name in ("bf16", "fp16"))
    if own is not None and own not in _SCHEDULES and own not in parameters.IMPOSSIBLE and wrapped:
        what = f"{own} is torch's, which takes no optimizer that ZeRO or 16 bits wrap"
        yield of_key("scheduler.type", what, "use WarmupCosineLR, or another of DeepSpeed's own")
    untested = given.optimizer not in _SHARDABLE and not given.whole.get("zero_allow_untested_optimizer")
    if stage and untested:
        name = shown(optimizer.get("type"))
        yield of_key(
            "optimizer", f"{name} is not tested with ZeRO", "add zero_allow_untested_optimizer: true"
        )
    if given.optimizer == "muon" and stage == 3 and given.zero.get("reduce_scatter", True):
        yield of_zero("reduce_scatter", "does not go with Muon in stage 3", "set reduce_scatter: false")


def _made(given: Config, hosts: Hosts, workload: str) -> Iterator[Problem]:
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
            yield of_key(f"optimizer.params.{key}", f"is not taken by the {name} that is used here", hint)
    if hosts.gpu is None and (
        name == "lamb" or (name == "lion" and not offloaded)
    ):  # op_builder/cpu/no_impl.py
        yield of_key("optimizer.type", f"{name} needs a GPU", "use AdamW")
    if name == "lamb" and float(given.section("fp16").get("loss_scale", 0)) != 0:
        yield of_key(
            "fp16.loss_scale", "must be 0 with Lamb", "leave it out"
        )  # runtime/engine.py (_do_sanity_check)
    if own and name == "adagrad" and given.stage and not offloaded:
        # runtime/zero/stage_1_and_2.py (initialize_optimizer_states) and stage3.py make it anew with one group of
        # parameters, and ours have two (docker/workloads/engines.py, decay_groups)
        yield of_key(
            "optimizer.type", f"Adagrad does not work in stage {given.stage}", "use stage 0 or AdamW"
        )
    if own and name == "rprop":
        yield of_key(
            "optimizer.type", f"Rprop takes no weight decay, which workload {workload!r} gives", "use AdamW"
        )
    if own and name.startswith("mu") and name != "muon":
        what = f"{name} is for models that were made with the package mup"
        yield of_key("optimizer.type", what, "use AdamW")
