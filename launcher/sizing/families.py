"""The tensors of each model family, from the keys of a Hugging Face configuration.

Owns the reading of families.json, which describes a family by its blocks; leaves which key is meant to model_config.py,
which layer is of which kind to layer_kinds.py, what its layers save beside the usual to saved.py, and names, files and
what is a causal model to models.py.

    families.known() -> every model_type that can be counted
    families.build("deepseek_v3", config, place, "a model") -> architecture.Architecture

A tensor of families.json is a line: its name, its sizes, and words after them. `+` is a bias beside the weight, `+x`
one where the switch x is on, `?x` the whole only there (`?-x` only where it is off), and `!` a name without `.weight`.

    "self_attn.q_proj heads*head hidden +qkv_bias"

Names and shapes are those of transformers 5 (tests/launcher/sizing/test_families.py builds them on its meta device and
compares), and so are the defaults, which tests/model_families.py writes to family_defaults.json.
"""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.sizing import layer_kinds, model_config, saved
from launcher.sizing.architecture import Architecture, Stack, Weight

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from launcher import errors
    from launcher.sizing.model_config import Sizes

_POSITIONS = ("wpe", "embed_positions", "positions_embed")
MOST_LAYERS = 100_000
_WINDOWS = ("full_attention", "sliding_attention")
# Tensors that an activation and the projection after it save; a written-out one saves each step.
_IN_PARTS = 5
_SAVED = {"relu": 1, "relu2": 2, "gelu": 2, "silu": 2, "swish": 2, "gelu_pytorch_tanh": 2}
# Tensors that an activation's backward pass makes beside the gradient that it is given.
_MADE = {"relu2": 3}


@functools.cache
def table() -> dict[str, Any]:
    """families.json."""
    read: dict[str, Any] = json.loads(Path(__file__).with_name("families.json").read_text(encoding="utf-8"))
    return read


@functools.cache
def defaults() -> dict[str, Any]:
    """family_defaults.json: family → key → transformers' default."""
    file = Path(__file__).with_name("family_defaults.json")
    read: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return read


def known() -> tuple[str, ...]:
    """The families that can be counted."""
    return tuple(table()["families"])


def description(family: str) -> dict[str, Any]:
    """What families.json says of a family, with what it has from the one that it is like."""
    own: dict[str, Any] = table()["families"][family]
    above = description(own["like"]) if "like" in own else {}
    sizes = {**above.get("sizes", {}), **own.get("sizes", {})}
    return {**above, **own, "sizes": sizes}


def size_keys(family: str) -> dict[str, list[str]]:
    """Name of each size → the keys that it is read from, and expressions of others."""
    return {**table()["sizes"], **description(family)["sizes"]}


def keys(family: str) -> set[str]:
    """The keys of a configuration that decide the family's tensors."""
    if family in table()["towers"]:
        return set(re.findall("[a-z_]+", json.dumps(table()["towers"][family])))
    row = description(family)
    text = json.dumps([row, [table()["blocks"].get(b) for b in _blocks(row)]])
    words = set(text.replace('"', " ").replace("?", " ").replace("-", " ").replace(",", " ").split())
    words |= {word.lstrip("+") for word in words}
    return words | model_config.keys(size_keys(family)) | set(_ALWAYS)


_ALWAYS = ("tie_word_embeddings", "hidden_act", "hidden_activation", "activation_function", "activation")


def _blocks(row: Mapping[str, Any]) -> Iterator[str]:
    yield from row["layer"]
    for *_, options in row.get("choices", ()):
        for blocks in options.values():
            yield from blocks


def build(family: str, config: Mapping[str, object], where: errors.Place, name: str) -> Architecture:
    """The architecture of a family that is known. Raises SpecError for values that no model can have."""
    row = description(family)
    switches = {**table()["switches"], **row.get("switches", {})}
    sizes = model_config.Sizes(
        config, where, model_config.Row(size_keys(family), switches, defaults()[family])
    )
    _check(row, sizes)
    embeddings = tuple(tensors(row["embeddings"], sizes))
    stacks = tuple(_stacks(family, row, sizes))
    activation = sizes.word(row.get("activation") or "hidden_act", *_ALWAYS[1:])
    of_activation = saved_by(activation)
    gated = any("gate_proj" in w.name or "gate_up_proj" in w.name for s in stacks for w in s.weights)
    latent = any("kv_a_proj" in w.name for s in stacks for w in s.weights)
    return Architecture(
        name=name,
        family=family,
        hidden=sizes.of("hidden"),
        heads=sizes.of("heads"),
        kv_heads=sizes.of("kv"),
        head_dim=sizes.of("head"),
        value_dim=sizes.of("v"),
        vocab=sizes.of("vocab"),
        positions=sizes.of("positions"),
        learned_positions=any(w.name.startswith(_POSITIONS) for w in embeddings),
        tied=sizes.holds("tied"),
        embeddings=embeddings,
        stacks=stacks,
        norms=tuple(tensors(row["norms"], sizes)),
        head=tuple(tensors(row["head"], sizes)),
        # a gate's also saves the other half and the product
        mlp_tensors=of_activation + 2 if gated else of_activation,
        wide_gradients=row.get("wide_gradients", made_by(activation, gated)),
        scaled_residual=row.get("scaled_residual", False),
        layer_norm=row.get("norm") == "layer",
        dropout="dropout" in row and bool(sizes.value(row["dropout"])),
        attention_dropout="attention_dropout" in row and bool(sizes.value(row["attention_dropout"])),
        latent=sizes.of("kv_rank") + sizes.of("rope") if latent else 0,
        fused=_fused(row, sizes),
        more=saved.more(family, sizes, [saved.OUTSIDE], any(s.experts for s in stacks)),
        unmeasured=saved.reason(family),
    )


