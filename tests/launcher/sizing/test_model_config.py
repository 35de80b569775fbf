"""Sizes and switches of a configuration: the keys in their order, defaults, expressions and wrong values."""

from __future__ import annotations

from typing import Any

import pytest

from launcher import errors
from launcher.sizing import model_config

ROW = model_config.Row(
    sizes={
        "hidden": ["hidden_size", "n_embd"],
        "heads": ["num_attention_heads"],
        "kv": ["num_key_value_heads", "=heads"],
        "head": ["head_dim", "=hidden/heads"],
        "one": ["=1 ?multi_query", "=heads"],
    },
    switches={"bias": "attention_bias", "always": True},
    defaults={"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "tied": True},
)


def sizes(**config: Any) -> model_config.Sizes:
    return model_config.Sizes(config, errors.Place("a model"), ROW)


def test_a_key_then_its_default_then_an_expression() -> None:
    assert sizes(n_embd=32).of("hidden") == 32
    assert sizes().of("hidden") == 64
    assert sizes().of("kv") == 2
    assert sizes(num_key_value_heads=None).of("kv") == 4
    assert sizes().of("head") == 16
    assert sizes(multi_query=True).of("one") == 1
    assert sizes().of("one") == 4
    assert sizes(hidden_size=[8, 8]).of("hidden") == 8


def test_products() -> None:
    assert sizes().product("hidden+2*kv*head") == 64 + 2 * 2 * 16


@pytest.mark.parametrize(
    ("condition", "config", "holds"),
    [
        ("bias", {}, False),
        ("bias", {"attention_bias": True}, True),
        ("-bias", {}, True),
        ("always", {}, True),
        ("tied", {"tied": None}, True),
        ("q_lora_rank", {"q_lora_rank": None}, False),
        ("q_lora_rank", {"q_lora_rank": 8}, True),
        ("kv=2", {}, True),
        ("-kv=heads", {}, True),
    ],
)
def test_switches(condition: str, config: dict[str, Any], holds: bool) -> None:
    assert sizes(**config).holds(condition) is holds


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"hidden_size": "64"}, 'hidden_size must be a positive integer, not "64"'),
        ({"hidden_size": [1, 2]}, r"hidden_size must be a positive integer, not \[1, 2\]"),
        ({"hidden_size": 2**40}, "hidden_size must be below 2\\^31"),
        ({"hidden_size": 6}, "a hidden size of 6 does not divide among 4 heads"),
    ],
)
def test_wrong_values(config: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.SpecError, match=message):
        sizes(**config).of("head")
