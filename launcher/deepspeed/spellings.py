"""Other ways to write DeepSpeed's keys that mean the same: field names beside aliases, nulls, and a bare true for ZeRO.

Owns what is equal; which keys there are is keys.py's. keys.json lists the names and nulls, as tests/deepspeed_keys.py
finds them in DeepSpeed's pydantic models.

    spellings.known(("zero_optimization", "prefetch_bucket_size")) -> (…, "stage3_prefetch_bucket_size")
    spellings.canonical({"zero_optimization": True}) -> {"zero_optimization": {"stage": 1}}
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    KeyPath = tuple[str, ...]


@functools.cache
def table() -> dict[str, Any]:
    """keys.json."""
    read: dict[str, Any] = json.loads(Path(__file__).with_name("keys.json").read_text(encoding="utf-8"))
    return read


def names(section: str) -> dict[str, str]:
    """Field names that a section takes beside those in keys.json → the latter."""
    found: dict[str, str] = table()["names"].get(section, {})
    return found


def known(path: KeyPath) -> KeyPath:
    """The path as keys.json has it."""
    return (path[0], names(path[0]).get(path[1], path[1])) if len(path) == 2 else path


def may_be_null(path: KeyPath) -> bool:
    """Whether DeepSpeed takes null there for "none"."""
    return ".".join(path) in table()["nulls"]


def is_other_value(path: KeyPath, value: Any) -> bool:
    """Whether a value stands for one of the key's kind: a null for none, or true for the whole of ZeRO's section."""
    return (value is None and may_be_null(path)) or (path == _ZERO and isinstance(value, bool))


_ZERO = ("zero_optimization",)
# Names of types as DtypeEnum of runtime/config.py takes them.
DTYPES = {
    **dict.fromkeys(("bf16", "bfloat16", "torch.bfloat16"), "bf16"),
    **dict.fromkeys(("fp16", "float16", "half", "torch.float16"), "fp16"),
    **dict.fromkeys(("fp32", "float", "float32", "torch.float32"), "fp32"),
}


def rounds(path: KeyPath) -> bool:
    """Whether 5e8 is a whole number there: pydantic takes one."""
    return path[0] in table()["models"]


def canonical(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """`overrides` with one spelling of each key, so that they lie over a preset's and are read alike."""
    return {key: _section(key, value) for key, value in overrides.items()}


def _section(key: str, value: Any) -> Any:
    if key == _ZERO[0] and isinstance(value, bool):
        # read_zero_config_deprecated in deepspeed/runtime/zero/config.py
        return {"stage": int(value)}
    other = names(key)
    return {other.get(k, k): v for k, v in value.items()} if other and isinstance(value, dict) else value
