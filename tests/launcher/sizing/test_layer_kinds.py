"""Each rule says of which kind a layer is as transformers' configuration classes do."""

from __future__ import annotations

from typing import Any

import pytest

from launcher import errors
from launcher.sizing import layer_kinds, model_config

KINDS = ("dense", "sparse")


def sizes(config: dict[str, Any]) -> model_config.Sizes:
    row = model_config.Row({"experts": ["num_experts"]}, {}, {"use": False})
    return model_config.Sizes(config, errors.Place("a model"), row)


@pytest.mark.parametrize(
    ("rules", "config", "layers"),
    [
        (["all"], {}, "ssss"),
        (["if use"], {}, "dddd"),
        (["if use"], {"use": True}, "ssss"),
        (["first k 3"], {"k": 1}, "dsss"),
        (["first k 3"], {}, "ddds"),
        (["first 2"], {}, "ddss"),
        (["every n 2"], {}, "dsds"),
        (["every n 2"], {"n": 4}, "ddds"),
        (["every n 2"], {"n": 0}, "dddd"),
        (["except 2"], {}, "sdsd"),
        (["listed at", "every n 4"], {"at": [0, 3]}, "sdds"),
        (["listed at", "every n 4"], {}, "ddds"),
        (["step without step"], {"num_experts": 4}, "ssss"),
        (["step without step"], {"num_experts": 4, "step": 2, "without": [3]}, "dsdd"),
        (["step without step"], {"step": 1}, "dddd"),
        (["step without step 0 1"], {"num_experts": 4}, "ddss"),
        (["range from to by"], {"from": 1, "to": -1, "by": 1}, "dsss"),
        (["range from to by"], {"from": 1, "to": 2, "by": 1}, "dssd"),
        (["from k use"], {"k": 2, "use": True}, "ddss"),
        (["types listed", "all"], {"listed": ["sparse", "dense", "dense", "sparse"]}, "sdds"),
        (["types listed", "all"], {}, "ssss"),
    ],
)
def test_rules(rules: list[str], config: dict[str, Any], layers: str) -> None:
    found = layer_kinds.kinds(rules, sizes(config), len(layers), KINDS)
    assert "".join(kind[0] for kind in found) == layers


@pytest.mark.parametrize(
    ("rule", "config", "message"),
    [
        ("types a", {"a": ["dense"]}, "a must list the kind of each of the 2 layers"),
        ("types a", {"a": ["dense", "mamba"]}, "a names 'mamba', which is none of dense, sparse"),
        ("first a 1", {"a": "1"}, "a must be an integer, not '1'"),
        ("listed a", {"a": 3}, "a must list the numbers of layers, not 3"),
    ],
)
def test_wrong_lists(rule: str, config: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.SpecError, match=message):
        layer_kinds.kinds([rule], sizes(config), 2, KINDS)
