"""The formulas of the ZeRO papers and of DeepSpeed's own estimators, as they were published.

Owns nothing that a plan decides on: states.py and traffic.py follow what DeepSpeed was measured to do. These are
here to be shown beside it, and to reproduce the papers' tables (tests/launcher/sizing/test_zero_paper.py).

Stages: 0 baseline, 1 Pos, 2 Pos+g, 3 Pos+g+p. Sizes are bytes for 16-bit training with fp32 Adam; the papers'
GB are 10^9 bytes.
"""

from __future__ import annotations

# ZeRO, arXiv 1910.02054, section 3.1: fp32 parameters, momentum and variance of mixed-precision Adam.
K = 12


def states(parameters: float, stage: int, world: int, k: int = K) -> float:
    """Bytes of model states on one device (ZeRO, section 5 and figure 1)."""
    weights = 2 * parameters / (world if stage >= 3 else 1)
    gradients = 2 * parameters / (world if stage >= 2 else 1)
    optimizer = k * parameters / (world if stage >= 1 else 1)
    return weights + gradients + optimizer


def max_parameters(memory: float, stage: int, world: int, model_parallel: int = 1) -> float:
    """The most parameters whose states fit in `memory` bytes a device (ZeRO, table 2)."""
    return memory / states(1, stage, world) * model_parallel


def volume(parameters: float, stage: int) -> float:
    """Elements that one device moves in a step (ZeRO, section 7): an all-reduce counts as two."""
    return (3 if stage == 3 else 2) * parameters


def model_parallel_volume(micro: int, sequence: int, hidden: int, layers: int) -> float:
    """Elements that one device moves in a step for Megatron's model parallelism (ZeRO, section 8)."""
    return 12.0 * micro * sequence * hidden * layers


def activations(hidden: int, layers: int, sequence: int, micro: int) -> float:
    """Bytes of all activations of a GPT-2-like model (ZeRO, section 3.2, footnote), in 16 bits."""
    return 2 * 12.0 * hidden * micro * sequence * layers


def zeropp_volume(parameters: float, weights: bool, hierarchy: bool, gradients: bool) -> float:
    """Bytes that cross hosts in a step (ZeRO++, arXiv 2306.10209, table 1).

    The forward gather, the backward gather and the reduction of 16-bit values are 3 M for M = 2 x parameters;
    quantized weights (qwZ) halve the gathers, the second shard (hpZ) keeps the backward gather in the host, and
    quantized gradients (qgZ) take a quarter.
    """
    gather = 0.5 if weights else 1.0
    return 2 * parameters * (gather + (0.0 if hierarchy else gather) + (0.25 if gradients else 1.0))


def hpz_memory(parameters: float, group: int) -> float:
    """Bytes on one device for hpZ's second shard in groups of `group` devices (ZeRO++, section 3.2)."""
    return 2 * parameters / group


def offload_states(parameters: float, world: int) -> tuple[float, float]:
    """Bytes on one device and, in host memory, for its part (ZeRO-Offload, arXiv 2101.06840, section 4).

    The weights stay on the device; gradients, fp32 weights, momentum and variance of its part go to the host.
    """
    return 2 * parameters, (2 + K) * parameters / world


def estimate_zero2(
    parameters: int, slots: int, hosts: int, offload: bool, factor: float = 1.5
) -> tuple[int, int]:
    """Bytes on one host and on one GPU as estimate_zero2_model_states_mem_needs has them.

    Differs from the paper: 18 instead of 14 bytes are divided among ranks, since an fp32 gradient is counted;
    the host's part grows with all GPUs, not with its own (deepspeed/runtime/zero/stage_1_and_2.py, 0.19.8).
    """
    if offload:
        return int(parameters * max(4 * slots * hosts, 16) * factor), 2 * parameters
    return int(parameters * 4 * slots * factor), 2 * parameters + int(18 * parameters / (slots * hosts))


def estimate_zero3(
    parameters: int,
    largest: int,
    slots: int,
    hosts: int,
    offload: str,
    init: bool = True,
    factor: float = 1.5,
) -> tuple[int, int]:
    """Bytes on one host and on one GPU as estimate_zero3_model_states_mem_needs has them.

    `largest` is the parameters of the largest module, `offload` is "none", "optimizer" or "both", `init` whether
    the model is built in zero.Init. Differs from the paper: 18 instead of 16 bytes, and a layer's weights and
    gradients on top (deepspeed/runtime/zero/stage3.py, 0.19.8).
    """
    layer = 4 * largest
    if offload == "none":
        host = largest if init else parameters
        return int(host * 4 * slots * factor), layer + int(18 * parameters / (slots * hosts))
    each = 18 if offload == "both" else 16
    part = 1 / hosts  # multiplied in DeepSpeed's order, so that the last digit agrees
    host_bytes = parameters * each * part if init else parameters * max(4 * slots, each * part)
    kept = 0 if offload == "both" else int(2 * parameters / (slots * hosts))
    return int(host_bytes * factor), layer + kept
