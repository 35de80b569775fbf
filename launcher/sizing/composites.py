"""Models that hold a language model and more: the text's configuration inside, and a tower of images counted apart.

Owns what transformers' AutoModelForCausalLM makes of such a configuration; leaves the language model to families.py.

    composites.known() -> {"gemma3": {"text": "gemma3_text", "tower": "siglip_vision_model", ...}, ...}
    composites.build("gemma3", config, place, "a model") -> architecture.Architecture
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from launcher import errors
from launcher.sizing import families, model_config
from launcher.sizing.architecture import Stack

if TYPE_CHECKING:
    from collections.abc import Mapping

    from launcher.sizing.architecture import Architecture


def known() -> dict[str, dict[str, Any]]:
    """Families whose configuration holds a language model's: under `text`, and where transformers' has it a `tower`."""
    found: dict[str, dict[str, Any]] = families.table()["composites"]
    return found


def build(family: str, config: Mapping[str, Any], where: errors.Place, name: str) -> Architecture:
    """The language model of one of `known()`, with the tower of images that transformers makes beside it."""
    row = known()[family]
    of_text, of_images = (_inner(config, key, where) for key in ("text_config", "vision_config"))
    if "tower" not in row:
        return families.build(row["text"], of_text, where, name)
    # whether the head is tied is the whole's to say
    tied = {"tie_word_embeddings": config.get("tie_word_embeddings", True)}
    text = families.build(row["text"], {**of_text, **tied}, where, name)
    tower = families.table()["towers"][row["tower"]]
    sizes = model_config.Sizes(
        of_images, where, model_config.Row(tower["sizes"], {}, families.defaults()[row["tower"]])
    )
    layer = Stack(sizes.of("layers"), tuple(families.tensors(tower["layer"], sizes)))
    both = {"hidden": [f"={text.hidden}"], "vision": [f"={sizes.of('vision')}"]}
    projector = families.tensors(
        row["projector"], model_config.Sizes({}, where, model_config.Row(both, {}, {}))
    )
    outside = Stack(1, (*families.tensors(tower["outside"], sizes), *projector))
    return dataclasses.replace(text, family=family, tower=(outside, layer))


def _inner(config: Mapping[str, Any], key: str, where: errors.Place) -> Mapping[str, Any]:
    inner = config.get(key) or {}
    if not isinstance(inner, dict):
        raise errors.SpecError(
            errors.Problem(f"{key} must be an object", "correct the model's configuration", where)
        )
    return inner
