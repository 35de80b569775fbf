"""`launcher prove` with real runs on this machine: what is equal is proven, and what is not is named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from launcher import ROOT
from launcher.errors import PlanError
from launcher.runs.certificate import Certificate, Part
from launcher.runs.evidence import Check
from launcher.submission import proof, proving
from launcher.submission.proving import Interruption
from tests import samples

if TYPE_CHECKING:
    from pathlib import Path

JOB = """
name: demo
cluster: here.yaml
model: tiny-llama
batch: {micro: 2, global: 8}
deepspeed: zero1
args: {seq-length: 16, lr: 1.0e-2}
"""


# What is the job's own, which its proof leaves as it is.
KEPT = """checkpoint: {{every: 500, local: {{every: 50}}, mirror: "file://{0}/mirror"}}
profile: {{flops: 100}}
notify: [{{command: [touch, "{0}/told"]}}]
"""


def prove(folder: Path, *words: str, job: str = JOB) -> tuple[int, dict[str, Any], str]:
    """The exit code, what --json says, and stderr."""
    (folder / "job.yaml").write_text(job)
    (folder / "here.yaml").write_text(samples.CLUSTER)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "LAUNCHER"))}
    env |= {"LAUNCHER_RUNS": str(folder / "runs"), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "launcher", "prove", "job.yaml", "--json", *words],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
    )
    return done.returncode, json.loads(done.stdout) if done.stdout else {}, done.stderr


@pytest.mark.deepspeed
def test_a_job_goes_on_after_a_kill_signals_and_with_other_ranks(tmp_path: Path) -> None:
    code, made, said = prove(
        tmp_path, "--steps", "8", "--set", "cluster.slots=1", job=JOB + KEPT.format(tmp_path)
    )
    assert code == 0, said + json.dumps(made, indent=1)
    assert (made["proven"], made["problems"], made["steps"]) == (True, [], 8)
    assert made["notes"] == ["runs without checkpoint.local, checkpoint.mirror, of which nothing is shown"]
    assert not (tmp_path / "mirror").exists()
    assert not (tmp_path / "told").exists()
    whole, cut, moved = made["runs"]
    assert (whole["ranks"], cut["ranks"], moved["ranks"]) == (1, 1, 2)
    ends = ["KILL at step 2: 137", "TERM at step 4: 75", "USR2 at step 6: 75", "0"]
    assert (whole["exits"], cut["exits"], moved["exits"]) == (["0"], ends, ["0"])
    names = ["samples", "losses", "parameters", "optimizer"]
    for run in (cut, moved):
        assert [check["what"] for check in run["checks"]] == names
        assert all(check["holds"] for check in run["checks"])
    assert [check["steps"] for check in cut["checks"]] == [9, 9, 6, 6]  # step 1 was done twice
    assert [check["steps"] for check in moved["checks"]] == [4, 4, 3, 6]
    assert {check["bound"] for check in cut["checks"]} == {None}
    assert [check["bound"] for check in moved["checks"]] == [None, 1e-4, 1e-4, 1e-4]
    kept = json.loads((tmp_path / "runs" / cut["run"] / "certificate.json").read_text())
    assert kept == made
    assert not list((tmp_path / "runs").glob("*/checkpoints"))
    assert "the checkpoints of these 3 runs are deleted" in said


OWN = """
import os, pathlib, signal, sys, time
leave = []
signal.signal(signal.SIGUSR2, lambda *_: leave.append(1))
folder = pathlib.Path(os.environ["RUN_DIR"])
saved, ends = folder / "checkpoints", folder / "ends"
saved.mkdir(exist_ok=True)
step = max((int(path.name) for path in saved.iterdir()), default=0)
attempt = len(list(folder.glob("attempt-*")))
(folder / f"attempt-{attempt}").touch()
whole = "undisturbed" in folder.name
while step < 8:
    step += 1
    print(f"step {step} loss {1 / (step + DRIFT * attempt)}", flush=True)
    if leave:
        sys.exit(75)
    if step % int(os.environ["CHECKPOINT_EVERY"]) == 0:
        (saved / str(step)).touch()
    while not whole and step == [2, 4, 6, 9][attempt] and not leave:
        time.sleep(0.01)  # until it is interrupted
