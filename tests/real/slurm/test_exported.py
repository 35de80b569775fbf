"""Which variables of the login shell reach the ranks of a real Slurm job, whatever their values hold."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.real.slurm.site import Site

pytestmark = pytest.mark.slurm

WEIRD = "a,b='c' $HOME `id` $(id)\nsecond, line"
PROGRAM = """
import json, os
with open(os.environ["RUN_DIR"] + "/environment-" + os.environ["RANK"], "w") as file:
    json.dump(dict(os.environ), file)
"""


def environment(site: Site, *settings: str) -> dict[str, str]:
    """The variables of rank 1, which is on the second host."""
    run = site.submit(*site.program(PROGRAM), "env={OWN: of the job}", *settings)
    done = site.ended(run)
    assert done["state"] == "SUCCEEDED", site.all_logs(run)
    read: dict[str, str] = json.loads((site.path(run) / "environment-1").read_text())
    assert read["OWN"] == "of the job"
    assert read["HOME"]
    assert "/bin" in read["PATH"]
    assert "SLURM_JOB_ID" in read
    return read


def test_what_travels_with_a_job(site: Site) -> None:
    site.env |= {"WEIRD": WEIRD, "PYTHONPATH": "/of/the/login/host", "LD_PRELOAD": "", "OTHER": "1"}
    default = environment(site)
    assert "WEIRD" not in default
    assert "/of/the/login/host" not in default["PYTHONPATH"], "it would decide what ranks import"
    assert default["PATH"] == site.env["PATH"]

    everything = environment(site, "cluster.slurm.export=all")
    assert everything["WEIRD"] == WEIRD
    assert everything["PYTHONPATH"].endswith("/of/the/login/host")

    named = environment(site, "cluster.slurm.export=[WEIRD]")
    assert named["WEIRD"] == WEIRD
    assert "OTHER" not in named

    nothing = environment(site, "cluster.slurm.export=none", "cluster.slurm.setup=['export FROM_SETUP=1']")
    assert "WEIRD" not in nothing
    assert nothing["FROM_SETUP"] == "1"


def test_the_dry_run_shows_it(site: Site) -> None:
    script = site.launcher("slurm", "job.yaml", "--dry-run").stdout
    assert "#SBATCH --export=HOME,USER," in script
    script = site.launcher("slurm", "job.yaml", "--dry-run", "--set", "cluster.slurm.export=[A, B]").stdout
    assert "#SBATCH --export=A,B\n" in script
