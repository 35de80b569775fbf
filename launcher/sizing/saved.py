"""What a family's layers save beside the usual, or why that is not known.

Owns the reading of saved.json; leaves what is saved in every family to activations.py, and sizes to model_config.py.

    saved.reason("llama") -> ""              else why activations of the family are not estimated
    saved.more("falcon", sizes, layer) -> More

A term of saved.json is a product of sizes, words after it, and bytes that a token saves of it: in 16 bits, and in 32.
`?x` and `?-x` are switches as in families.json, `@x` layers of that kind alone (`@outside`: once, outside the layers).
`length` is that of the sequence. What names sizes of mixtures is of these layers alone.

    "heads*head ?use_qk_norm @sparse": [6, 8]

`python -m tests.launcher.sizing.fitting FAMILY` measures a family with transformers' own code and prints its terms.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.namedtuple import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection

    from launcher.sizing.model_config import Sizes

    Terms = dict[str, tuple[float, float]]

OUTSIDE = "outside"
_OF_MIXTURES = {"active", "expert", "experts", "shared"}


class More(NamedTuple):
    """Bytes that a token saves: in 16 bits and in 32, and of these for each position of the sequence."""

    low: int = 0
    high: int = 0
    low_each: int = 0
    high_each: int = 0

    def of(self, width: int, positions: int) -> int:
        """Bytes in elements of `width` bytes, with so many positions."""
        low = width < 4
        return (self.low if low else self.high) + positions * (self.low_each if low else self.high_each)


NOTHING = More()


@functools.cache
def table() -> dict[str, Terms | str]:
    """saved.json: family → terms, the name of another that saves the same, or a sentence that says why not."""
    read: dict[str, Terms | str] = json.loads(
        Path(__file__).with_name("saved.json").read_text(encoding="utf-8")
    )
    return read


def terms(family: str) -> Terms | str:
    """The family's terms, or the sentence."""
    found = table()[family]
    return terms(found) if isinstance(found, str) and found in table() else found


def reason(family: str) -> str:
    """Why the activations of a family are not estimated; empty where they are."""
    found = terms(family)
    return found if isinstance(found, str) else ""


def more(family: str, sizes: Sizes, kinds: Collection[str], mixture: bool) -> More:
    """What a token saves beside the usual in a layer of these kinds, or once where the kind is OUTSIDE."""
    found = terms(family)
    counted = [0.0] * len(NOTHING)
    for term, each in found.items() if isinstance(found, dict) else ():
        product, *words = term.split()
        if not _holds(words, sizes, kinds) or (_OF_MIXTURES & _factors(product) and not mixture):
            continue
        factors = [factor for factor in product.split("*") if factor != "length"]
        size, at = sizes.product("*".join(factors)), 2 * (len(factors) < len(product.split("*")))
        for place, number in enumerate(each, at):
            counted[place] += number * size
    return More(*(round(number) for number in counted))


def _factors(product: str) -> set[str]:
    return set(product.replace("/", "*").split("*"))


def _holds(words: list[str], sizes: Sizes, kinds: Collection[str]) -> bool:
    switches = [word[1:] for word in words if word.startswith("?")]
    of = [word[1:] for word in words if word.startswith("@")]
    placed = all(kind in kinds for kind in of) if of else OUTSIDE not in kinds
    return placed and all(sizes.holds(switch) for switch in switches)