"""


def own(folder: Path) -> str:
    return f"name: own\ncluster: here.yaml\nworkload: {folder}/own.py\nbatch: {{micro: 1}}\ncode: none\n"


@pytest.mark.heavy
@pytest.mark.parametrize("drift", [0, 1])
def test_a_program_of_ones_own_by_the_losses_that_it_prints(drift: int, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN.replace("DRIFT", str(drift)))
    code, made, said = prove(tmp_path, "--set", "cluster.slots=1", job=own(tmp_path))
    assert code == drift, said
    whole, cut = made["runs"]
    assert whole["exits"] == ["0"]
    assert cut["exits"] == ["KILL at step 2: 137", "TERM at step 4: 75", "USR2 at step 6: 75", "0"]
    (check,) = cut["checks"]
    if drift:  # each attempt is off by more
        assert check["first"] == 3
        assert made["problems"] == ["interrupted: losses of step 3: 0.333333333 undisturbed, 0.25 here"]
    else:
        assert check["holds"]


@pytest.mark.heavy
def test_a_program_that_tells_no_loss_proves_nothing(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("print('hello')")
    code, made, _ = prove(tmp_path, "--set", "cluster.slots=1", job=own(tmp_path))
    assert code == 1
    assert "undisturbed: it has told no loss: print lines such as `step 12 loss 3.21`" in made["problems"][0]


def test_interruptions_are_spread_over_the_steps() -> None:
    assert proving.interruptions(16, 1, True) == [
        Interruption(4, "KILL"),
        Interruption(8, "TERM"),
        Interruption(12, "USR2"),
    ]
    assert [way.step for way in proving.interruptions(30, 2, True)] == [6, 12, 18, 24]
    with pytest.raises(PlanError, match="--steps 7 are too few for 3 interruptions; use --steps 8 or more"):
        proving.interruptions(7, 1, True)


@pytest.mark.parametrize(
    ("job", "cluster", "settings"),
    [
        (
            {"batch": {"micro": 2, "global": 8}},
            {"slots": 4},
            ["cluster.slots=2", "batch={micro: 2, global: 8}"],
        ),
        ({"nodes": 3}, {"slots": 1}, ["nodes=1", "batch={micro: 1, global: 3}"]),
        ({"batch": {"micro": 2}}, {"slots": 1}, ["cluster.slots=2", "batch={micro: 1, global: 2}"]),
        ({}, {"slots": 1}, []),
    ],
)
def test_another_number_of_ranks_has_the_same_global_batch(
    job: dict[str, Any], cluster: dict[str, Any], settings: list[str]
) -> None:
    assert proving.other_ranks(samples.decided(job, **cluster)) == settings


def test_what_is_changed_in_a_job() -> None:
    course = proof.course(
        samples.decided({"deepspeed": {"zero_allow_untested_optimizer": True}}), "local", None, 1
    )
    words = course.settings[proof.CUT]
    assert {"checkpoint.every=2", "checkpoint.keep=2", "restarts=0", "deepspeed.preset=zero1"} < set(words)
    assert {"args.max-steps=16", "args.digests=true", "args.wandb=null", "args.eval-every=0"} < set(words)
    assert words[-1] == 'args.interrupt=["4:KILL", "8:TERM", "12:USR2"]'
    assert (
        course.why == "its batch can be divided by no other number of ranks here"
        if not course.other
        else True
    )


def test_only_what_its_own_runs_have_saved_is_deleted_and_only_of_a_proof(tmp_path: Path) -> None:
    for name in ("demo-1", "demo-2", "others"):
        (tmp_path / name / "checkpoints/step-00000002").mkdir(parents=True)
    (tmp_path / "demo-3").mkdir()
    (tmp_path / "demo-3/checkpoints").symlink_to(tmp_path / "others/checkpoints")
    parts = [
        Part(name, run, 1, ["0"], [Check("losses", 8)] if run != "demo-1" else [])
        for name, run in (("undisturbed", "demo-1"), ("interrupted", "demo-2"), ("moved", "demo-3"))
    ]
    made = Certificate("demo", "local", 8, parts, [], "2026-01-01T00:00:00+00:00")
    assert proof.tidy(made._replace(parts=[parts[0]._replace(problem="no")]), tmp_path) == []
    assert [folder.parent.name for folder in proof.tidy(made, tmp_path)] == ["demo-1", "demo-2"]
    assert [path.parent.parent.name for path in tmp_path.glob("*/checkpoints/*")] == ["demo-3", "others"]
    assert not (tmp_path / "demo-1/checkpoints").exists()
