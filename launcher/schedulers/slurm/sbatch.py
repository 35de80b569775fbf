"""The options that a job's `slurm.sbatch` may hold, by their full names.

Owns sbatch.json: the names, which of them sbatch takes with a value, and which the launcher decides itself.
getopt takes any unambiguous start of a name, so `arra` would be an array: https://slurm.schedmd.com/sbatch.html
"""

from __future__ import annotations

import difflib
import json
import re
from pathlib import Path
from typing import Any

from launcher.errors import did_you_mean

_TABLES = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
# These change what sbatch answers or does, so that its job would be lost, or there would be none.
BREAKING: dict[str, str] = _TABLES["breaking"]
# What the launcher decides; a job that needs another value changes what is named, where anything is.
OWNED: dict[str, str] = _TABLES["owned"]


def options() -> dict[str, str]:
    """The full names, each `switch`, `valued` or `optional`, as tests/real/slurm/test_sbatch.py hears of sbatch."""
    named: dict[str, str] = _TABLES["options"]
    return named


def of_variable(name: str) -> str:
    """The option that a variable of the shell sets, as SBATCH_TIMELIMIT does `time`; '' for another variable."""
    if name in _TABLES["variables"]:
        return str(_TABLES["variables"][name])
    return name.removeprefix("SBATCH_").lower().replace("_", "-") if name.startswith("SBATCH_") else ""


def name_problem(name: str) -> tuple[str, str]:
    """What is wrong with an option's name, and what to do; two empty strings for one that sbatch or a plugin may have.

    A site's own plugins (SPANK) add options that are not known here: https://slurm.schedmd.com/spank.html
    """
    if name in BREAKING:
        return "breaks the submission", BREAKING[name]
    names = options()
    if name in names:
        return "", ""
    dashed = name.strip("-").replace("_", "-").lower()
    if dashed in names:
        return "is not an option of sbatch", f"did you mean {dashed!r}?"
    if not re.fullmatch(r"[a-z][a-z0-9-]+", name):
        return "is not an option of sbatch", "write the long name without leading dashes"
    starts = sorted(known for known in names if known.startswith(name))
    if starts:
        return "is not the full name of an option of sbatch", did_you_mean(name, starts)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.8)
    return ("is not an option of sbatch", f"did you mean {close[0]!r}?") if close else ("", "")


def value_problem(name: str, value: Any) -> tuple[str, str]:
    """What is wrong with an option's value, and what to do; two empty strings when nothing is."""
    if isinstance(value, (dict, list)) or set(str(value)) & set("\n\r\0"):
        return "cannot be written in an #SBATCH line", "give it one value on one line"
    kind = options().get(name)
    if kind == "switch" and not (value is None or isinstance(value, bool)):
        return "takes no value", f"write {name}: true"
    if kind == "valued" and (value is True or value == ""):
        return "needs a value", f"write {name}: VALUE"
    return "", ""
