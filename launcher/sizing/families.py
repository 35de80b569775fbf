"""The tensors of each model family, from the keys of a Hugging Face configuration.

Owns the families that can be counted; leaves names, files and what is a causal model to models.py.

    families.FAMILIES["llama"](families.ConfigReader(config, place), "llama-7b") -> architecture.Architecture

Tensor names and shapes are those of transformers 5 (tests/launcher/sizing/test_models.py builds them on its meta device
and compares). Missing keys take the defaults of transformers' configuration classes.
"""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, NoReturn

from launcher import errors
from launcher.namedtuple import NamedTuple
from launcher.sizing import architecture

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


_LARGEST = 2**31 - 1  # of any size of a model: products of several are still floats


class ConfigReader(NamedTuple):
    """A configuration read with checks: each method takes a key with its aliases and a default."""

    config: Mapping[str, object]
    where: errors.Place

    def number(self, *keys: str, default: int) -> int:
        """A positive integer. Raises SpecError for anything else."""
        for key in keys:
            value = self.config.get(key)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                self.fail(f"{key} must be a positive integer, not {_shown(value)}")
            if value > _LARGEST:
                self.fail(f"{key} must be below 2^31, not {_shown(value)}")
            return value
        return default

    def flag(self, key: str, default: bool) -> bool:
        """True or false. Raises SpecError for anything else."""
        value = self.config.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.fail(f"{key} must be true or false, not {_shown(value)}")
        return value is True

    def word(self, key: str, default: str) -> str:
        """Text. Raises SpecError for anything else."""
        value = self.config.get(key)
        if value is not None and not isinstance(value, str):
            self.fail(f"{key} must be text, not {_shown(value)}")
        return default if value is None else str(value)

    def head_dim(self, hidden: int, heads: int, default: int | None = None) -> int:
        """The width of one head: head_dim, `default`, or hidden / heads, which must divide."""
        given = self.number("head_dim", default=default or 0)
        if not given and hidden % heads:
            self.fail(f"a hidden size of {hidden} does not divide among {heads} heads")
        return given or hidden // heads

    def fail(self, message: str) -> NoReturn:
        raise errors.SpecError(errors.Problem(message, "correct the model's configuration", self.where))


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _linear(name: str, out: int, inp: int, bias: bool) -> list[architecture.Weight]:
    return [
        architecture.Weight(f"{name}.weight", (out, inp)),
        *([architecture.Weight(f"{name}.bias", (out,))] if bias else []),
    ]


def _conv1d(name: str, inp: int, out: int) -> list[architecture.Weight]:
    return [architecture.Weight(f"{name}.weight", (inp, out)), architecture.Weight(f"{name}.bias", (out,))]


def _layer_norm(name: str, hidden: int) -> list[architecture.Weight]:
    return [architecture.Weight(f"{name}.weight", (hidden,)), architecture.Weight(f"{name}.bias", (hidden,))]


def _gpt2(keys: ConfigReader, name: str) -> architecture.Architecture:
    hidden = keys.number("n_embd", "hidden_size", default=768)
    heads = keys.number("n_head", "num_attention_heads", default=12)
    positions = keys.number("n_positions", "max_position_embeddings", default=1024)
    ffn = keys.number("n_inner", default=4 * hidden)
    vocab = keys.number("vocab_size", default=50257)
    tied = keys.flag("tie_word_embeddings", True)
    if keys.flag("add_cross_attention", False):
        keys.fail("cross-attention is not counted: it has no part in a causal language model")
    layer = [
        *_layer_norm("ln_1", hidden),
        *_conv1d("attn.c_attn", hidden, 3 * hidden),
        *_conv1d("attn.c_proj", hidden, hidden),
        *_layer_norm("ln_2", hidden),
        *_conv1d("mlp.c_fc", hidden, ffn),
        *_conv1d("mlp.c_proj", ffn, hidden),
    ]
    return architecture.Architecture(
        name=name,
        family="gpt2",
        layers=keys.number("n_layer", "num_hidden_layers", default=12),
        hidden=hidden,
        heads=heads,
        kv_heads=heads,
        head_dim=keys.head_dim(hidden, heads),
        ffn=ffn,
        vocab=vocab,
        positions=positions,
        learned_positions=True,
        tied=tied,
        embeddings=(
            architecture.Weight("wte.weight", (vocab, hidden)),
            architecture.Weight("wpe.weight", (positions, hidden)),
        ),
        layer=tuple(layer),
        norms=tuple(_layer_norm("ln_f", hidden)),
        head=() if tied else (architecture.Weight("lm_head.weight", (vocab, hidden)),),
        mlp_tensors=_activation(keys, "activation_function", "gelu_new"),
        dropout=bool(keys.config.get("resid_pdrop", 0.1)),
    )


