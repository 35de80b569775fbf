"""The command line on a real Slurm cluster: several hosts, real DeepSpeed training, real requeue.

Owns what a user of `python -m launcher slurm` sees; the cluster itself is cluster.py's.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from launcher.runs import hours

if TYPE_CHECKING:
    from tests.real.slurm.site import Site

pytestmark = pytest.mark.slurm


def test_life_of_a_run_on_two_hosts(site: Site) -> None:
    run = site.submit("cluster.slurm.sbatch.hold=true", "profile.flops=3", "profile.breakdown=true")
    held = site.status(run)
    assert (held["state"], held["reason"]) == ("PENDING", "held by its user: `scontrol release JOBID`")
    assert site.launcher("list").stdout.count("PENDING") == 1
    site.cluster.sh(f"scontrol release {held['native_id']}")
    site.wait(run, lambda now: now["state"] == "RUNNING")
    done = site.ended(run)
    assert (done["state"], done["exit_code"]) == ("SUCCEEDED", 0)
    assert len(set(done["hosts"])) == 2

    losses = site.losses(run)
    assert list(losses) == list(range(1, 17))
    assert losses[16] < losses[1] * 0.8
    for rank, host in enumerate(done["hosts"]):
        assert f"host {host}," in site.launcher("logs", run, "--rank", str(rank)).stdout
    assert site.launcher("logs", run, "--host", done["hosts"][1]).stdout.startswith("--- attempt")
    log = site.launcher("logs", run, "-f").stdout
    assert "step 16/16" in log
    # DeepSpeed's own profilers
    assert "Profile Summary at step 3:" in log
    assert log.count("time (ms)") >= 16

    hostfile = next(site.path(run).glob("hostfile-*"))
    assert hostfile.read_text() == "".join(f"{host} slots=1\n" for host in done["hosts"])
    assert (site.path(run) / "checkpoints" / "step-00000016").is_dir()


def test_a_failing_rank_gives_its_code_and_name(site: Site) -> None:
    settings = ("args.fail-at-step=3", "args.fail-rank=1", "args.fail-code=3", "restarts=0")
    words = [w for s in settings for w in ("--set", s)]
    done = site.launcher("slurm", "job.yaml", "--wait", *words, code=1)
    assert "FAILED" in done.stderr
    run = json.loads(site.launcher("list", "--json").stdout)[0]
    assert (run["state"], run["exit_code"]) == ("FAILED", 3)
    assert f"rank 1 on {run['hosts'][1]}, exit code 3" in site.launcher("status", run["id"]).stdout
    assert site.cluster.sh(f"sacct -X -n -P -j {run['native_id']} -o State,ExitCode") == "FAILED|3:0"


def test_a_failure_is_started_again_as_long_as_steps_advance(site: Site) -> None:
    """A code that means nothing: once from the checkpoint after step 2, after which it then fails too."""
    settings = ("args.fail-at-step=3", "args.fail-rank=1", "args.fail-code=3", "args.fail-attempts=9")
    run = site.submit(*settings, "checkpoint.every=1")
    assert site.ended(run)["exit_code"] == 3, site.all_logs(run)
    lines = (site.path(run) / "attempts.jsonl").read_text().splitlines()
    attempts = [json.loads(line) for line in lines]
    assert [(one["began"], one["step"], one["again"]) for one in attempts] == [(0, 2, True), (2, 2, False)]
    assert "a restart would not help: no step was done since it was started" in site.all_logs(run)
    check_hours(site, run, "FAILED")


@pytest.mark.parametrize("by", ["launcher", "scancel"])
def test_cancel(site: Site, by: str) -> None:
    run = site.submit("args.step-delay=1", "args.max-steps=300")
    site.shown(run, lambda: bool(site.metrics(run)))
    if by == "launcher":
        site.launcher("cancel", run)
    else:
        site.cluster.sh(f"scancel {site.status(run)['native_id']}")
    assert site.ended(run)["state"] == "CANCELLED"
    # The ranks saved and left with the code that otherwise puts a job back into the queue.
    site.cluster.wait_for_state(site.status(run)["native_id"], "CANCELLED")
    assert "put back" not in (site.path(run) / "logs" / "job.log").read_text()


def test_walltime_saves_requeues_and_resumes(site: Site) -> None:
    run = site.submit("walltime=20m", "args.step-delay=0.4", "args.max-steps=100")
    job = site.status(run)["native_id"]
    site.shown(run, lambda: len(site.losses(run)) >= 3)
    # The limit comes near, instead of the test waiting for it: Slurm looks every 30 s and then sends the signal.
    site.cluster.sh(f"scontrol update jobid={job} timelimit=1")
    site.wait(run, lambda now: now["state"] == "PENDING")
    site.cluster.sh(f"scontrol update jobid={job} timelimit=20")
    done = site.ended(run)
    assert done["state"] == "SUCCEEDED", site.all_logs(run)
    first, second = (r for r in site.metrics(run) if r.get("event") == "start")
    assert first["step"] == 0
    assert 3 <= second["step"] < 100
    assert second["resumed_from"] == f"step-{second['step']:08d}"
    assert list(site.losses(run)) == list(range(1, 101)), "no step lost, none repeated"
    # but for the moment in which the last checkpoint is told
    redone = check_hours(site, run, "COMPLETED")["redone"] * 3600
    assert redone < 1, "the signal came in time to save"
    log = (site.path(run) / "logs" / "job.log").read_text()
    assert log.count("requeued, to resume") == 1
    assert "Slurm did not requeue it" not in log


def check_hours(site: Site, run: str, state: str) -> dict[str, float]:
    """The shares of the GPU hours of both attempts, on two slots, add up to what Slurm itself has counted."""
    job = site.status(run)["native_id"]
    site.cluster.wait_for_state(job, state)
    attempts = site.cluster.sh(f"sacct -X -n -P -D -j {job} -o Start,ElapsedRaw").splitlines()
    elapsed = 2 * sum(int(line.split("|")[1]) for line in attempts)
    (used,) = (entry["hours"] for entry in json.loads(site.launcher("report", run, "--json").stdout))
    assert (used["attempts"], used["whole"]) == (2, True), attempts
    # sacct counts whole seconds
    assert used["allocated"] * 3600 == pytest.approx(elapsed, rel=0.01, abs=2 * len(attempts))
    assert sum(used[share] for share in hours.SHARES) == pytest.approx(used["allocated"])
    return dict(used)


def test_the_script_by_hand(site: Site) -> None:
    script = site.launcher("slurm", "job.yaml", "--set", "args.max-steps=4", "--dry-run").stdout
    (site.folder / "by hand.sh").write_text(script)
    out = subprocess.run(
        ["sbatch", "--parsable", "by hand.sh"],
        cwd=site.folder,
        env=site.env,
        capture_output=True,
        text=True,
        check=True,
    )
    site.cluster.wait_for_state(out.stdout.strip(), "COMPLETED", timeout=120)
    folder = next((site.folder / "runs").iterdir())
    assert list(site.losses(folder.name)) == [1, 2, 3, 4]
    assert (folder / "exit_code").read_text() == "0\n"


def test_slurm_refuses(site: Site) -> None:
    done = site.launcher("slurm", "job.yaml", "--set", "cluster.slurm.partition=absent", code=4)
    assert "invalid partition specified: absent" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((site.folder / "runs").iterdir()), "nothing may be left of a run that was refused"


def test_hostfile_of_an_allocation(site: Site) -> None:
    words = ["srun", "--nodes=1", "-w", "n3", sys.executable, "-m", "launcher", "hostfile", "--slots", "8"]
    done = subprocess.run(words, cwd=site.folder, env=site.env, capture_output=True, text=True, check=True)
    assert done.stdout == "n3 slots=8\n"


WEIRD = """a'b"c $HOME `id` $(id) #x, y;&|\\ \t*?~ é
second line"""


def test_values_arrive_unchanged(site: Site) -> None:
    (site.folder / "dump.py").write_text(
        "import json, os, sys\n"
        "json.dump([dict(os.environ), sys.argv], open(os.environ['RUN_DIR'] + '/dump.json', 'w'))\n"
    )
    run = site.submit(
        "workload=./dump.py",
        "nodes=1",
        "batch={micro: 1}",
        f"env={json.dumps({'WEIRD': WEIRD, 'NCCL_IB_HCA': 'mlx5_0,mlx5_1'})}",
        f"args={json.dumps({'text': WEIRD.replace('$', '$$')})}",
        f"cluster.slurm.sbatch.comment={json.dumps(WEIRD.splitlines()[0])}",
    )
    done = site.ended(run)
    assert done["state"] == "SUCCEEDED", site.all_logs(run)
    env, argv = json.loads((site.path(run) / "dump.json").read_text())
    assert env["WEIRD"] == WEIRD
    assert env["NCCL_IB_HCA"] == "mlx5_0,mlx5_1"
    assert argv[1:] == [f"--text={WEIRD}"]
    shown = json.loads(site.cluster.sh(f"scontrol show job {done['native_id']} --json"))
    assert shown["jobs"][0]["comment"] == WEIRD.splitlines()[0]


def test_a_missing_pyxis_is_explained(site: Site) -> None:
    # Pyxis splits a mount at a quote, so the folder of runs leaves the one that has it in its name.
    site.env["LAUNCHER_RUNS"] = str(site.folder.parent / "runs")
    run = site.submit(
        *site.program("print('never')\n"), "cluster.slurm.container=pyxis", "cluster.image=/x.sqsh"
    )
    assert site.ended(run)["state"] == "FAILED"
    said = site.launcher("status", run).stdout
    assert "likely cause   the cluster file selects Pyxis" in said
    assert "evidence: srun: unrecognized option '--container-image=/x.sqsh'" in said
