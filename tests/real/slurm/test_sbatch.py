"""sbatch itself: which options it has, and that no answer of its own loses a job."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from launcher import schedulers
from launcher.schedulers.slurm import sbatch
from tests import samples
from tests.real.slurm import cluster, config

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.real.slurm.cluster import Cluster
    from tests.real.slurm.site import Site

pytestmark = pytest.mark.slurm


def kind(name: str) -> str:
    """How this sbatch takes the option, by what it says without a value and with one."""

    def said(*words: str) -> str:
        done = subprocess.run(["sbatch", *words], capture_output=True, text=True, stdin=subprocess.DEVNULL)
        return done.stderr + done.stdout

    if "requires an argument" in said(f"--{name}"):
        return "valued"
    answer = said(f"--{name}=1", "--version")
    if "unrecognized option" in answer or "ambiguous" in answer:
        return "none"
    return "switch" if "allow an argument" in answer else "optional"


def test_the_options_are_those_of_sbatch(slurm_cluster: Cluster) -> None:
    del slurm_cluster
    assert {name: kind(name) for name in sbatch.options()} == sbatch.options()


def test_a_job_whose_answer_says_nothing_is_followed_all_the_same(site: Site) -> None:
    # what a wrapper of a site may do
    site.env["PATH"] = f"{site.folder}/bin:/usr/bin:/bin"
    (site.folder / "bin").mkdir()
    wrapper = site.folder / "bin" / "sbatch"
    wrapper.write_text('#!/bin/sh\n/usr/bin/sbatch --quiet "$@" && echo thank you\n')
    wrapper.chmod(0o755)
    run = site.submit("args.max-steps=2")
    assert site.ended(run)["state"] == "SUCCEEDED"


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"gres": "gpu:h100:8"},
        {"gpus": "h100:16"},
        {"gpus-per-node": "h100:8"},
        {"mem-per-cpu": "10M"},
        {"mem-per-gpu": "10M"},
    ],
)
def test_resources_of_ones_own_are_taken_by_sbatch(
    given: dict[str, str], typed: Cluster, tmp_path: Path
) -> None:
    """Typed and untyped GPUs together, and two kinds of memory, it refuses."""
    made = samples.decided(
        {"nodes": {"max": 2}}, gpu="h100-80gb", slots=8, slurm={"partition": "debug", "sbatch": given}
    )
    (tmp_path / "job.sh").write_text(schedulers.load("slurm").render(made)["job.sh"])
    typed.sh("sbatch", "--test-only", str(tmp_path / "job.sh"))


@pytest.fixture(scope="module")
def typed(slurm_requirements: None) -> Iterator[Cluster]:
    with cluster.Cluster(config.Settings(nodes=2, types=("h100",), accounting=False)) as running:
        yield running
