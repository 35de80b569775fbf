"""The user's own code, which came with the run: ranks start in its folder and import from it.

Owns where ranks start and what stands before this folder on PYTHONPATH, so that no module of ours hides one of theirs.
"""

from __future__ import annotations

import os
from pathlib import Path

from ending import BAD_INPUT, Stop


def enter(code: Path | None, variables: dict[str, str], alone: bool = False) -> dict[str, str]:
    """`variables` for ranks that start in `code`, which becomes this process's folder; as they are without one.

    `alone`: a command, which imports nothing of ours.
    Raises Stop where it is not there.
    """
    if code is None:
        return variables
    try:
        os.chdir(code)
    except OSError as error:
        raise Stop(BAD_INPUT, f"the run's code {code} cannot be entered: {error.strerror}") from None
    ours = "" if alone else str(Path(__file__).resolve().parent)
    path = [str(code), ours, variables.get("PYTHONPATH", "")]
    return {**variables, "PYTHONPATH": os.pathsep.join(filter(None, path))}
