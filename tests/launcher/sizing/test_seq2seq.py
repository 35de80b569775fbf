"""Encoder-decoders: tensors as transformers makes them on its meta device, and what autograd saves of a real pass."""

from __future__ import annotations

import collections
import re
import warnings
from pathlib import Path
from typing import Any

import pytest

from launcher import errors
from launcher.sizing import adapters, architecture, halves, models, seq2seq
from launcher.sizing.setup import Setup

# Encoder-decoders of text whose tensors are not described, and models that hear or see.
OTHERS = Path(__file__).with_name("uncounted_encoder_decoders.txt").read_text(encoding="utf-8").split()
T5: dict[str, Any] = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0, "num_heads": 4}
T5 |= {"vocab_size": 512, "d_model": 256, "d_kv": 48, "d_ff": 704, "num_layers": 3, "num_decoder_layers": 2}
BART: dict[str, Any] = {"vocab_size": 512, "d_model": 256, "encoder_layers": 3, "decoder_layers": 2}
BART |= {
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 704,
    "bos_token_id": 0,
}
BART |= {"decoder_ffn_dim": 640, "max_position_embeddings": 160, "pad_token_id": 1, "eos_token_id": 2}
BART |= {"encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0, "decoder_start_token_id": 2}
MICRO, LENGTH = 2, 128


def small(family: str, dropout: float = 0.0, **more: Any) -> dict[str, Any]:
    own = {**T5, "dropout_rate": dropout} if "t5" in family else {**BART, "dropout": dropout}
    return {"model_type": family, **own, **more}


def build(config: dict[str, Any]) -> architecture.Architecture:
    found = models.from_config(config, encoders=True)
    assert isinstance(found, architecture.Architecture)
    return found


def made(config: dict[str, Any], **how: Any) -> Any:
    transformers = pytest.importorskip("transformers", reason="its own models are compared")
    options = {k: v for k, v in config.items() if k != "model_type"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings = transformers.AutoConfig.for_model(config["model_type"], use_cache=False, **options)
        return transformers.AutoModelForSeq2SeqLM.from_config(settings, **how)


@pytest.mark.heavy
@pytest.mark.parametrize("more", [{}, {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}])
@pytest.mark.parametrize("family", seq2seq.known())
def test_tensors(family: str, more: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch", reason="the shapes are compared with those that torch builds")
    config = small(family, **more)
    with torch.device("meta"):
        theirs = made(config)
    ours: collections.Counter[tuple[str, tuple[int, ...], bool]] = collections.Counter()
    for number, weights in build(config).repeated:
        for weight in weights:
            ours[_tail(weight.name), weight.shape, weight.trained] += number
    named = theirs.named_parameters()
    assert ours == collections.Counter((_tail(n), tuple(p.shape), p.requires_grad) for n, p in named)


def _tail(name: str) -> str:
    return re.sub(r"^(model\.)?|(?<=coder\.)(block|layers)\.[0-9]+\.", "", name).replace("block.0.", "")


@pytest.mark.torch
def test_every_encoder_decoder_of_transformers_is_described_or_listed() -> None:
    auto = pytest.importorskip("transformers.models.auto.modeling_auto", reason="its list is compared")
    listed = auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
    assert set(listed) == {*seq2seq.known(), *OTHERS}


@pytest.mark.parametrize(
    ("config", "parameters"),
    [  # counted by transformers 5.24 on its meta device, from each config.json's sizes
        ({"model_type": "t5"}, 60_506_624),
        ({"model_type": "t5", "d_model": 1024, "d_ff": 4096, "num_layers": 24, "num_heads": 16}, 737_668_096),
        ({"model_type": "mt5"}, 172_119_424),
        ({"model_type": "umt5"}, 172_122_112),
        ({"model_type": "bart"}, 406_291_456),
        ({"model_type": "m2m_100"}, 483_905_536),
        ({"model_type": "blenderbot"}, 2_696_268_800),
    ],
)
def test_parameters(config: dict[str, Any], parameters: int) -> None:
    assert build(config).parameters == parameters


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"num_layers": 0}, "num_layers must be a positive integer, not 0"),
        ({"d_kv": "wide"}, 'd_kv must be a positive integer, not "wide"'),
        ({"num_layers": 200_000}, "200,000 layers of the encoder are none that a model has"),
    ],
)
def test_values_that_no_model_has(more: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.SpecError, match=message):
        build(small("t5", **more))