class _Llama(NamedTuple):
    """What tells LLaMA's line apart: defaults, biases, norms of queries and keys, experts."""

    family: str
    vocab: int
    ffn: int
    positions: int
    kv_heads: int | None = None
    head_dim: int | None = None
    qkv_bias: bool = False
    bias_keys: bool = False  # attention_bias is read
    mlp_bias_key: bool = False
    qk_norm: bool = False
    mixture: bool = False


def _llama(line: _Llama, keys: ConfigReader, name: str) -> architecture.Architecture:
    hidden = keys.number("hidden_size", default=4096)
    heads = keys.number("num_attention_heads", default=32)
    # "num_key_value_heads": null means one per head; a missing key takes the family's own default.
    plain = "num_key_value_heads" in keys.config or line.kv_heads is None
    kv_heads = keys.number("num_key_value_heads", default=heads if plain else line.kv_heads or heads)
    if heads % kv_heads:
        keys.fail(f"{heads} attention heads do not divide among {kv_heads} key-value heads")
    head_dim = keys.head_dim(hidden, heads, line.head_dim)
    keys.word("hidden_act", "silu")
    ffn = keys.number("intermediate_size", default=line.ffn)
    vocab = keys.number("vocab_size", default=line.vocab)
    tied = keys.flag("tie_word_embeddings", False)
    bias = keys.flag("attention_bias", False) if line.bias_keys else False
    experts = keys.number("num_local_experts", "num_experts", default=8) if line.mixture else 0
    active = keys.number("num_experts_per_tok", default=2) if line.mixture else 0
    if active > experts:
        keys.fail(f"{active} experts a token are more than the {experts} that there are")
    layer = [
        *_linear("self_attn.q_proj", heads * head_dim, hidden, bias or line.qkv_bias),
        *_linear("self_attn.k_proj", kv_heads * head_dim, hidden, bias or line.qkv_bias),
        *_linear("self_attn.v_proj", kv_heads * head_dim, hidden, bias or line.qkv_bias),
        *_linear("self_attn.o_proj", hidden, heads * head_dim, bias),
    ]
    if line.qk_norm:
        layer += [
            architecture.Weight("self_attn.q_norm.weight", (head_dim,)),
            architecture.Weight("self_attn.k_norm.weight", (head_dim,)),
        ]
    layer += _mixture(experts, hidden, ffn) if line.mixture else _gated_mlp(keys, line, hidden, ffn)
    layer += [
        architecture.Weight("input_layernorm.weight", (hidden,)),
        architecture.Weight("post_attention_layernorm.weight", (hidden,)),
    ]
    return architecture.Architecture(
        name=name,
        family=line.family,
        layers=keys.number("num_hidden_layers", default=32),
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        ffn=ffn,
        vocab=vocab,
        positions=keys.number("max_position_embeddings", default=line.positions),
        learned_positions=False,
        tied=tied,
        embeddings=(architecture.Weight("embed_tokens.weight", (vocab, hidden)),),
        layer=tuple(layer),
        norms=(architecture.Weight("norm.weight", (hidden,)),),
        head=() if tied else (architecture.Weight("lm_head.weight", (vocab, hidden)),),
        mlp_tensors=4,  # gate, its SiLU, up, and their product
        experts=experts,
        active_experts=active,
    )


