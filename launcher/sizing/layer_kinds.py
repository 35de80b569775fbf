"""Which kind each layer of a model is of: dense or a mixture, full attention or a window, by the family's rules.

Owns the rules that families.json names; leaves what a kind consists of to families.py.

    kinds(["first first_k_dense_replace 0"], sizes, 61, ("dense", "sparse")) -> ["dense", "dense", "dense", "sparse", …]

A rule is a word and the keys that it reads; a number after a key stands for it where it is missing. The first rule
that the configuration answers holds. Of two kinds the first is the ordinary one.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from launcher.sizing.model_config import Sizes

    Rule = Callable[[Sizes, list[str], int], list[int] | None]


def kinds(rules: Sequence[str], sizes: Sizes, layers: int, names: Sequence[str]) -> list[str]:
    """The kind of each layer, of `names`. Raises SpecError for a list that names another, or has another length."""
    for rule in rules:
        word, *keys = rule.split()
        if word == "types":
            listed = sizes.value(keys[0])
            if listed is not None:
                wrong = _wrong(listed, keys[0], layers, names)
                return sizes.fail(wrong) if wrong else list(listed)
            continue
        chosen = _RULES[word](sizes, keys, layers)
        if chosen is not None:
            return [names[number] for number in chosen]
    return [names[0]] * layers


def _wrong(listed: object, key: str, layers: int, names: Sequence[str]) -> str:
    """What is wrong with a list of kinds; empty where nothing is."""
    if not isinstance(listed, list) or len(listed) != layers:
        return f"{key} must list the kind of each of the {layers} layers"
    other = [kind for kind in listed if kind not in names]
    return f"{key} names {other[0]!r}, which is none of {', '.join(names)}" if other else ""


def _integer(sizes: Sizes, key: str, default: str = "0") -> int:
    value = int(key) if re.fullmatch("[0-9]+", key) else sizes.value(key)
    if value is None:
        return int(default)
    if isinstance(value, bool) or not isinstance(value, int):
        sizes.fail(f"{key} must be an integer, not {value!r}")
    return value


def _numbers(sizes: Sizes, key: str) -> list[int] | None:
    value = sizes.value(key)
    if value is not None and not (isinstance(value, list) and all(isinstance(v, int) for v in value)):
        sizes.fail(f"{key} must list the numbers of layers, not {value!r}")
    return value


def _all(_: Sizes, __: list[str], layers: int) -> list[int]:
    return [1] * layers


def _if(sizes: Sizes, keys: list[str], layers: int) -> list[int]:
    return [int(sizes.holds(keys[0]))] * layers


def _first(sizes: Sizes, keys: list[str], layers: int) -> list[int]:
    number = _integer(sizes, *keys)
    return [int(i >= number) for i in range(layers)]


def _every(sizes: Sizes, keys: list[str], layers: int) -> list[int]:
    step = _integer(sizes, *keys)
    return [int((i + 1) % step == 0) if step > 0 else 0 for i in range(layers)]


def _except_every(sizes: Sizes, keys: list[str], layers: int) -> list[int]:
    return [1 - kind for kind in _every(sizes, keys, layers)]


def _listed(sizes: Sizes, keys: list[str], layers: int) -> list[int] | None:
    numbers = _numbers(sizes, keys[0])
    return None if numbers is None else [int(i in numbers) for i in range(layers)]


def _step(sizes: Sizes, keys: list[str], layers: int) -> list[int]:
    """Qwen's mixtures: every so many layers, but for those that are listed."""
    listed, step = _numbers(sizes, keys[0]), _integer(sizes, keys[1], "1")
    dense = [int(number) for number in keys[2:]] if listed is None else listed
    mixture = sizes.of("experts") > 0
    return [int(mixture and i not in dense and step > 0 and (i + 1) % step == 0) for i in range(layers)]


def _range(sizes: Sizes, keys: list[str], layers: int) -> list[int]:
    """ERNIE's mixtures: every so many layers from one to another; -1 is the last."""
    start, end, step = (_integer(sizes, key) for key in keys)
    last = layers - 1 if end == -1 else end
    return [int((i + 1) % step == 0 and start <= i <= last) if step > 0 else 0 for i in range(layers)]


def _from(sizes: Sizes, keys: list[str], layers: int) -> list[int]:
    """Qwen 2's windows: from one layer on, where a switch is on."""
    start, on = _integer(sizes, keys[0]), sizes.holds(keys[1])
    return [int(on and i >= start) for i in range(layers)]


_RULES: dict[str, Rule] = {
    "all": _all,
    "every": _every,
    "except": _except_every,
    "first": _first,
    "from": _from,
    "if": _if,
    "listed": _listed,
    "range": _range,
    "step": _step,
}
