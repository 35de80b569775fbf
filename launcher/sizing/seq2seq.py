"""Encoder-decoders: their tensors from a Hugging Face configuration, and what decides what they save.

Owns the reading of seq2seq.json, whose lines are those of families.json, with the decoder's layers beside the
encoder's; leaves the bytes that a forward pass saves to halves.py.

    seq2seq.known() -> ("t5", "mt5", "umt5", "bart", ...)
    seq2seq.build("t5", config, place, "a model") -> architecture.Architecture, its first stack the encoder's

Names and shapes are those of transformers 5 (tests/launcher/sizing/test_seq2seq.py builds them on its meta device).
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.namedtuple import NamedTuple
from launcher.sizing import families, model_config
from launcher.sizing.architecture import Architecture, Stack

if TYPE_CHECKING:
    from collections.abc import Mapping

    from launcher import errors
    from launcher.sizing.model_config import Sizes


class Halves(NamedTuple):
    """What of an encoder-decoder's configuration decides what its forward pass saves."""

    biased: bool  # a learned bias is added to the scores of attention
    gated: bool  # the MLP multiplies two projections
    embedding_norm: bool  # a norm after the embedding of each half
    last_norm: bool  # and after its last layer
    dropout: bool  # of the stream between the layers
    attention_dropout: bool
    mlp_dropout: bool


@functools.cache
def table() -> dict[str, Any]:
    """seq2seq.json."""
    file = Path(__file__).with_name("seq2seq.json")
    read: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return read


def known() -> tuple[str, ...]:
    """The encoder-decoders that can be counted."""
    return tuple(table())


def description(family: str) -> dict[str, Any]:
    """What seq2seq.json says of a family, with what it has from the one that it is like."""
    own: dict[str, Any] = table()[family]
    return {**(description(own["like"]) if "like" in own else {}), **own}


def keys(family: str) -> set[str]:
    """The keys of a configuration that decide the family's tensors and dropout."""
    row = description(family)
    switches = {key for key in row["switches"].values() if isinstance(key, str)}
    named = {row["activation"], row.get("one_table", ""), *row["dropouts"], *switches}
    return (model_config.keys(row["sizes"]) | named | {"feed_forward_proj"}) - {""}


def build(family: str, config: Mapping[str, Any], where: errors.Place, name: str) -> Architecture:
    """The architecture of a family that is known. Raises SpecError for values that no model can have."""
    row = description(family)
    defaults = families.defaults()[family]
    read = model_config.Row(row["sizes"], row["switches"], defaults)
    sizes = model_config.Sizes({**config, **_projection(config, defaults)}, where, read)
    sizes.require("hidden", "heads", "decoder_heads", "vocab")
    if "one_table" in row and sizes.value(row["one_table"]) is False:
        sizes.fail(f"an embedding for each half is not counted ({row['one_table']})")
    stacks = tuple(_stack(row, sizes, half) for half in ("encoder", "decoder"))
    embeddings = tuple(families.tensors(row["embeddings"], sizes))
    if "still" in row:
        embeddings = tuple(w._replace(trained=row["still"] not in w.name) for w in embeddings)
    norms = tuple(families.tensors(row["norms"], sizes))
    stream, attention, mlp = (bool(sizes.value(key)) for key in row["dropouts"])
    gated = any("wi_1" in weight.name for weight in stacks[0].weights)
    saved = families.saved_by(sizes.word(row["activation"]))
    heads = max(sizes.of("heads"), sizes.of("decoder_heads"))
    return Architecture(
        name=name,
        family=family,
        hidden=sizes.of("hidden"),
        heads=heads,
        kv_heads=heads,
        head_dim=sizes.of("head"),
        value_dim=sizes.of("head"),
        vocab=sizes.of("vocab"),
        positions=sizes.of("positions"),
        learned_positions=any("embed_positions" in w.name for w in embeddings),
        tied=sizes.holds("tied"),
        embeddings=embeddings,
        stacks=stacks,
        norms=norms,
        head=tuple(families.tensors(row["head"], sizes)),
        mlp_tensors=saved + 2 if gated else saved,
        layer_norm=not row.get("biased"),
        dropout=stream,
        halves=Halves(
            biased=bool(row.get("biased")),
            gated=gated,
            embedding_norm=any("layernorm_embedding" in w.name for w in embeddings),
            last_norm=bool(norms),
            dropout=stream,
            attention_dropout=attention,
            mlp_dropout=mlp,
        ),
    )


def _stack(row: Mapping[str, Any], sizes: Sizes, half: str) -> Stack:
    """The layers of one half."""
    number, ffn = ("layers", "ffn") if half == "encoder" else ("decoder_layers", "decoder_ffn")
    if not 0 < sizes.of(number) <= families.MOST_LAYERS:
        sizes.fail(f"{sizes.of(number):,} layers of the {half} are none that a model has")
    lines = [*row[half], *row.get(f"more_{half}", ())]
    return Stack(sizes.of(number), tuple(families.tensors(lines, sizes)), ffn=sizes.of(ffn))


def _projection(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """What T5's `feed_forward_proj` stands for: the activation, and whether it is a gate (T5Config, transformers 5)."""
    asked = config.get("feed_forward_proj", defaults.get("feed_forward_proj"))
    if not isinstance(asked, str):
        return {}
    gate, _, activation = asked.rpartition("-")
    written_out = "gelu_new" if asked == "gated-gelu" else activation
    return {"is_gated_act": gate == "gated", "dense_act_fn": written_out}
