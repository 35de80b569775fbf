"""Bytes of slots and hosts: worked examples, and what must hold for every model and configuration."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from launcher.sizing import activations, adapters, gathering, memory, models, states, zero
from launcher.sizing import setup as sizing_setup
from launcher.sizing.architecture import Adapters, Architecture

GIB = 2**30


def named(name: str) -> Architecture:
    found = models.load(name)
    assert isinstance(found, Architecture)
    return found


def settings(stage: int, **keys: Any) -> zero.Zero:
    return zero.read({"bf16": {"enabled": True}, "zero_optimization": {"stage": stage, **keys}})


def test_a_processor_without_16_bits_makes_the_gradient_of_the_heads_weight_in_fp32_first() -> None:
    """Measured: `pretrain` of LLaMA with 8 × 256 tokens takes 16.8 MB more than torch's allocator sees."""
    model, chunks = named("gpt2"), sizing_setup.Learning(loss="chunks")
    host = sizing_setup.Setup(2, 2, micro=1, sequence=128, learning=chunks, device="cpu")
    gpu = host._replace(device="cuda")
    more = activations.loss(model, host, 2) - activations.loss(model, gpu, 2)
    assert more == 4 * 50257 * 768
    assert activations.loss(model, host, 4) == activations.loss(model, gpu, 4)


