"""Adapters' tensors against those that peft adds on torch's meta device, and what frozen weights take."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from launcher.sizing import adapters, families, memory, models, setup, states, traffic, zero
from launcher.sizing.architecture import Adapters, Architecture
from tests import model_families
from tests.launcher.sizing import test_activations, test_families

RANK = 4


def named(name: str) -> Architecture:
    found = models.load(name)
    assert isinstance(found, Architecture)
    return found


def trained_by_peft(config: dict[str, Any], targets: tuple[str, ...] = ()) -> int:
    torch = pytest.importorskip("torch", reason="peft's tensors are compared")
    transformers = pytest.importorskip("transformers", reason="its models are adapted")
    peft = pytest.importorskip("peft", reason="its tensors are compared")
    family = config["model_type"]
    options = {key: value for key, value in config.items() if key != "model_type"}
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        made = transformers.AutoConfig.for_model(model_families.HUBS_OWN.get(family, family), **options)
        model = transformers.AutoModelForCausalLM.from_config(made)
        how = peft.LoraConfig(r=RANK, target_modules=list(targets) or "all-linear", task_type="CAUSAL_LM")
        adapted = peft.get_peft_model(model, how)
    return sum(p.numel() for p in adapted.parameters() if p.requires_grad)


@pytest.mark.heavy
@pytest.mark.parametrize("family", families.known())
def test_every_family_gets_the_adapters_that_peft_gives_it(family: str) -> None:
    config = {"model_type": family, **test_families.small(family, True)}
    adapted = adapters.attach(test_families.build(config), Adapters(RANK, ()))
    assert adapted.trained == trained_by_peft(config)


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("family", "targets"),
    [
        ("llama", ("q_proj", "v_proj")),
        ("gpt2", ("c_attn",)),
        ("gpt2", ("mlp.c_proj",)),
        ("mixtral", ("q_proj", "o_proj")),
        ("deepseek_v3", ("gate_proj", "up_proj", "down_proj")),
        ("qwen2_moe", ("q_proj", "down_proj")),
    ],
)
def test_named_layers_alone_get_adapters(family: str, targets: tuple[str, ...]) -> None:
    config = {"model_type": family, **test_families.small(family, True)}
    adapted = adapters.attach(test_families.build(config), Adapters(RANK, targets))
    assert adapted.trained == trained_by_peft(config, targets) > 0


def test_llama_2_7b_with_deepspeed_chats_rank_trains_a_twentieth() -> None:
    """The figure of jobs/chat/sft-lora.yaml, which peft counts on the meta device."""
    adapted = adapters.attach(named("llama-2-7b"), Adapters(128, ()))
    assert adapted.trained == 319_815_680
    assert adapted.parameters == 6_738_415_616 + 319_815_680


def test_a_target_that_the_model_has_not_is_named_with_those_that_it_has() -> None:
    with pytest.raises(
        ValueError, match="w_proj: no linear layer of the model is called so; it has q_proj, k_proj"
    ):
        adapters.attach(named("llama-2-7b"), Adapters(8, ("w_proj",)))


def test_frozen_weights_have_no_gradients_and_no_optimizer() -> None:
    model = adapters.attach(named("llama-2-7b"), Adapters(16, ()))
    settings, there = (
        zero.read({"zero_optimization": {"stage": 2}, "bf16": {"enabled": True}}),
        setup.Setup(1, 1, 1, 512),
    )
    assert states.parameters(model, settings, there) == 2 * model.parameters
    assert states.optimizer(model, settings, there) == 12 * model.trained
    assert states.gradients(model, settings, there) == 2 * model.trained
    wide = setup.Setup(8, 8, 1, 512)
    moved = traffic.collectives(model, settings, wide)
    assert {c.message for c in moved} == {2.0 * model.trained}
    plain = traffic.flops_per_token(named("llama-2-7b"), 512)
    assert 0.65 < traffic.flops_per_token(model, 512) / plain < 0.70  # two of three products
    assert memory.checkpoint(model, settings) == 14 * model.trained


def test_weights_in_4_bit_take_an_eighth_more_than_a_quarter_with_their_constants() -> None:
    """bitsandbytes' NF4 with double quantization: 4.127 bits a weight (QLoRA, arXiv 2305.14314, section 3)."""
    model = adapters.attach(named("llama-2-7b"), Adapters(16, (), packed=True))
    settings, there = (
        zero.read({"zero_optimization": {"stage": 2}, "bf16": {"enabled": True}}),
        setup.Setup(1, 1, 1, 512),
    )
    linear = 6_738_415_616 - 2 * 32000 * 4096 - 65 * 4096  # but for embedding, head and norms
    assert model.packed == linear
    rest = 2 * (6_738_415_616 - linear + model.trained)
    assert states.parameters(model, settings, there) - rest == pytest.approx(linear * 4.127 / 8, rel=1e-4)


def saved_bytes(config: dict[str, Any], targets: tuple[str, ...], dropout: float) -> int:
    """The same as of test_activations, with adapters."""
    torch = pytest.importorskip("torch", reason="a real forward pass is counted")
    transformers = pytest.importorskip("transformers", reason="a real forward pass is counted")
    peft = pytest.importorskip("peft", reason="a real forward pass is counted")
    options = {key: value for key, value in config.items() if key != "model_type"}
    made = transformers.AutoConfig.for_model(config["model_type"], use_cache=False, **options)
    model = transformers.AutoModelForCausalLM.from_config(made, attn_implementation="sdpa").to(torch.bfloat16)
    how = peft.LoraConfig(
        r=8, lora_dropout=dropout, target_modules=list(targets) or "all-linear", task_type="CAUSAL_LM"
    )
    model = peft.get_peft_model(model, how).to(torch.bfloat16).train()
    own = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]}
    storages: dict[int, Any] = {}

    def pack(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage
        return tensor

    ids = torch.randint(0, config["vocab_size"], (1, 128))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        model(input_ids=ids, labels=ids)
    return sum(storage.nbytes() for storage in storages.values())


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("name", "targets", "dropout"),
    [
        ("llama", (), 0.0),
        ("llama", ("q_proj", "v_proj"), 0.0),
        ("llama", (), 0.1),
        ("gpt2", (), 0.0),
        ("mixtral", (), 0.0),
        ("mixtral", ("q_proj", "v_proj"), 0.0),
    ],
)
def test_what_autograd_keeps_below_adapters(name: str, targets: tuple[str, ...], dropout: float) -> None:
    """At most 2% less than it is: what comes before the first adapter is not kept, a layer's norm of many."""
    from launcher.sizing import activations

    layers = {"n_layer" if name == "gpt2" else "num_hidden_layers": 8}
    config = test_activations.CONFIGS[name] | layers
    plain = models.from_config(config)
    assert isinstance(plain, Architecture)
    model = adapters.attach(plain, Adapters(8, targets, dropout=dropout > 0))
    there = setup.Setup(world=1, slots=1, micro=1, sequence=128, device="cpu")
    expected = activations.moments(model, there, 2).saved + 128 * model.vocab * activations.FLOAT
    assert 0.995 <= expected / saved_bytes(config, targets, dropout) <= 1.03