def _gated_mlp(keys: ConfigReader, line: _Llama, hidden: int, ffn: int) -> list[architecture.Weight]:
    bias = keys.flag("mlp_bias", False) if line.mlp_bias_key else False
    return [
        *_linear("mlp.gate_proj", ffn, hidden, bias),
        *_linear("mlp.up_proj", ffn, hidden, bias),
        *_linear("mlp.down_proj", hidden, ffn, bias),
    ]


def _mixture(experts: int, hidden: int, ffn: int) -> list[architecture.Weight]:
    return [
        architecture.Weight("mlp.gate.weight", (experts, hidden)),
        architecture.Weight("mlp.experts.gate_up_proj", (experts, 2 * ffn, hidden)),
        architecture.Weight("mlp.experts.down_proj", (experts, hidden, ffn)),
    ]


def _gpt_neox(keys: ConfigReader, name: str) -> architecture.Architecture:
    hidden = keys.number("hidden_size", default=6144)
    heads = keys.number("num_attention_heads", default=64)
    ffn = keys.number("intermediate_size", default=24576)
    vocab = keys.number("vocab_size", default=50432)
    tied = keys.flag("tie_word_embeddings", False)
    bias = keys.flag("attention_bias", True)
    layer = [
        *_layer_norm("input_layernorm", hidden),
        *_layer_norm("post_attention_layernorm", hidden),
        *_linear("attention.query_key_value", 3 * hidden, hidden, bias),
        *_linear("attention.dense", hidden, hidden, bias),
        *_linear("mlp.dense_h_to_4h", ffn, hidden, True),
        *_linear("mlp.dense_4h_to_h", hidden, ffn, True),
    ]
    return architecture.Architecture(
        name=name,
        family="gpt_neox",
        layers=keys.number("num_hidden_layers", default=44),
        hidden=hidden,
        heads=heads,
        kv_heads=heads,
        head_dim=keys.head_dim(hidden, heads),
        ffn=ffn,
        vocab=vocab,
        positions=keys.number("max_position_embeddings", default=2048),
        learned_positions=False,
        tied=tied,
        embeddings=(architecture.Weight("embed_in.weight", (vocab, hidden)),),
        layer=tuple(layer),
        norms=tuple(_layer_norm("final_layer_norm", hidden)),
        head=() if tied else (architecture.Weight("lm_head.weight", (vocab, hidden)),),
        mlp_tensors=_activation(keys, "hidden_act", "gelu"),
    )


def _activation(keys: ConfigReader, key: str, default: str) -> int:
    """Tensors that the activation and the projection after it save; a written-out tanh saves each step."""
    fused = {"relu": 1, "gelu": 2, "silu": 2, "swish": 2, "gelu_pytorch_tanh": 2}
    return fused.get(keys.word(key, default), 5)


FAMILIES: dict[str, Callable[[ConfigReader, str], architecture.Architecture]] = {
    "gpt2": _gpt2,
    "gpt_neox": _gpt_neox,
    "llama": functools.partial(
        _llama, _Llama("llama", 32000, 11008, 2048, bias_keys=True, mlp_bias_key=True)
    ),
    "mistral": functools.partial(_llama, _Llama("mistral", 32000, 14336, 131072, kv_heads=8)),
    "mixtral": functools.partial(_llama, _Llama("mixtral", 32000, 14336, 131072, kv_heads=8, mixture=True)),
    "qwen2": functools.partial(_llama, _Llama("qwen2", 151936, 22016, 32768, kv_heads=32, qkv_bias=True)),
    "qwen3": functools.partial(
        _llama, _Llama("qwen3", 151936, 22016, 32768, kv_heads=32, head_dim=128, bias_keys=True, qk_norm=True)
    ),
}
