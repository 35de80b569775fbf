"""Which variables of the shell that submits a job travel with it: `slurm.export` as sbatch's --export.

Owns the default. sbatch alone would hand on all of them, and PYTHONPATH or LD_LIBRARY_PATH of a login host then decide
what ranks import. Names alone are written: sbatch splits at commas, so no value could stand there.
https://slurm.schedmd.com/sbatch.html#OPT_export
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from launcher.planning.plan import Plan

# Who and where the user is, and the way out of the site; SLURM_* always travel.
DEFAULT = (
    *("HOME", "USER", "LOGNAME", "SHELL", "PATH", "LANG", "LC_ALL", "TZ"),
    *("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"),
)


def names(plan: Plan) -> tuple[str, ...] | None:
    """The variables that travel; None for all of them."""
    given = plan.cluster.slurm.export
    if given == "all":
        return None
    if given == "none":
        return ()
    return DEFAULT if given is None else tuple(given)


def option(plan: Plan) -> str:
    """The value of --export. NIL is none at all; NONE would have Slurm start a login shell for them instead."""
    listed = names(plan)
    if listed is None:
        return "ALL"
    return ",".join(dict.fromkeys(listed)) or "NIL"
