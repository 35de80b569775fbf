"""The defaults of the model families' configurations, as the installed transformers has them.

Owns the look into transformers; launcher/sizing/family_defaults.json keeps what it finds, so that the
launcher needs none.

    python -m tests.model_families > launcher/sizing/family_defaults.json
"""

from __future__ import annotations

import json
import sys
from typing import Any

from launcher.sizing import composites, families, seq2seq

# Families of models whose configuration class the hub has, and what transformers itself reads them with.
HUBS_OWN = {"kimi_k2": "deepseek_v3"}


def defaults(family: str) -> dict[str, Any]:
    """What the family's configuration class has for the keys that decide its tensors; nulls are left out."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = CONFIG_MAPPING[HUBS_OWN.get(family, family)]
    names = {new: old for new, old in kind.attribute_map.items() if hasattr(kind, old)}
    values = {key: getattr(kind, names.get(key, key), None) for key in _keys(family)}
    return {k: v for k, v in sorted(values.items()) if isinstance(v, (bool, int, float, str, list))}


def _keys(family: str) -> set[str]:
    return seq2seq.keys(family) if family in seq2seq.known() else families.keys(family)


def document() -> dict[str, Any]:
    """The whole of family_defaults.json."""
    towers = (row["tower"] for row in composites.known().values() if "tower" in row)
    return {family: defaults(family) for family in (*families.known(), *towers, *seq2seq.known())}


if __name__ == "__main__":
    json.dump(document(), sys.stdout, indent=1)
    print()
