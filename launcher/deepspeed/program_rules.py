"""What only some programs do with a DeepSpeed configuration: rules.py's of workloads, groups of ranks and sections."""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher import workloads
from launcher.deepspeed.view import Config, Hosts, of_key, of_zero
from launcher.errors import Problem, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

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


def problems(given: Config, hosts: Hosts, workload: str) -> Iterator[Problem]:
    """Everything that the ranks' program, or their number, does not go with."""
    yield from _needed(given)
    yield from _groups(given, hosts)
    yield from _programs(given, workload)
    yield from _writers(given, workload)


def _needed(given: Config) -> Iterator[Problem]:
    for place, key in _NEEDED.items():
        section = given.section(*place)
        if section.get("enabled") and key not in section:
            yield of_key(
                ".".join((*place, "enabled")),
                f"needs {key} beside it",
                f"add {key}, or leave the section out",
            )


def _groups(given: Config, hosts: Hosts) -> Iterator[Problem]:
    """Ranks that share a model or its experts."""
    tensors, experts = given.section("tensor_parallel"), given.section("expert_parallel")
    parts = given.section("tensor_parallel", "tp").get("tp_size", 1)
    if parts not in (None, 1, tensors.get("autotp_size", 0)):
        # runtime/engine.py (_apply_autotp_partitioning): alone it splits nothing
        hint = "use tensor_parallel.autotp_size, and leave it out"
        yield of_key("tensor_parallel.tp.tp_size", f"{shown(parts)} is not autotp_size", hint)
    width = int(experts.get("autoep_size", 1)) * int(experts.get("expert_tensor_parallel_size", 1))
    if experts.get("enabled") and hosts.world % width:  # module_inject/auto_ep_folding.py
        what = f"gives groups of {width} ranks, which do not divide {hosts.world}"
        yield of_key("expert_parallel.autoep_size", what, "use a divisor of the ranks")


def _programs(given: Config, workload: str) -> Iterator[Problem]:
    if given.section("autotuning").get("enabled"):
        hint = "leave it out; deepspeed: auto picks the configuration"
        yield of_key("autotuning", "ends a run after a few steps", hint)
    if workloads.is_script(workload):
        return
    for path, (what, hint) in _SPLITS.items():
        value = (given.section(*path[:-1]) if path[1:] else given.whole).get(path[-1])
        if value is True or (isinstance(value, int) and value > 1):
            yield of_key(".".join(path), f"is {what}, which workload {workload!r} does not do", hint)
    if workload != "pretrain" and given.section("expert_parallel").get("enabled"):
        yield of_key("expert_parallel.enabled", f"is not supported by workload {workload!r}", "leave it out")
    if given.zero.get("zenflow") is not None and not workloads.traits(workload).resolves_auto:
        # it replaces the batch's accumulation (runtime/zenflow/engine.py, configure_zenflow)
        what = f"decides itself when a step ends, and workload {workload!r} ends one with its batch"
        yield of_zero("zenflow", what, "leave it out")
    if given.whole.get("managed_gradient_accumulation") is False:
        what = f"false is for programs that call step() once a batch, and workload {workload!r} does not"
        yield of_key("managed_gradient_accumulation", what, "leave it out")
    for key, hint in _IDLE.items():
        if key in given.whole and given.section(key).get("enabled", True):
            yield of_key(key, f"does nothing in workload {workload!r}", hint)


def _writers(given: Config, workload: str) -> Iterator[Problem]:
    """DeepSpeed's own ways to write a checkpoint (templates/deepspeed/README.md)."""
    writer = given.section("checkpoint", "writer")
    # runtime/model_checkpointing/data_parallel_writer_factory.py asks for a dp_rank that nothing has
    if writer and given.stage < 3 and not writer.get("data_parallel"):
        what = f"does not start in stage {given.stage} without data_parallel"
        yield of_key("checkpoint.writer", what, "add data_parallel: replica, or leave it out")
    if workloads.is_script(workload):
        return
    # they still write when save_checkpoint has returned, and a checkpoint would be marked before it is whole
    hint = "set checkpoint.async of the job instead"
    if writer.get("decoupled"):
        yield of_key("checkpoint.writer.decoupled", "is no part of complete checkpoints", hint)
    if given.whole.get("datastates_ckpt"):
        yield of_key("datastates_ckpt", "is no part of complete checkpoints", hint)
