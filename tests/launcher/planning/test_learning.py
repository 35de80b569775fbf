"""What a rank holds in each stage of chat training, with adapters, and in a program of one's own."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from launcher import errors
from launcher.errors import PlanError
from launcher.files import load
from launcher.planning import fit, learning, plan, unestimated
from launcher.reports import estimate as reports
from launcher.sizing import models, states
from tests import samples

if TYPE_CHECKING:
    from pathlib import Path

    from launcher.planning.fit import Estimate

MODEL = models.load("llama-2-7b")
CLUSTER: dict[str, Any] = {"gpu": "h100-80gb", "slots": 8, "fabric": "infiniband", "memory": "2000GB"}
PSI = 6_738_415_616


LORA: dict[str, Any] = {"lora-rank": 8}
OFFLOADED: dict[str, Any] = {"offload-frozen": True}
STREAMED: dict[str, Any] = {"gather-for-generation": False}
PACKED: dict[str, Any] = {"lora-4bit": True}
ABSENT: dict[str, Any] = LORA | {"lora-targets": ["w_proj"]}


def estimate(workload: str, preset: str = "zero3", **args: Any) -> Estimate:
    fields = {"model": "llama-2-7b", "workload": workload, "deepspeed": preset, "batch": {"micro": 2}}
    found = samples.decided({**fields, "args": {"data": "/data/a.jsonl", **args}}, **CLUSTER).estimate
    assert found is not None
    return found


def parameters(workload: str, preset: str, **args: Any) -> int:
    return estimate(workload, preset, **args).evaluation.memory.moments["step"].parameters


def test_a_reference_is_a_second_copy_unless_adapters_turned_off_are_it() -> None:
    assert parameters("chat_dpo", "zero2") == 2 * 2 * PSI
    assert parameters("chat_dpo", "zero2", **LORA) == 2 * (PSI + 19_988_480)
    partitioned = parameters("chat_dpo", "zero3")
    assert 2 * 2 * PSI / 8 < partitioned < 1.01 * 2 * 2 * PSI / 8


def test_pairs_are_two_texts_and_a_judge_has_no_logits() -> None:
    pair, single = estimate("chat_reward").evaluation.setup, estimate("chat_sft").evaluation.setup
    assert pair.tokens == 2 * single.tokens
    head = 32000 * 4096
    assert estimate("chat_reward").model.parameters == PSI - head + 4096
    assert estimate("chat_reward").evaluation.memory.moments["loss"].logits < 10_000


@pytest.mark.parametrize("workload", ["chat_sft", "finetune"])
def test_packed_samples_are_one_row_whose_mask_is_of_all_its_tokens(workload: str) -> None:
    padded, packed = (estimate(workload, packing=packs).evaluation.setup for packs in (False, True))
    assert padded.masked == padded.sequence
    assert packed.masked == packed.tokens == 2 * packed.sequence


def test_a_last_layer_below_adapters_has_no_gradient() -> None:
    whole, adapted = estimate("finetune", "zero2"), estimate("finetune", "zero2", **LORA)
    learned, still = (found.evaluation.memory.moments["loss"].logits for found in (whole, adapted))
    assert learned - still == 2 * 32000 * 4096


@pytest.mark.parametrize(
    ("workload", "args", "stay"),
    [
        ("chat_sft", {}, True),
        ("chat_sft", LORA, True),
        ("chat_dpo", {}, True),
        ("chat_dpo", LORA, False),
        ("chat_rl", {}, False),
        ("chat_rl", LORA, True),
        ("chat_ppo", {}, False),
        ("chat_ppo", STREAMED, False),
        ("chat_ppo", LORA, True),
    ],
)
def test_weights_stay_for_the_backward_pass_where_the_order_of_both_passes_is_known(
    workload: str, args: dict[str, Any], stay: bool
) -> None:
    """Seen in DeepSpeed's record of each job's order, on CPU ranks with several micro batches."""
    sampled = {"reward": "brief"} if workload in ("chat_rl", "chat_ppo") else {}
    found = estimate(workload, **sampled, **args)
    several = found.evaluation.settings._replace(accumulation=4)
    kept = states.retained(found.model, several, found.evaluation.setup)
    assert (kept > 0) == stay
    if sampled and args:  # the first passes of a step make a new record
        first = several._replace(accumulation=2 if workload == "chat_rl" else 1)
        assert states.retained(found.model, first, found.evaluation.setup) == 0


@pytest.mark.parametrize("name", ["epochs", "gather-for-generation", "max-new-tokens", "seq-length"])
def test_an_option_that_is_null_is_one_that_is_left_out(name: str) -> None:
    left_out: dict[str, Any] = {name: None}
    null, absent = estimate("chat_ppo", reward="brief", **left_out), estimate("chat_ppo", reward="brief")
    assert null.evaluation.setup == absent.evaluation.setup


@pytest.mark.parametrize("more", [{"epochs": 2}, {"ptx-data": "/data/plain.jsonl"}])
def test_more_passes_over_the_same_answers_find_a_record(more: dict[str, Any]) -> None:
    found = estimate("chat_ppo", reward="brief", **LORA, **more)
    assert found.evaluation.settings.accumulation == 1
    assert states.retained(found.model, found.evaluation.settings, found.evaluation.setup) > 0


def test_ppo_has_four_engines_of_which_two_learn() -> None:
    """A reward model is taken to be as large as the model where it is not here, and a rule is none."""
    optimizer = "zero2", {"max-new-tokens": 256}
    judge = PSI - 32000 * 4096 + 4096
    by_model = estimate("chat_ppo", optimizer[0], reward="/data/reward", **optimizer[1])
    step = by_model.evaluation.memory.moments["step"]
    assert step.parameters == 2 * (2 * PSI + 2 * judge)
    assert step.optimizer == 12 * (-(-PSI // 8) + -(-judge // 8))
    by_rule = estimate("chat_ppo", optimizer[0], reward="brief", **optimizer[1])
    assert by_rule.evaluation.memory.moments["step"].parameters == 2 * (2 * PSI + judge)
    assert by_model.request.sequence == 512 + 256


def test_in_4_bit_are_policy_and_critic_and_the_judge_is_whole() -> None:
    saved = (PSI - 2 * 32000 * 4096 - 65 * 4096) * (2 - 4.127 / 8)  # of a model's linear layers
    for workload, learning_models in (("chat_rl", 1), ("chat_ppo", 2)):
        plain, packed = (
            parameters(workload, "zero2", reward="/data/reward", **LORA, **more) for more in ({}, PACKED)
        )
        assert plain - packed == pytest.approx(learning_models * saved, rel=1e-4)
    whole, gathered = (
        estimate("chat_rl", reward="brief", **LORA, **more).evaluation.memory.moments["sampling"].buffers
        for more in ({}, PACKED)
    )
    assert whole - gathered == pytest.approx(saved, rel=0.05)  # the constants stay on every rank


def test_frozen_models_go_to_the_host_where_that_is_asked_for() -> None:
    here = estimate("chat_ppo", reward="/data/reward")
    away = estimate("chat_ppo", reward="/data/reward", **OFFLOADED)
    moved = away.evaluation.memory.host.parameters
    assert moved == pytest.approx(2 * (2 * PSI), rel=0.03)
    assert here.evaluation.memory.host.parameters == 0
    assert here.evaluation.memory.slot.parameters - away.evaluation.memory.slot.parameters > 3e9


def test_zero_3_has_all_weights_whole_while_it_samples_unless_told_not_to() -> None:
    whole = estimate("chat_rl", reward="brief").evaluation.memory.moments["sampling"]
    streamed = estimate("chat_rl", reward="brief", **STREAMED)
    assert whole.buffers - streamed.evaluation.memory.moments["sampling"].buffers > 2 * (PSI - 1.2e9)


def test_a_layer_that_is_not_there_is_named_where_it_is_written() -> None:
    with pytest.raises(
        PlanError, match=r"args\.lora-targets w_proj: no linear layer of the model is called so"
    ):
        estimate("finetune", **ABSENT)


@pytest.mark.parametrize(("args", "known"), [({"block-size": 512}, True), ({"lr": 0.1}, False)])
def test_a_program_of_ones_own_is_known_as_far_as_it_says(args: dict[str, Any], known: bool) -> None:
    job = samples.job(model="llama-2-7b", workload="/data/train.py", args=args)
    found, _ = fit.estimate_or_reason(job, samples.cluster(**CLUSTER))
    assert found is not None
    assert found.model.measured == known
    assert (learning.sequence(job) > 0) == known
    assert bool(unestimated.partial(found)) != known
    assert found.evaluation.memory.slot.states > 0


def test_a_family_that_is_not_described_is_as_large_as_its_files(tmp_path: Path) -> None:
    """671 billion parameters in fp8, of a family that nobody knows, on 32 H100."""
    config = {"model_type": "new", "hidden_size": 7168, "num_hidden_layers": 61, "vocab_size": 129280}
    more = {"dtype": "bfloat16", "quantization_config": {"quant_method": "fp8"}}
    (tmp_path / "config.json").write_text(json.dumps(config | more))
    job = samples.job(model=str(tmp_path), nodes=4, deepspeed="auto", args={"seq-length": 4096})
    unknown, reason = fit.estimate_or_reason(job, samples.cluster(**CLUSTER))
    assert unknown is None
    assert "the family 'new'" in reason
    assert "nothing is known of the memory, so `deepspeed: auto` is zero3" in unestimated.unknown(
        job, reason, "zero3"
    )
    assert fit.blind_preset(job) == "zero3"
    index = {"metadata": {"total_size": 671_026_404_352}, "weight_map": {}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    found, _ = fit.estimate_or_reason(job, samples.cluster(**CLUSTER))
    assert found is not None
    assert found.model.parameters == pytest.approx(671_026_404_352, rel=1e-5)
    assert not found.fits


@pytest.mark.parametrize("workload", ["chat_sft", "chat_reward"])
def test_adapters_of_a_family_that_is_not_described_are_said_not_to_be_counted(
    workload: str, tmp_path: Path
) -> None:
    config = {"model_type": "new", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 100}
    (tmp_path / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}))
    (tmp_path / "model.safetensors.index.json").write_text('{"metadata": {"total_size": 2000000}}')
    for more in ({}, {"lora-targets": ["q_proj"]}):
        args = {"data": "/data/a.jsonl", **LORA, **more}
        fields = {"model": str(tmp_path), "workload": workload, "deepspeed": "zero2"}
        plan = samples.decided({**fields, "args": args}, **CLUSTER)
        assert plan.estimate
        assert (plan.estimate.trained, plan.estimate.saving) == (None, None)
        assert any("adapters are not counted: the layers of the family 'new'" in note for note in plan.notes)
        text, told = reports.text(plan.estimate), reports.data(plan.estimate)
        assert ", adapters not counted;" in text
        assert "checkpoint on disk" not in text
        assert "sent per rank" not in text
        unknown = "trained_parameters", "checkpoints", "communication_by_paper"
        assert [told[key] for key in unknown] == [None, None, None]
        assert (told["memory"]["checkpoint"], told["communication"]) == (None, [])


@pytest.mark.parametrize(
    ("fields", "saves", "timed"),
    [
        ({"args": {"seq-length": 512}, "checkpoint": {"every": 500}}, True, True),
        ({"args": {"seq-length": 512}}, False, True),
        ({"args": {"lr": 0.1}}, False, False),
    ],
)
def test_of_a_program_of_ones_own_no_more_is_told_than_it_says(
    fields: dict[str, Any], saves: bool, timed: bool
) -> None:
    job = samples.job(model="llama-2-7b", workload="/data/train.py", **fields)
    places: errors.Places = {"job": dict.fromkeys([(name,) for name in fields], errors.Place("job.yaml"))}
    found = plan.make(load.Loaded(job, samples.cluster(**CLUSTER), places), samples.SITE).estimate
    assert found
    assert bool(found.saving) is ("checkpoint on disk" in reports.text(found)) is saves
    assert bool(found.bound) is ("MFU" in reports.text(found)) is timed


CARD: dict[str, Any] = {"gpu": "rtx3090-24gb", "slots": 1, "hosts": 1, "memory": "32GB", "fabric": "loopback"}


@pytest.mark.parametrize(
    ("model", "workload", "args", "helps"),
    [
        ("llama-2-7b", "chat_sft", {"activation-checkpointing": True}, ["--set args.lora-rank=16"]),
        ("llama-2-70b", "chat_sft", {}, []),
        ("llama-2-70b", "chat_sft", LORA, []),
        ("llama-2-7b", "pretrain", {}, []),
        ("llama-2-7b", "/data/train.py", {"seq-length": 512}, []),
    ],
)
def test_adapters_are_proposed_where_they_would_fit(
    model: str, workload: str, args: dict[str, Any], helps: list[str]
) -> None:
    fields = {"model": model, "workload": workload, "args": args, "deepspeed": "zero2"}
    job, cluster = samples.job(**fields), samples.cluster(**CARD)
    found, _ = fit.estimate_or_reason(job, cluster)
    assert found
    assert not found.fits
    assert fit.adapters(found, job, cluster) == helps
    assert ("args.lora-rank" in str(found.refusal(helps))) is bool(helps)


def test_an_encoder_decoder_is_estimated_where_it_can_be_trained(tmp_path: Path) -> None:
    """It has its logits whole, in the type it computes in; a family that is not described says so."""
    (tmp_path / "config.json").write_text('{"model_type": "t5", "is_encoder_decoder": true}')
    job = samples.job(model=str(tmp_path), workload="finetune", args={"data": "/data/a", "seq-length": 512})
    found, _ = fit.estimate_or_reason(job, samples.cluster(**CLUSTER))
    assert found is not None
    assert (found.model.parameters, unestimated.partial(found)) == (60_506_624, "")
    assert found.evaluation.memory.moments["loss"].logits == 3 * 2 * job.batch.micro * 512 * 32128
    own = samples.job(model=str(tmp_path), workload="./train.py", args={"max-source-length": 512})
    its_own, _ = fit.estimate_or_reason(own, samples.cluster(**CLUSTER))
    assert its_own
    assert its_own.request.sequence == 512
    (tmp_path / "config.json").write_text('{"model_type": "longt5", "is_encoder_decoder": true}')
    nothing, reason = fit.estimate_or_reason(job, samples.cluster(**CLUSTER))
    assert (nothing, "the encoder-decoder 'longt5' is not counted here" in reason) == (None, True)


def test_a_checkpoint_of_ppo_has_policy_and_critic() -> None:
    judge = PSI - 32000 * 4096 + 4096
    saving = estimate("chat_ppo", "zero2", reward="brief").saving
    assert saving
    assert saving.size == (2 + 12) * (PSI + judge)


@pytest.mark.parametrize("workload", ["chat_ppo", "chat_rl"])
def test_the_time_of_steps_that_sample_answers_is_not_told(workload: str) -> None:
    found = estimate(workload, "auto", reward="brief")
    assert found.evaluation.bound
    assert found.saving
    assert (found.bound, found.saving.seconds) == (None, None)
    text = reports.text(found)
    assert "step time             not estimated" in text
    assert "tokens/s" not in text
    told = reports.data(found)
    assert told["bound"] is None
    assert {one["step_seconds"] for one in told["tried"]} == {None}


@pytest.mark.parametrize("args", [{}, LORA])
def test_a_pairs_time_has_the_references_forward_pass(args: dict[str, Any]) -> None:
    pairs, judged = estimate("chat_dpo", **args), estimate("chat_sft", **args)
    weights = PSI - 32000 * 4096 + pairs.model.trained * bool(args)
    forward = 2 * weights + 4 * 32 * 4096 * pairs.request.sequence
    assert pairs.bound
    assert judged.bound
    more = pairs.bound.compute - 2 * judged.bound.compute
    assert more * 989e12 == pytest.approx(pairs.evaluation.setup.tokens * forward, rel=1e-6)
