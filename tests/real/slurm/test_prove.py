"""`launcher prove --on slurm`: its runs are jobs, interrupted inside them and put back by `resume`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.real.slurm.site import Site

pytestmark = pytest.mark.slurm


def test_a_job_of_slurm_goes_on_after_sigterm(site: Site) -> None:
    settings = ("nodes=1", "batch={micro: 1, global: 1}", "args.seq-length=16")
    words = [word for setting in settings for word in ("--set", setting)]
    done = site.launcher(
        "prove", "job.yaml", "--on", "slurm", "--kills", "0", "--steps", "6", "--json", *words
    )
    made = json.loads(done.stdout)
    whole, cut = made["runs"]
    assert (whole["exits"], cut["exits"]) == (["0"], ["TERM at step 2: 75", "USR2 at step 4: 75", "0"])
    assert [(check["what"], check["steps"], check["holds"]) for check in cut["checks"]] == [
        ("samples", 6, True),
        ("losses", 6, True),
        ("parameters", 5, True),  # after 2, 4 and 6, and when 2 and 4 were loaded
        ("optimizer", 5, True),
    ]
    assert made["notes"] == [
        "not moved to other ranks: its batch can be divided by no other number of ranks here"
    ]
    assert made["proven"]