def test_llama_7b_with_zero2_worked_by_hand() -> None:
    psi, world, bucket = 6_738_415_616, 64, 200_000_000
    setup = sizing_setup.Setup(world, 8, micro=1, sequence=2048)
    found = memory.estimate(
        named("llama-7b"), settings(2, reduce_bucket_size=bucket, overlap_comm=True), setup
    )
    own = -(-psi // world)
    loss = found.moments["loss"]
    assert loss.parameters == 2 * psi
    assert loss.gradients == 0
    assert loss.optimizer == 12 * own
    assert loss.buffers == 0
    # Two buckets in 16 bits, the copy that is reduced, and the gradient of the embedding that goes into one of them.
    assert found.moments["backward"].buffers == 3 * 2 * bucket + 2 * 32000 * 4096
    # A layer of a llama without grouped heads: 24 hidden and 8 ffn elements in 16 bits, and statistics.
    layer = 24 * 4096 + 8 * 11008 + 4 * 32 + 8
    assert loss.activations == 2048 * (32 * layer + 8 * 4096 + 4 + 16)
    assert loss.logits == 2048 * 32000 * 12
    assert found.moments["end"].gradients == 2 * own
    step = found.moments["step"]
    # The 16-bit part, its flat copy and its fp32 cast; or the fp64 norm of the largest gradient.
    assert (step.gradients, step.buffers) == (2 * own, max(6 * own, 8 * min(own, 32000 * 4096)))
    assert found.slot is max(found.moments.values(), key=lambda m: m.total)
    assert found.checkpoint == 14 * psi


def test_a_rank_without_gpu_pays_for_the_pages_it_writes_and_for_what_was_freed() -> None:
    model, setup = named("gpt2"), sizing_setup.Setup(2, 2, 1, 128, device="cpu")
    huge = memory.estimate(model, settings(2, reduce_bucket_size=10**9, overlap_comm=True), setup)
    enough = memory.estimate(
        model, settings(2, reduce_bucket_size=model.parameters, overlap_comm=True), setup
    )
    assert huge == enough
    cuda = memory.estimate(
        model, settings(2, reduce_bucket_size=10**9, overlap_comm=True), setup._replace(device="cuda")
    )
    assert cuda.slot.buffers > huge.slot.buffers + 3 * 10**9
    step, loss = huge.moments["step"], huge.moments["loss"]
    assert step.activations == 0
    assert step.margin > loss.activations + loss.logits > 10 * loss.margin


def test_llama_7b_with_zero3_keeps_its_shard_and_what_is_gathered() -> None:
    model = named("llama-7b")
    psi, world = model.parameters, 64
    there = sizing_setup.Setup(world, 8, 1, 2048)
    found = memory.estimate(model, settings(3), there)
    norms = 65 * 4096  # below the persistence threshold
    assert found.slot.parameters == 2 * (-(-psi // world) + norms)
    # DeepSpeed's defaults: 1e9 weights may stay, and of 50 million that are asked for two of 45 arrive together.
    assert (
        states.live(model, settings(3), there, states.retained(model, settings(3), there))
        == 10**9 + 32000 * 4096
    )
    assert gathering.fetched(model, settings(3), there) == 2 * 4096 * 11008
    assert found.checkpoint == 12 * psi


def test_weights_that_arrive_together_are_copied_and_one_alone_is_not() -> None:
    """llama-7b's layers: four of 16.8 million, three of 45.1 million; the head has 131 million."""
    model, quarter, third = named("llama-7b"), 4096 * 4096, 4096 * 11008
    there = sizing_setup.Setup(2, 2, 1, 2048)
    none = settings(3, stage3_prefetch_bucket_size=0)
    assert gathering.fetched(model, none, there) == 0
    few = settings(3, stage3_prefetch_bucket_size=2 * quarter)
    # two quarters, two quarters; each third alone; at last the head alone
    assert gathering.fetched(model, few, there) == 2 * quarter
    more = settings(3, stage3_prefetch_bucket_size=2 * quarter + 1)
    # three quarters, the last of them and a third, each of the others alone
    assert gathering.fetched(model, more, there) == quarter + third
    assert gathering.fetched(model, settings(2), there) == 0


def test_the_embedding_arrives_with_what_is_prefetched() -> None:
    """DeepSpeed prefetches when the model itself is entered, whose first weight is the embedding."""
    model, there = named("llama-7b"), sizing_setup.Setup(8, 8, 1, 512)
    everything = settings(3, stage3_prefetch_bucket_size=10**10, stage3_max_live_parameters=10**10)
    assert gathering.fetched(model, everything, there) == states.gathered(model, everything, there)


def test_one_bucket_for_all_leaves_no_gradient_outside() -> None:
    model = named("gpt2")
    assert states.unreduced(model, settings(2, reduce_bucket_size=10**9)) == 0
    assert states.unreduced(model, settings(2, reduce_bucket_size=10**8)) == 2 * 50257 * 768
    assert states.unreduced(model, settings(2, reduce_bucket_size=10**9, contiguous_gradients=False))


def test_main_memory_has_what_was_written_when_a_bucket_is_reduced_first() -> None:
    """The first bucket, its copy and a layer's matrix; on a GPU both buckets, a copy and the embedding's gradient."""
    model, bucket = named("gpt2"), 50_000_000
    two = settings(2, reduce_bucket_size=bucket, overlap_comm=True)
    gpu = sizing_setup.Setup(2, 2, 1, 512)
    assert states.first_reduction(model, two, gpu) == 2 * (3 * bucket + 50257 * 768)
    matrix = 4 * 768 * 768
    full = 2 * (2 * bucket + matrix)
    assert (
        full - 4 * matrix - 2 * matrix
        < states.first_reduction(model, two, gpu._replace(device="cpu"))
        <= full
    )


def test_one_rank_gathers_nothing_but_what_is_offloaded() -> None:
    model, there = named("llama-7b"), sizing_setup.Setup(1, 1, 1, 2048)
    assert states.parameters(model, settings(3), there) == 2 * model.parameters
    assert states.gathered(model, settings(3), there) == gathering.fetched(model, settings(3), there) == 0
    assert memory.estimate(model, settings(3), there).moments["loss"].buffers == 2 * 500_000_000
    away = settings(3, offload_param={"device": "cpu"})
    assert states.gathered(model, away, there) == model.parameters - states.persistent(model, away)
    assert gathering.fetched(model, away, there) == 0


def test_a_frozen_embedding_is_let_go_before_the_backward_pass_unless_it_is_the_head() -> None:
    asked = Adapters(16, ())
    adapted, tied = (adapters.attach(named(name), asked) for name in ("llama-7b", "gpt2"))
    assert gathering.dropped(adapted, settings(3)) == 32000 * 4096
    assert gathering.dropped(tied, settings(3)) == gathering.dropped(named("llama-7b"), settings(3)) == 0


def test_a_reduction_after_the_backward_pass_finds_no_activations() -> None:
    model, setup = named("gpt2"), sizing_setup.Setup(2, 2, 4, 512)
    early, late = (settings(2, reduce_bucket_size=size) for size in (10**7, 10**9))
    assert memory.estimate(model, early, setup).moments["end"].activations > 0
    assert memory.estimate(model, late, setup).moments["end"].activations == 0


def test_offload_leaves_weights_on_the_slot_and_states_on_the_host() -> None:
    model, world = named("llama-7b"), 8
    own = -(-model.parameters // world)
    setup = sizing_setup.Setup(world, world, 1, 2048)
    found = memory.estimate(model, settings(2, offload_optimizer={"device": "cpu"}), setup)
    assert found.slot.optimizer == found.slot.gradients == 0
    assert found.host.optimizer == world * 12 * own
    assert found.host.gradients == world * 4 * own
    assert found.nvme == 0


def test_page_locked_memory_is_rounded_up_to_powers_of_two() -> None:
    model = named("llama-7b")
    setup = sizing_setup.Setup(1, 1, 1, 2048)
    pinned = memory.estimate(model, settings(2, offload_optimizer={"device": "cpu"}), setup).host
    paged = memory.estimate(
        model, settings(2, offload_optimizer={"device": "cpu", "pin_memory": False}), setup
    ).host
    psi = model.parameters
    # 25.1 GiB of master weights, as much of gradients, and 12.6 GiB of weights on their way.
    rounded = (32 * GIB - 4 * psi) * 2 + 16 * GIB - 2 * psi
    assert pinned.total - paged.total == pinned.rounding == rounded
    exact = setup._replace(pinned_round=2 * psi)  # the smallest of the three may still be rounded up
    found = memory.estimate(model, settings(2, offload_optimizer={"device": "cpu"}), exact).host
    assert found.rounding == 16 * GIB - 2 * psi


def test_nvme() -> None:
    model, world = named("llama-2-70b"), 8
    own = -(-model.parameters // world)
    device = {"device": "nvme", "nvme_path": "/scratch"}
    keys = {"offload_optimizer": device, "offload_param": device, "sub_group_size": 10**8}
    found = memory.estimate(
        model, settings(3, **keys), sizing_setup.Setup(world, world, 1, 2048, checkpointing=True)
    )
    assert found.nvme == world * own * (12 + 4 + 2)
    assert found.host.optimizer == 0
    # The swapper's four tensors of a sub-group in fp32, and the five buffers of 16-bit weights.
    assert found.host.pinned == world * (4 * 4 * 10**8 + 5 * 2 * 10**8)


def test_fused_attention_saves_no_scores() -> None:
    model = named("gpt2")
    fused = activations.per_layer(model, 2)
    eager = activations.per_layer(model, 2, activations.Attention(positions=1024, fused=False))
    assert eager - fused == 12 * 1024 * 6 - 4 * 12


STAGES = st.sampled_from([0, 1, 2, 3])
NAMES = st.sampled_from([n for n in models.named() if n != "byte-gpt"])
DEVICE = st.sampled_from(["none", "cpu", "nvme"])


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    section: dict[str, Any] = {
        "stage": draw(STAGES),
        "overlap_comm": draw(st.booleans()),
        "contiguous_gradients": draw(st.booleans()),
        "reduce_bucket_size": draw(st.integers(10**6, 10**9)),
        "stage3_max_live_parameters": draw(st.integers(0, 10**10)),
        "stage3_max_reuse_distance": draw(st.integers(0, 10**10)),
        "stage3_prefetch_bucket_size": draw(st.integers(0, 10**9)),
        "zero_hpz_partition_size": draw(st.sampled_from([1, 8])),
        "offload_optimizer": {"device": draw(DEVICE)},
        "offload_param": {"device": draw(DEVICE)},
    }
    return {
        "bf16": {"enabled": draw(st.booleans())},
        "gradient_accumulation_steps": draw(st.integers(1, 8)),
        "optimizer": {"type": draw(st.sampled_from(["AdamW", "Lion", "SGD"]))},
        "zero_optimization": section,
    }


@st.composite
def setups(draw: st.DrawFn) -> sizing_setup.Setup:
    slots = draw(st.integers(1, 16))
    return sizing_setup.Setup(
        world=slots * draw(st.integers(1, 64)),
        slots=slots,
        micro=draw(st.integers(1, 32)),
        sequence=draw(st.integers(1, 8192)),
        checkpointing=draw(st.booleans()),
        attention=draw(st.sampled_from(["sdpa", "eager"])),
        device=draw(st.sampled_from(["cuda", "cpu"])),
    )


@given(NAMES, configs(), setups())
def test_parts_are_whole_bytes_and_none_is_negative(
    name: str, config: dict[str, Any], setup: sizing_setup.Setup
) -> None:
    found = memory.estimate(named(name), zero.read(config), setup)
    parts = [found.host._asdict(), *(moment._asdict() for moment in found.moments.values())]
    for value in (v for part in parts for v in part.values()):
        assert isinstance(value, str) or (isinstance(value, int) and value >= 0)
    assert found.nvme >= 0
    assert found.checkpoint > 0
    assert found.slot.total == max(m.total for m in found.moments.values())


@given(NAMES, configs(), setups())
def test_more_of_anything_needs_no_less(name: str, config: dict[str, Any], setup: sizing_setup.Setup) -> None:
    setup = setup._replace(
        device="cuda"
    )  # without a GPU tensors above memory.HELD bytes go back to the kernel
    model = named(name)
    base = memory.estimate(model, zero.read(config), setup).slot.total
    larger = setup._replace(micro=setup.micro + 1)
    longer = setup._replace(sequence=setup.sequence + 1)
    for more in (larger, longer):
        assert memory.estimate(model, zero.read(config), more).slot.total >= base
    eager = setup._replace(attention="eager")
    fused = setup._replace(attention="sdpa")
    if setup.sequence > 1:
        scores, none = (memory.estimate(model, zero.read(config), s).slot.total for s in (eager, fused))
        assert scores >= none


@given(NAMES, configs(), setups())
def test_more_hosts_need_no_more_on_each(
    name: str, config: dict[str, Any], setup: sizing_setup.Setup
) -> None:
    model = named(name)
    setup = setup._replace(world=max(setup.world, 2))  # one rank gathers nothing
    wider = setup._replace(world=2 * setup.world)
    before, after = (
        memory.estimate(model, zero.read(config), setup),
        memory.estimate(model, zero.read(config), wider),
    )
    assert after.slot.total <= before.slot.total
    assert after.nvme <= before.nvme


@given(NAMES, setups())
def test_each_stage_holds_fewer_states(name: str, setup: sizing_setup.Setup) -> None:
    model = named(name)
    held = [memory.estimate(model, settings(s), setup).moments["step"].states for s in range(4)]
    norms = 2 * states.persistent(model, settings(3))
    assert held[0] >= held[1] >= held[2] >= held[3] - norms


def test_the_planner_loads_no_heavy_package() -> None:
    heavy = "torch deepspeed transformers pydantic jinja2 ruamel numpy"
    modules = "launcher.sizing.ladder, launcher.sizing.models"
    code = f"import sys, {modules}; print(set('{heavy}'.split()) & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"
