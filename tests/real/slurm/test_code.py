"""The user's own code on a real Slurm: what was there at submission runs, whatever is edited while the job waits."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.real.slurm.site import Site

pytestmark = pytest.mark.slurm

PROGRAM = """
import json, os, sys
import shared
json.dump(
    {"said": "OLD", "module": shared.SAID, "cwd": os.getcwd(), "argv": sys.argv},
    open(os.environ["RUN_DIR"] + f"/rank-{os.environ['RANK']}.json", "w"),
)
raise SystemExit(7 if os.environ.get("FAIL") else 0)
"""


def project(site: Site) -> Path:
    """A git checkout with a package that is new there, a job in a folder of its own, and what must not travel."""
    root = site.folder / "it's a project"
    (root / "jobs").mkdir(parents=True)
    (root / "jobs/train.py").write_text(PROGRAM)
    (root / "shared.py").write_text("SAID = 'OLD'\n")
    (root / ".gitignore").write_text("*.bin\n")
    (root / "weights.bin").write_text("ignored")
    (root / ".env").write_text("TOKEN=1")
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    (root / "jobs/job.yaml").write_text(
        "name: own\ncluster: ../../site.yaml\nnodes: 2\nwalltime: 5m\n"
        "workload: ./train.py\nbatch: {micro: 1}\npreflight: false\n"
    )
    return root


def submit(site: Site, root: Path, *settings: str) -> str:
    words = [word for setting in settings for word in ("--set", setting)]
    done = site.launcher("slurm", str(root / "jobs/job.yaml"), *words)
    assert "note: code: left out .env: looks like a secret" in done.stderr
    return done.stdout.strip()


def edit(root: Path) -> None:
    (root / "jobs/train.py").write_text(PROGRAM.replace("OLD", "NEW"))
    (root / "shared.py").write_text("SAID = 'NEW'\n")


def ranks(site: Site, run: str) -> list[dict[str, object]]:
    return [json.loads(path.read_text()) for path in sorted(site.path(run).glob("rank-*.json"))]


def test_an_edit_while_it_waits_changes_nothing(site: Site) -> None:
    root = project(site)
    run = submit(site, root, "cluster.slurm.sbatch.hold=true")
    now = site.status(run)
    assert now["state"] == "PENDING"
    edit(root)
    site.cluster.sh(f"scontrol release {now['native_id']}")
    assert site.ended(run)["state"] == "SUCCEEDED", site.all_logs(run)
    code = site.path(run) / "code"
    assert len(ranks(site, run)) == 2
    for rank in ranks(site, run):
        assert (rank["said"], rank["module"], rank["cwd"]) == ("OLD", "OLD", str(code))
        assert rank["argv"] == [str(code / "jobs/train.py")]
    assert sorted(path.name for path in code.iterdir() if path.name != "__pycache__") == [
        ".gitignore",
        "jobs",
        "shared.py",
    ]


def test_a_resumed_run_has_the_code_that_it_began_with(site: Site) -> None:
    root = project(site)
    run = submit(site, root, 'env={FAIL: "1"}')
    assert site.ended(run)["exit_code"] == 7, site.all_logs(run)
    edit(root)
    for path in site.path(run).glob("rank-*.json"):
        path.unlink()
    site.launcher("resume", run)
    assert site.ended(run)["exit_code"] == 7, site.all_logs(run)
    # the first to fail ends the other, which may not have said anything yet
    assert {rank["module"] for rank in ranks(site, run)} == {"OLD"}
