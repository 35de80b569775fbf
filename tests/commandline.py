"""Somebody who types `python -m launcher` in this checkout, with an environment of their own."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from launcher import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def launcher(words: Sequence[str], env: Mapping[str, str], code: int = 0) -> subprocess.CompletedProcess[str]:
    """What the command printed; it must end with `code`."""
    done = subprocess.run(
        [sys.executable, "-m", "launcher", *words],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == code, f"{words}: exit {done.returncode}\n{done.stdout}{done.stderr}"
    return done
