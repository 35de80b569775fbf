"""What an estimate leaves out, in words: of a plan that has one, and of one that has none.

Owns what of DeepSpeed's configuration, and of a part of a card, sizing does not count.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from launcher import units, workloads
from launcher.deepspeed import spellings
from launcher.errors import SpecError
from launcher.planning import fit
from launcher.sizing import gpus, models, states

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.files.cluster import Cluster
    from launcher.files.job import Job
    from launcher.planning.fit import Estimate
    from launcher.sizing.models import Found

# What changes memory or traffic in ways that sizing does not count: keys of DeepSpeed's configuration, and why.
UNCOUNTED = (
    (("zero_optimization", "zenflow"), "ZenFlow keeps selected gradients and a second optimizer on the GPU"),
    (
        ("zero_optimization", "offload_optimizer", "super_offload"),
        "SuperOffload keeps a part of the optimizer on the GPU",
    ),
    (
        ("compile", "deepcompile"),
        "DeepCompile moves gathers and releases, and its compiler has buffers of its own",
    ),
    (("expert_parallel", "enabled"), "AutoEP gives each rank a part of the experts"),
    (
        ("zero_optimization", "zero_quantized_nontrainable_weights"),
        "weights that stand still are kept in 8 bits",
    ),
    (("weight_quantization", "quantized_initialization"), "weights are kept in fewer bits"),
    (("sparse_attention",), "sparse attention saves other tensors"),
    (("zero_optimization", "mics_shard_size"), "MiCS divides states among the ranks of a group alone"),
    (("zero_optimization", "zeropp_loco_param"), "LoCo keeps what quantized gradients left out"),
    (("hybrid_engine", "enabled"), "the hybrid engine keeps a second copy of the weights for inference"),
)


def partial(estimate: Estimate | None) -> str:
    """What to say of an estimate that leaves activations out; empty where it does not."""
    if estimate is None or estimate.model.measured:
        return ""
    parts = "states, buffers and logits" if estimate.known_length else "states and buffers"
    return f"activations are not estimated: {estimate.model.unmeasured}; the memory is of {parts} alone"


def uncounted(estimate: Estimate | None) -> Iterator[str]:
    """What of the job is not in the estimate, and why."""
    if estimate and estimate.trained is None:
        yield (
            f"adapters are not counted: the layers of the family {estimate.model.family!r} are not known;"
            " their weights, optimizer and traffic, and what 4 bit would save, are not in the estimate"
        )
    yield from filter(None, [_sent(estimate) if estimate else ""])
    for path, why in UNCOUNTED if estimate else ():
        value: object = estimate.evaluation.config if estimate else None
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        if (value and value not in (1, -1)) or value is True:  # -1: no MiCS
            yield f"deepspeed.{'.'.join(path)} is not in the estimate of memory and time: {why}"


def _sent(estimate: Estimate) -> str:
    """What to say of gradients that are sent in a wider type than they have: a copy of each bucket, unreckoned."""
    config, settings = estimate.evaluation.config, estimate.evaluation.settings
    wide = spellings.DTYPES.get(str(config.get("communication_data_type"))) == "fp32"
    if not wide or settings.weight_bytes == 4 or estimate.machine.world == 1:
        return ""
    copy = 4 * (settings.reduce_bucket if settings.stage else states.FLATTENED)
    return (
        "deepspeed.communication_data_type fp32 is not in the estimate of memory and time: gradients are copied to be"
        f" sent, up to {units.gigabytes(copy)} at a time, and are twice the bytes"
    )


def unknown(job: Job, reason: str, preset: str) -> str:
    """What to say of a job whose memory is not estimated for `reason`; empty where nobody would expect it."""
    if fit.requested_preset(job) is None and workloads.steps(job.workload):
        nothing = "nothing is known of the memory, so " if preset == fit.BLIND else ""
        return f"{reason}; {nothing}`deepspeed: auto` is {preset}"
    if job.model is None or not (workloads.is_script(job.workload) or workloads.steps(job.workload)):
        return ""
    if workloads.traits(job.workload).generates:
        return ""
    return f"{reason}; no memory is estimated" if workloads.traits(job.workload).estimated else reason


def own_code(job: Job, found: Found | None) -> str:
    """What to say of a model that brings code of its own, which only a program of one's own may run; else ''."""
    own = workloads.is_script(job.workload)
    if job.model is None or own or not workloads.steps(job.workload):  # servers have options for it
        return ""
    with contextlib.suppress(SpecError):  # what is wrong with the model is said where it is read
        if family := models.own_code(job.model, found):
            return (
                f"the model brings code of its own (auto_map in its config.json), and workload {job.workload!r} runs "
                f"none: it ends at once unless the ranks' Transformers knows the family {family!r} itself; "
                "a program of your own may have trust_remote_code"
            )
    return ""


def part_note(cluster: Cluster) -> str:
    """What to say of a part of a card, such as a MIG slice, whose rates are not given; '' for a whole one."""
    asked = cluster.gpu
    if (
        asked is None
        or asked.memory is None
        or asked.bf16_tflops is not None
        or asked.name not in gpus.names()
    ):
        return ""
    if asked.memory > 0.75 * gpus.load(asked.name).memory:
        return ""
    return (
        f"{asked.memory / 1e9:.1f} GB is a part of a {asked.name}, and step times are by the rates of the whole one;"
        " `bf16_tflops` and `memory_gbps` below `gpu:` give those of the part"
    )
