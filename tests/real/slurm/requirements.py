"""What a Slurm cluster of tests needs of the machine."""

from __future__ import annotations

import os
import subprocess

from tests.real import packages

PACKAGES = (
    *("slurm-wlm", "slurmdbd", "slurm-wlm-mysql-plugin", "munge", "mariadb-server-core"),
    *("iproute2", "util-linux"),
)
PROGRAMS = ("slurmctld", "slurmd", "slurmdbd", "munged", "mariadbd", "ip", "unshare", "nsenter", "setpriv")


def obstacle() -> str:
    """Why no cluster can run here; empty when it can. Installs Debian's packages where that is allowed."""
    if os.geteuid() != 0:
        return "it needs root, for namespaces and a bridge"
    # In an unprivileged container root may do neither.
    probe = subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "true"],
        capture_output=True,
        text=True,
    )
    if probe.returncode:
        return f"no namespaces: {probe.stderr.strip()}"
    missing = packages.missing(PROGRAMS, PACKAGES)
    return f"missing programs: {', '.join(missing)} (Debian: {' '.join(PACKAGES)})" if missing else ""
