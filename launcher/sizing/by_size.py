"""Models whose family is not described: what their files of weights alone say of their size.

Owns the reading of it; a family's tensors are families.py's.

    by_size.parameters(folder, config) -> the number, or 0 where the files do not tell it
    by_size.build(config, number, name) -> an Architecture of which the states are known, not the activations
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from launcher.sizing.architecture import Architecture, Stack, Weight

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

WIDTHS = {"bfloat16": 2, "float16": 2, "float32": 4, "float8_e4m3fn": 1}
# Sizes as causal models call them, and as encoder-decoders do.
HIDDEN, LAYERS = ("hidden_size", "d_model"), ("num_hidden_layers", "num_layers", "encoder_layers")
_INDEX = "model.safetensors.index.json"
_MOST = 2**26  # characters of an index


def parameters(folder: Path, config: Mapping[str, Any]) -> int:
    """The number of parameters, from safetensors' index or files and the type that the configuration names.

    https://huggingface.co/docs/safetensors/metadata_parsing; 0 where there are none, or where several lie in one byte.
    """
    quantized = config.get("quantization_config")
    method = quantized.get("quant_method") if isinstance(quantized, dict) else None
    named = str(config.get("dtype") or config.get("torch_dtype"))
    width = 1 if method == "fp8" else 0 if method else WIDTHS.get(named, 0)
    return _bytes(folder) // width if width else 0


def _bytes(folder: Path) -> int:
    index = folder / _INDEX
    try:
        if index.is_file():
            with index.open(encoding="utf-8") as opened:
                size = json.loads(opened.read(_MOST))["metadata"]["total_size"]
            return size if isinstance(size, int) and size > 0 else 0
        return sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return 0


def _first(config: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    return next((config[key] for key in keys if key in config), None)


def build(config: Mapping[str, Any], number: int, name: str) -> Architecture | None:
    """A model of `number` parameters, all in layers that are alike but for the embedding; None where they are none."""
    hidden, layers, vocab = (_first(config, keys) for keys in (HIDDEN, LAYERS, ("vocab_size",)))
    if not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in (hidden, layers, vocab)):
        return None
    assert isinstance(hidden, int)
    assert isinstance(layers, int)
    assert isinstance(vocab, int)
    table = Weight("embed_tokens.weight", (vocab, hidden))
    each = (number - table.size) // (layers * hidden)
    if each <= 0:
        return None
    heads = config.get("num_attention_heads")
    heads = heads if isinstance(heads, int) and heads > 0 else 1
    positions = config.get("max_position_embeddings")
    return Architecture(
        name=name,
        family=str(config.get("model_type")),
        hidden=hidden,
        heads=heads,
        kv_heads=heads,
        head_dim=hidden // heads,
        value_dim=hidden // heads,
        vocab=vocab,
        positions=positions if isinstance(positions, int) and positions > 0 else 0,
        learned_positions=False,
        tied=True,
        embeddings=(table,),
        stacks=(Stack(layers, (Weight("weight", (each, hidden)),)),),
        norms=(),
        head=(),
        mlp_tensors=0,
        unmeasured=f"the layers of the family {config.get('model_type')!r} are not described",
    )
