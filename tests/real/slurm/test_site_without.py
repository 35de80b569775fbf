"""A site without accounting whose slurmctld forgets jobs at once, and what `--wait` shows there."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.real.slurm import cluster, config
from tests.real.slurm.site import Site

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slurm


@pytest.fixture(scope="module")
def bare(slurm_requirements: None) -> Iterator[cluster.Cluster]:
    with cluster.Cluster(config.Settings(nodes=2, accounting=False, extra="MinJobAge=2")) as running:
        yield running


@pytest.fixture
def bare_site(bare: cluster.Cluster, tmp_path: Path) -> Iterator[Site]:
    yield Site(tmp_path, bare)
    bare.reset()


def forgotten(site: Site, job: str) -> None:
    """Wait until Slurm knows nothing of the job: then only the run's own files are left."""
    deadline = time.monotonic() + 90
    while site.cluster.sh(f"squeue -h -t all -j {job}", check=False):
        assert time.monotonic() < deadline
        time.sleep(0.3)


def test_ends_are_known_although_slurm_forgot_them(bare_site: Site) -> None:
    site = bare_site
    good = site.submit(*site.program("print('done')\n"))
    bad = site.submit(
        *site.program("import os; os._exit(9 if os.environ['RANK'] == '1' else 0)\n"), "name=bad"
    )
    assert site.ended(bad)["exit_code"] == 9
    assert site.ended(good)["state"] == "SUCCEEDED"
    gone = site.submit(*site.program("import time; time.sleep(99)\n"), "name=gone")
    site.wait(gone, lambda now: now["state"] == "RUNNING")
    site.launcher("cancel", gone)
    native = [site.status(run)["native_id"] for run in (good, bad, gone)]
    for job in native:
        forgotten(site, job)
    assert site.status(good)["state"] == "SUCCEEDED"
    assert (site.status(bad)["state"], site.status(bad)["exit_code"]) == ("FAILED", 9)
    assert site.status(gone)["state"] == "CANCELLED"
    said = site.launcher("status", bad).stdout
    assert "rank 1 on n2, exit code 9" in said
    assert site.launcher("resume", gone).stderr.startswith(f"{gone} resumed as ")
    assert site.status(gone)["state"] in {"PENDING", "RUNNING"}


def test_a_job_that_is_cancelled_before_its_script_begins_was_cancelled(bare_site: Site) -> None:
    """Slurm says RUNNING before the script has begun, here for seconds: what `cancel` wrote is there afterwards."""
    site = bare_site
    program = site.program("import time; time.sleep(99)\n")
    run = site.submit(*program, "cluster.slurm.setup=[trap '' TERM, sleep 3]", "nodes=1")
    site.wait(run, lambda now: now["state"] == "RUNNING")
    site.launcher("cancel", run)
    forgotten(site, site.status(run)["native_id"])
    assert site.status(run)["state"] == "CANCELLED"


def test_a_job_that_goes_on_was_not_cancelled(bare_site: Site) -> None:
    site = bare_site
    run = site.submit(*site.program("import time; time.sleep(99)\n"), "nodes=1")
    folder = site.folder / "runs" / run
    tool = site.folder / "bin" / "scancel"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho 'Kill job error on job id 7: Access/permission denied' >&2; exit 1\n")
    tool.chmod(0o755)
    path = site.env["PATH"]
    site.env["PATH"] = f"{tool.parent}:{path}"
    assert "permission denied" in site.launcher("cancel", run, code=4).stderr
    assert not (folder / "cancelled").exists()
    site.env["PATH"] = path
    (
        folder / "cancelled"
    ).mkdir()  # as on a full disk, nothing can be written there: the job ends all the same
    site.launcher("cancel", run)
    site.wait(run, lambda now: now["state"] == "CANCELLED")


def test_the_view_of_a_waiting_job_and_ctrl_c(bare_site: Site) -> None:
    """The whole cluster is busy for a known time: the view says why, and when Slurm expects the start."""
    site = bare_site
    site.cluster.sh("sbatch -N2 --exclusive --time=20 -o /dev/null --wrap 'sleep 100'")
    words = [w for s in site.program("print('done')\n") for w in ("--set", s)]
    with subprocess.Popen(
        [sys.executable, "-m", "launcher", "slurm", "job.yaml", "--wait", *words],
        cwd=site.folder,
        env=site.env,
        stderr=subprocess.PIPE,
        text=True,
    ) as waiting:
        assert waiting.stderr
        seen = ""
        deadline = time.monotonic() + 60
        while "Slurm expects it to start at" not in seen:
            assert time.monotonic() < deadline, seen
            seen += waiting.stderr.readline()
        assert "pending: waiting for free nodes" in seen
        waiting.send_signal(signal.SIGINT)
        seen += waiting.stderr.read()
    assert waiting.returncode == 130
    assert "follow it: python -m launcher logs" in seen
    assert site.launcher("list", "--state", "pending").stdout.count("PENDING") == 1, "Ctrl-C cancels nothing"


def test_slurmctld_is_away(bare_site: Site) -> None:
    site = bare_site
    run = site.submit(*site.program("import time; time.sleep(60)\n"), "nodes=1")
    site.wait(run, lambda now: now["state"] == "RUNNING")
    site.cluster.stop_ctld()
    said = site.launcher("status", run, code=4).stderr
    assert "Unable to contact slurm controller" in said
    assert site.launcher("list").stdout.count("UNKNOWN") == 1
