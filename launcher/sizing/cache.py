"""Keys and values that generation keeps of every token it has seen, in bytes.

Owns the sizes of transformers' caches (cache_utils.py, 5.24); which tokens there are is the caller's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from launcher.sizing.architecture import Architecture


def text(model: Architecture, width: int, length: int, ranks: int = 1) -> int:
    """Bytes for one text of `length` tokens on one of `ranks` that share its heads.

    A sliding window bounds what its layers keep. MLA's keys and values are kept as attention reads them. Layers of
    linear attention have a state instead, which does not grow and is not counted.
    """
    token = width * -(-model.kv_heads // ranks) * (model.head_dim + model.value_dim)
    return token * sum(s.number * min(length, s.window or length) for s in model.stacks if s.attends)


def copy(model: Architecture, width: int, length: int) -> int:
    """Bytes of one layer's keys or values of one text, which are there twice while a token is added to them."""
    return length * width * model.kv_heads * max(model.head_dim, model.value_dim)
