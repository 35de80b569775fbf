"""The modules of docker/ that the launcher reads too, so that both go by the same words; each imports no torch.

Owns the way to them: they are files on sys.path, as in the images, and no package of the launcher.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

from launcher import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType


def module(name: str) -> ModuleType:
    """A module of docker/."""
    code = str(ROOT / "docker")
    if code not in sys.path:
        sys.path.insert(0, code)
    return importlib.import_module(name)


def names() -> dict[str, str]:
    """The names that programs of the user's own may write in their words, each with what it stands for."""
    known: dict[str, str] = module("expansion").NAMES
    return known


def of_a_rank() -> tuple[str, ...]:
    """Those that no process knows where there is one a host."""
    known: tuple[str, ...] = module("expansion").OF_A_RANK
    return known


def references(word: str) -> Iterator[str]:
    """The names in `word`; `{` for a brace that holds none."""
    yield from module("expansion").references(word)
