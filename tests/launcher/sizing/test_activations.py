"""Saved tensors of real forward passes, counted by autograd's own hooks, against the formula."""

from __future__ import annotations

import dataclasses
import re
import warnings
from typing import Any

import pytest

from launcher.sizing import activations, architecture, families, models, setup
from tests.launcher.sizing import test_families

SMALL: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GPT2: dict[str, Any] = {
    "model_type": "gpt2",
    "vocab_size": 512,
    "n_embd": 256,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "attn_pdrop": 0.0,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
}
CONFIGS = {
    "gpt2": GPT2,
    "gpt2-gelu": GPT2 | {"activation_function": "gelu"},
    "llama": SMALL | {"model_type": "llama"},
    "mistral": SMALL | {"model_type": "mistral"},
    "qwen2": SMALL | {"model_type": "qwen2"},
    "qwen3": SMALL | {"model_type": "qwen3", "head_dim": 64},
    "mixtral": SMALL | {"model_type": "mixtral", "num_local_experts": 4},
    "gpt_neox": SMALL | {"model_type": "gpt_neox"},
}
MICRO, SEQUENCE = 2, 128


def saved_bytes(config: dict[str, Any], low: bool, checkpointing: bool) -> int:
    """Bytes of the distinct storages that autograd keeps after a forward pass with loss, parameters left out."""
    torch = pytest.importorskip("torch", reason="a real forward pass is counted")
    transformers = pytest.importorskip("transformers", reason="a real forward pass is counted")
    options = {k: v for k, v in config.items() if k != "model_type"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = transformers.AutoConfig.for_model(config["model_type"], use_cache=False, **options)
        model = transformers.AutoModelForCausalLM.from_config(made, attn_implementation="sdpa")
    model = model.to(torch.bfloat16 if low else torch.float32).train()
    if checkpointing:
        model.activation_checkpointing_enable()
    own = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]}
    storages = {}

    def pack(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage  # held, so that no address is used twice
        return tensor

    ids = torch.randint(0, config["vocab_size"], (MICRO, SEQUENCE))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        model(input_ids=ids, labels=ids)
    return sum(s.nbytes() for s in storages.values())


@pytest.mark.heavy
@pytest.mark.parametrize("checkpointing", [False, True], ids=["whole", "checkpointing"])
@pytest.mark.parametrize("low", [True, False], ids=["bf16", "fp32"])
@pytest.mark.parametrize("name", CONFIGS)
def test_saved_tensors(name: str, low: bool, checkpointing: bool) -> None:
    config = CONFIGS[name]
    model = models.from_config(config)
    assert isinstance(model, architecture.Architecture)
    width = 2 if low else 4
    there = setup.Setup(world=1, slots=1, micro=MICRO, sequence=SEQUENCE, checkpointing=checkpointing)
    expected = activations.moments(model, there, width).saved
    log_softmax = MICRO * SEQUENCE * model.vocab * activations.FLOAT
    # Rotary tables, expert offsets and the statistics of a bf16 norm on a CPU are the rest.
    assert saved_bytes(config, low, checkpointing) == pytest.approx(expected + log_softmax, rel=0.02)


# Wide enough that tables of the rotation are no part of it.
WIDE = {
    **{"hidden": 256, "heads": 4, "kv": 2, "kvn": 2, "head": 48, "ffn": 704, "vocab": 512, "positions": 512},
    **{"window": 512, "experts": 4, "active": 2, "expert": 160, "shared": 2, "shared_ffn": 320, "layers": 6},
}


@pytest.mark.heavy
@pytest.mark.parametrize("low", [True, False], ids=["bf16", "fp32"])
@pytest.mark.parametrize("family", sorted({*families.table()["measured"]} - {*CONFIGS}))
def test_saved_tensors_of_every_family_that_counts_as_measured(family: str, low: bool) -> None:
    config = {"model_type": family, **test_families.small(family, False, WIDE)}
    config |= {key: 0.0 for key in dir(test_families.kind_of(family)) if re.search("_p?drop(out)?$", key)}
    model = models.from_config(config)
    assert isinstance(model, architecture.Architecture)
    there = setup.Setup(world=1, slots=1, micro=MICRO, sequence=SEQUENCE)
    expected = activations.moments(model, there, 2 if low else 4).saved
    log_softmax = MICRO * SEQUENCE * model.vocab * activations.FLOAT
    assert saved_bytes(config, low, checkpointing=False) == pytest.approx(expected + log_softmax, rel=0.02)


def test_dropout_keeps_one_mask_after_attention_and_one_after_the_mlp() -> None:
    with_dropout = models.from_config(GPT2 | {"resid_pdrop": 0.1})
    without = models.from_config(GPT2)
    assert isinstance(with_dropout, architecture.Architecture)
    assert isinstance(without, architecture.Architecture)
    assert activations.per_layer(with_dropout, 2) - activations.per_layer(without, 2) == 2 * 256


def megatron(hidden: int, heads: int, sequence: int, micro: int, tensor: int = 1) -> float:
    """Bytes of one layer by Korthikanti et al., arXiv 2205.05198, equation 2 (tensor parallel degree `tensor`)."""
    return sequence * micro * hidden * (10 + 24 / tensor + 5 * heads * sequence / (hidden * tensor))


def test_megatron_formula_for_gpt3() -> None:
    # arXiv 2205.05198, figure 1 and table 3: GPT-3 175B, 96 layers, hidden 12288, 96 heads, length 2048.
    layer = megatron(12288, 96, 2048, 1)
    assert layer == 2048 * 12288 * (34 + 5 * 96 * 2048 / 12288)
    assert megatron(12288, 96, 2048, 1, tensor=8) < layer / 3


@pytest.mark.torch
@pytest.mark.parametrize(
    ("tokens", "hidden", "vocab"), [(8, 64, 500), (4096, 64, 500), (8192, 4096, 128256), (300, 299, 50257)]
)
def test_a_loss_in_chunks_is_cut_as_the_workload_cuts_it(tokens: int, hidden: int, vocab: int) -> None:
    losses = pytest.importorskip("workloads.losses", reason="the train extra is not installed")
    gpt2 = models.load("gpt2")
    assert not isinstance(gpt2, models.Unknown)
    model = dataclasses.replace(gpt2, hidden=hidden, vocab=vocab)
    assert activations.loss_rows(model, tokens) == losses.chunk_rows(tokens, hidden, vocab)


def test_a_loss_in_chunks_keeps_the_gradient_of_the_head_and_not_the_logits() -> None:
    model = models.load("llama-3.1-8b")
    assert not isinstance(model, models.Unknown)
    whole = setup.Setup(1, 1, 1, 8192)
    assert activations.loss(model, whole, 2) == 8192 * 128256 * 12
    few = activations.loss(model, whole._replace(learning=setup.Learning(loss="chunks")), 2)
    assert few == 1024 * 128256 * 6 + 8192 * 4096 * 2 + 128256 * 4096 * 6
