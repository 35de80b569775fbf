"""Low-rank adapters beside a model's layers (LoRA, arXiv 2106.09685), and its weights in 4 bit below them (QLoRA).

Owns which tensors peft adds; leaves what they cost to states.py and activations.py.

    adapters.attach(model, Adapters(rank=16, targets=())) -> Architecture

The result has the model's tensors, which stand still, and two for each adapted layer: `lora_A`, rank × in, and
`lora_B`, out × rank. adapters.json has what does not follow from a tensor's shape: families whose experts transformers
5 has as parameters and not as layers, for which peft replaces targets (peft 0.21, transformers_weight_conversion.py),
and matrices of modules that are no linear layers, such as routers. tests/launcher/sizing/test_adapters.py compares with
peft for every family.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.sizing.architecture import Architecture, Weight

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from launcher.sizing.architecture import Adapters, Stack


@functools.cache
def table() -> dict[str, Any]:
    """adapters.json."""
    read: dict[str, Any] = json.loads(Path(__file__).with_name("adapters.json").read_text(encoding="utf-8"))
    return read


def attach(model: Architecture, adapters: Adapters) -> Architecture:
    """The model with adapters; its own weights stand still, those of linear layers in 4 bit where that is asked for.

    Raises ValueError for a target that is no linear layer of the model's, with the names of those that are. A model
    whose layers are not known (by_size.py) has none of its adapters' tensors.
    """
    names = linear_layers(model)
    for target in adapters.targets:
        if names and not any(_ends(name, target) for name in names):
            ends = ", ".join(dict.fromkeys(name.rpartition(".")[2] for name in names))
            raise ValueError(f"{target}: no linear layer of the model is called so; it has {ends}")

    def within(stacks: Iterable[Stack]) -> tuple[Stack, ...]:
        return tuple(s._replace(weights=tuple(_adapted(model, s.weights, adapters))) for s in stacks)

    return dataclasses.replace(
        model,
        embeddings=tuple(_adapted(model, model.embeddings, adapters)),
        stacks=within(model.stacks),
        tower=within(model.tower),
        norms=_frozen(model.norms),
        head=_frozen(model.head),
        adapters=adapters,
    )


def linear_layers(model: Architecture) -> list[str]:
    """Names of the linear layers that can have adapters: not the last, which makes the logits."""
    return [w.name.removesuffix(".weight") for w in model.weights if _is_linear(model, w)]


def _is_linear(model: Architecture, weight: Weight) -> bool:
    module = weight.name.removesuffix(".weight")
    if weight in model.head or len(weight.shape) != 2 or module == weight.name:
        return False
    if weight in model.embeddings:
        return module.startswith("project_")  # OPT's, between the embedding's width and the layers'
    return module.rpartition(".")[2] not in table()["other_modules"].get(model.family, ())


def _adapted(model: Architecture, weights: Iterable[Weight], adapters: Adapters) -> Iterator[Weight]:
    """The tensors, which stand still, each followed by those of its adapter."""
    for weight in weights:
        linear = _is_linear(model, weight)
        yield weight._replace(trained=False, packed=adapters.packed and linear)
        rank = adapters.rank * _times(model, weight, adapters.targets, linear=linear)
        if rank:
            *experts, out, inner = weight.shape
            rank *= experts[0] if experts else 1
            yield Weight(f"{weight.name}.lora_A", (rank, inner))
            yield Weight(f"{weight.name}.lora_B", (out, rank))


def _times(model: Architecture, weight: Weight, targets: tuple[str, ...], *, linear: bool) -> int:
    """The adapter's rank over the one asked for: 0 for none, 2 for two layers that transformers 5 has as one tensor."""
    module = weight.name.removesuffix(".weight")
    replaced = table()["replaced"].get(table()["families"].get(model.family), {})
    wanted = {p for t, p in replaced.items() if not targets or any(_ends(target, t) for target in targets)}
    if any(_ends(weight.name, parameter) for parameter in wanted):
        return (
            sum(parameter == "gate_up_proj" for parameter in replaced.values())
            if "gate_up" in weight.name
            else 1
        )
    own = module.rpartition(".")[2]
    return int(linear and own not in replaced and (not targets or any(_ends(module, t) for t in targets)))


def _ends(name: str, end: str) -> bool:
    return name == end or name.endswith(f".{end}")


def _frozen(weights: Iterable[Weight]) -> tuple[Weight, ...]:
    return tuple(weight._replace(trained=False) for weight in weights)