def test_what_is_not_described_says_so() -> None:
    found = models.from_config({"model_type": "longt5", "is_encoder_decoder": True}, encoders=True)
    assert isinstance(found, models.Unknown)
    assert found.reason.startswith("the encoder-decoder 'longt5' is not counted here")
    with pytest.raises(errors.SpecError, match="is not a causal language model"):
        models.from_config({"model_type": "t5", "is_encoder_decoder": True})
    with pytest.raises(errors.SpecError, match="an embedding for each half is not counted"):
        build(small("marian", share_encoder_decoder_embeddings=False))


def kept(model: Any, vocab: int) -> int:
    """Bytes of the distinct storages that autograd keeps after a forward pass with loss, parameters left out."""
    import torch

    own = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]}
    storages = {}

    def pack(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage  # held, so that no address is used twice
        return tensor

    ids = torch.randint(3, vocab, (MICRO, LENGTH))
    mask = torch.ones_like(ids)
    mask[0, -3:] = 0
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        model(input_ids=ids, attention_mask=mask, labels=ids)
    return sum(s.nbytes() for s in storages.values())


def planned(model: architecture.Architecture, width: int, checkpointing: bool = False) -> int:
    setup = Setup(1, 1, MICRO, LENGTH, checkpointing=checkpointing, device="cpu")
    return halves.moments(model, setup, width).saved + width * MICRO * LENGTH * model.vocab


CONFIGS = {
    **{family: small(family, 0.1) for family in seq2seq.known()},
    "t5-still": small("t5"),
    "t5-gated": small("t5", 0.1, feed_forward_proj="gated-gelu"),
    "bart-still": small("bart", activation_function="relu"),
    "bart-everywhere": small("bart", 0.1, attention_dropout=0.1, activation_dropout=0.1),
    "m2m-everywhere": small("m2m_100", 0.1, activation_dropout=0.1, activation_function="relu"),
}


@pytest.mark.heavy
@pytest.mark.parametrize("low", [True, False], ids=["bf16", "fp32"])
@pytest.mark.parametrize("name", CONFIGS)
def test_saved_tensors(name: str, low: bool) -> None:
    """At most 1% off; what is left are tables that grow with neither width nor batch."""
    torch = pytest.importorskip("torch", reason="a real forward pass is counted")
    config = CONFIGS[name]
    model = made(config, dtype=torch.bfloat16 if low else torch.float32, attn_implementation="sdpa").train()
    assert planned(build(config), 2 if low else 4) == pytest.approx(kept(model, 512), rel=0.01)


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["t5", "t5-gated", "bart"])
def test_checkpointing_keeps_the_inputs_of_layers(name: str) -> None:
    torch = pytest.importorskip("torch", reason="a real forward pass is counted")
    config = CONFIGS[name]
    model = made(config, dtype=torch.bfloat16, attn_implementation="sdpa").train()
    model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    assert 0.98 <= planned(build(config), 2, checkpointing=True) / kept(model, 512) <= 1.05


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("name", "targets", "dropout"),
    [
        ("t5", (), 0.0),
        ("t5", ("q", "v"), 0.0),
        ("t5", (), 0.1),
        ("umt5", ("q", "v", "wo"), 0.0),
        ("bart", (), 0.0),
        ("bart", ("q_proj", "v_proj"), 0.0),
        ("bart-still", ("q_proj", "fc1"), 0.0),
        ("m2m_100", (), 0.0),
    ],
)
def test_adapters(name: str, targets: tuple[str, ...], dropout: float) -> None:
    """Their tensors are peft's; of what is saved, layers before the first adapter save less than is planned."""
    torch = pytest.importorskip("torch", reason="a real forward pass is counted")
    peft = pytest.importorskip("peft", reason="its adapters are compared")
    config = CONFIGS[name]
    how = peft.LoraConfig(
        r=16, lora_dropout=dropout, target_modules=list(targets) or "all-linear", task_type="SEQ_2_SEQ_LM"
    )
    base = made(config, dtype=torch.bfloat16, attn_implementation="sdpa").train()
    # DeepSpeed casts the adapters too
    model = peft.get_peft_model(base, how, autocast_adapter_dtype=False)
    asked = architecture.Adapters(16, targets, dropout=bool(dropout))
    ours = adapters.attach(build(config), asked)
    assert ours.trained == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert 0.98 <= planned(ours, 2) / kept(model, 512) <= 1.05


def test_attention_between_the_halves_is_arithmetic_too() -> None:
    from launcher.sizing import traffic

    model = build({"model_type": "bart"})
    more = traffic.flops_per_token(model, 512) - traffic.flops_per_token(model, 256)
    assert more == 12 * (12 + 12 + 12) * 1024 * 256