def saved_by(activation: str) -> int:
    """Tensors of the MLP's width that an activation and the projection after it save."""
    return _SAVED.get(activation, _IN_PARTS)


def made_by(activation: str, gated: bool) -> int:
    """Tensors of the MLP's width that its backward pass makes: two of a gate's product, or of a product within."""
    return 2 if gated else _MADE.get(activation, 2 if saved_by(activation) == _IN_PARTS else 1)


def _fused(row: Mapping[str, Any], sizes: Sizes) -> bool:
    """Whether a fused kernel attends: always unless the row says so, or names switches of which one is on."""
    fused = row.get("fused", True)
    return any(map(sizes.holds, fused)) if isinstance(fused, list) else fused


def _check(row: Mapping[str, Any], sizes: Sizes) -> None:
    for key, what in row.get("refused", {}).items():
        if sizes.value(key):
            sizes.fail(f"{what} is not counted ({key})")
    sizes.require("hidden", "heads", "vocab")
    heads, kv = sizes.of("heads"), sizes.of("kv")
    if kv and heads % kv:
        sizes.fail(f"{heads} attention heads do not divide among {kv} key-value heads")
    experts, active = sizes.of("experts"), sizes.of("active")
    if active > experts > 0:
        sizes.fail(f"{active} experts a token are more than the {experts} that there are")


def _stacks(family: str, row: Mapping[str, Any], sizes: Sizes) -> Iterator[Stack]:
    """The layers by kind, in the order of their first ones."""
    layers = sizes.of("layers")
    if not layers:
        sizes.fail("it has no layers")
    if layers > MOST_LAYERS:
        sizes.fail(f"{layers:,} layers are more than any model has")
    choices = [(rules, options) for *rules, options in row.get("choices", ())]
    lists = [layer_kinds.kinds(rules, sizes, layers, tuple(options)) for rules, options in choices]
    windows = row.get("windows") if sizes.of("window") else None
    lists.append(layer_kinds.kinds(windows or (), sizes, layers, _WINDOWS))
    numbers: dict[tuple[str, ...], int] = {}
    for chosen in zip(*lists, strict=True):
        numbers[chosen] = numbers.get(chosen, 0) + 1
    for kinds, number in numbers.items():
        *named, window = kinds
        options = zip(named, choices, strict=True)
        blocks = [*row["layer"], *(block for kind, (_, blocks) in options for block in blocks[kind])]
        weights = tuple(tensors(blocks, sizes))
        stack = _stack(weights, sizes, number, sizes.of("window") if window == _WINDOWS[1] else 0)
        more = saved.more(family, sizes, kinds, bool(stack.experts))
        yield stack._replace(more=more, every=row.get("every_expert", False))


def _stack(weights: tuple[Weight, ...], sizes: Sizes, number: int, window: int) -> Stack:
    of_experts = [w for w in weights if ".experts." in w.name and len(w.shape) == 3]
    of_shared = [w for w in weights if "shared" in w.name and "up_proj" in w.name]
    if not of_experts:
        up = next((w for w in weights if w.name.endswith(("up_proj.weight", "fc1.weight"))), None)
        return Stack(
            number,
            weights,
            ffn=up.shape[0] if up and "gate_up" not in up.name else sizes.of("ffn"),
            window=window,
        )
    return Stack(
        number=number,
        weights=weights,
        experts=sizes.of("experts"),
        active=sizes.of("active"),
        ffn=sizes.of("expert"),
        shared=of_shared[0].shape[0] if of_shared else 0,
        window=window,
    )


def tensors(lines: Iterable[str], sizes: Sizes) -> Iterator[Weight]:
    """The tensors of lines and blocks of families.json."""
    for line in lines:
        if " " not in line:  # a block
            yield from tensors(table()["blocks"][line], sizes)
            continue
        name, *words = line.split()
        if all(sizes.holds(word[1:]) for word in words if word.startswith("?")):
            yield from _tensor(name, words, sizes)


def _tensor(name: str, words: list[str], sizes: Sizes) -> Iterator[Weight]:
    shape = tuple(sizes.product(word) for word in words if not word.startswith(("+", "?")))
    if name.endswith("!"):
        yield Weight(name[:-1], shape)
        return
    yield Weight(f"{name}.weight", shape)
    if any(word == "+" or (word.startswith("+") and sizes.holds(word[1:])) for word in words):
        yield Weight(f"{name}.bias", shape[:1])
