"""A model's configuration read with checks: sizes by the names that families.json gives them, and switches.

Owns which key of a config.json is meant, the defaults for those missing, and what is said of a wrong value; leaves the
tensors to families.py.

    sizes = Sizes(config, place, row)
    sizes.of("kv") -> 8                the first key that is there, its default, or an expression of other sizes
    sizes.product("2*expert+shared")   a sum of products of sizes and numbers
    sizes.holds("-q_lora_rank")        a switch: true, or a number that is there; with `-` the opposite
"""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any, NoReturn

from launcher import errors
from launcher.namedtuple import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

_LARGEST = 2**31 - 1  # of any size of a model: products of several are still floats


class Row(NamedTuple):
    """What families.json says of a family's keys."""

    sizes: Mapping[str, Any]  # name → keys of the configuration in their order, and expressions with `=`
    switches: Mapping[str, Any]  # name → a key, or whether it is always on
    defaults: Mapping[str, Any]  # transformers' own for keys that a configuration leaves out


class Sizes:
    """The sizes and switches of one configuration. All methods raise SpecError for a value that no model can have."""

    def __init__(self, config: Mapping[str, Any], where: errors.Place, row: Row) -> None:
        self.config, self.where, self.row = config, where, row
        self._known: dict[str, int] = {}

    def of(self, name: str) -> int:
        """The size; 0 where the configuration and transformers' defaults leave it out."""
        if name not in self._known:
            self._known[name] = self._read(self.row.sizes[name])
        return self._known[name]

    def _read(self, spec: list[str]) -> int:
        keys = [key for key in spec if not key.startswith("=")]
        given = next((key for key in keys if key in self.config), None)
        if given and self.config[given] is not None:
            return self._number(given, self.config[given])
        # a null stands for the expression, a missing key for transformers' default
        key = next((key for key in keys if not given and self.row.defaults.get(key) is not None), None)
        if key:
            return self._number(key, self.row.defaults[key])
        for expression in spec:
            words = expression.split()
            if expression.startswith("=") and all(self.holds(word[1:]) for word in words[1:]):
                return self.product(words[0][1:])
        return 0

    def _number(self, key: str, value: object) -> int:
        if isinstance(value, list) and value and all(one == value[0] for one in value):
            value = value[0]  # one a layer, all alike
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        none = 0 if key in _MAY_BE_ZERO else 1
        if isinstance(value, bool) or not isinstance(value, int) or value < none:
            self.fail(f"{key} must be a positive integer, not {_shown(value)}")
        if value > _LARGEST:
            self.fail(f"{key} must be below 2^31, not {_shown(value)}")
        return value

    def require(self, *names: str) -> None:
        """Fail for a size of `names` that is left out, and has no default."""
        for name in names:
            if not self.of(name):
                keys = (key for key in self.row.sizes[name] if not key.startswith("="))
                self.fail(f"it has no {' or '.join(keys)}")

    def product(self, expression: str) -> int:
        """A sum of products and quotients of sizes and numbers, such as `heads*head+2*kv*head`."""
        return sum(self._term(term) for term in expression.split("+"))

    def _term(self, term: str) -> int:
        above, _, below = term.partition("/")
        value = math.prod(int(f) if re.fullmatch("[0-9]+", f) else self.of(f) for f in above.split("*"))
        if not below:
            return value
        parts = self.of(below)
        if not parts or value % parts:
            self.fail(f"a hidden size of {value} does not divide among {parts} heads")
        return value // parts

    def holds(self, condition: str) -> bool:
        """Whether a switch is on; `-` before it turns it round, and `name=2` compares a size."""
        if condition.startswith("-"):
            return not self.holds(condition[1:])
        name, equals, other = condition.partition("=")
        if equals:
            return self.of(name) == self.product(other)
        if name in self.row.sizes:
            return self.of(name) > 0
        key = self.row.switches.get(name, name)
        return key if isinstance(key, bool) else bool(self.value(key))

    def value(self, key: str) -> Any:
        """What the configuration says, or transformers' default; a switch must be true or false."""
        default, value = self.row.defaults.get(key), self.config.get(key)
        if value is None:  # a null of a switch is a key that is missing, of a size "none"
            return default if key not in self.config or isinstance(default, bool) else None
        if isinstance(default, bool) and not isinstance(value, bool):
            self.fail(f"{key} must be true or false, not {_shown(value)}")
        return value

    def word(self, *keys: str) -> str:
        """Text under the first of `keys` that is there; empty where none is."""
        value = next((v for v in map(self.value, keys) if v is not None), "")
        if not isinstance(value, str):
            key = next(k for k in keys if self.value(k) is value)
            self.fail(f"{key} must be text, not {_shown(value)}")
        return value

    def fail(self, message: str) -> NoReturn:
        raise errors.SpecError(errors.Problem(message, "correct the model's configuration", self.where))


_MAY_BE_ZERO = {
    "n_shared_experts",
    "num_shared_experts",
    "moe_num_shared_experts",
    "shared_intermediate_size",
}


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def keys(spec: Mapping[str, Any]) -> set[str]:
    """The configuration's keys that the sizes and switches of a row name."""
    named = {key for value in spec.values() if isinstance(value, list) for key in value}
    return {key for key in named if re.fullmatch("[A-Za-z0-9_]+", key)}
