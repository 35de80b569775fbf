"""Which variables of the shell that submits a job reach sbatch, and which travel with the job: its --export.

Owns the default of `slurm.export`, and what is kept from sbatch. sbatch alone would hand on all variables, and
PYTHONPATH or LD_LIBRARY_PATH of a login host then decide what ranks import. Names alone are written: sbatch splits at
commas, so no value could stand there. https://slurm.schedmd.com/sbatch.html#OPT_export
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from launcher.schedulers.slurm import resources, sbatch

if TYPE_CHECKING:
    from collections.abc import Iterable

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


# Those of SLURM_* that are not of the allocation in whose shell the launcher may run.
_OF_THE_SITE = {"SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS", "SLURM_JWT", "SLURM_TIME_FORMAT"}
# Where the cluster file names none, a user's own variable may.
_LEFT_OPEN = {"account", "partition", "qos"}


def kept_back(script: str, variables: Iterable[str]) -> list[str]:
    """Those of `variables` that sbatch must not see for `script` to be what it does.

    SBATCH_* win over a script's own lines (https://slurm.schedmd.com/sbatch.html#SECTION_INPUT-ENVIRONMENT-VARIABLES).
    In the shell of another allocation, SLURM_* say what that one has, and srun would ask for it inside the new job.
    """
    names = set(variables)
    decided = set(re.findall(r"^#SBATCH --([a-z0-9-]+)", script, re.MULTILINE))
    decided |= resources.rivals(decided) | ({*sbatch.OWNED, *sbatch.BREAKING} - _LEFT_OPEN)
    hidden = {name for name in names if sbatch.of_variable(name) in decided}
    if "SLURM_JOB_ID" in names:
        hidden |= {n for n in names if n.startswith(("SLURM_", "SLURMD_", "SRUN_"))} - _OF_THE_SITE
    return sorted(hidden)
