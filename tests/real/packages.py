"""Programs of Debian that real parts are made of: installed where root may do that."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

# The lock's time limit is for a second test process that installs at the same moment.
_APT = ("apt-get", "-q", "-o", "DPkg::Lock::Timeout=300")


def missing(programs: Sequence[str], packages: Sequence[str]) -> list[str]:
    """Those of `programs` that this machine lacks, after an attempt to install `packages` if there were any."""
    install = (*_APT, "install", "-y", "--no-install-recommends", *packages)
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (install, (*_APT, "update"), install):
        if not absent(programs) or os.geteuid() != 0 or not shutil.which("apt-get"):
            break
        subprocess.run(command, env=env, capture_output=True, timeout=600, check=False)
    return absent(programs)


def absent(programs: Sequence[str]) -> list[str]:
    """Those of `programs` that are not on PATH, nor where Debian has daemons."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    return [name for name in programs if not shutil.which(name, path=path)]
