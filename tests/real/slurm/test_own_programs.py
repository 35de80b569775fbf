"""Programs of a user's own on a real Slurm, two hosts: scripts of four libraries, launchers that start their ranks
themselves, and the example of jobs/own/, which outlives its walltime."""

from __future__ import annotations

import json
import re
import shutil
import sys
import venv
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from launcher import ROOT
from tests.real.slurm.site import ENV

if TYPE_CHECKING:
    from tests.real.slurm.site import Site

pytestmark = pytest.mark.slurm
OWN = Path(__file__).with_name("own")
TRAINER: dict[str, Any] = {
    "output_dir": "$RUN_DIR/checkpoints",
    "deepspeed": "$DEEPSPEED_CONFIG",
    "per_device_train_batch_size": "$BATCH_MICRO",
    "gradient_accumulation_steps": "$BATCH_ACCUMULATION",
    "max_steps": 10,
    "learning_rate": 0.02,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "use_cpu": True,
}


def submit(site: Site, **fields: Any) -> str:
    job = {
        "name": "own",
        "cluster": "./site.yaml",
        "nodes": 2,
        "walltime": "5m",
        "preflight": False,
        "env": ENV,
    }
    (site.folder / "own.yaml").write_text(json.dumps({**job, "batch": {"micro": 2, "global": 4}, **fields}))
    return site.launcher("slurm", "own.yaml").stdout.strip()


def text(site: Site, run: str, rank: int = 0) -> str:
    return (site.path(run) / "logs" / f"rank-{rank}.log").read_text(errors="replace")


def losses(site: Site, run: str) -> list[float]:
    """Of every step, as the Trainer, the scripts and the example print it."""
    found = re.findall(r"(?:'loss': '?|loss )([0-9.e+-]+)", text(site, run))
    assert len(found) >= 5, site.all_logs(run)
    return [float(loss) for loss in found]


def succeeds(site: Site, run: str) -> None:
    assert site.ended(run)["state"] == "SUCCEEDED", site.all_logs(run)


def falls(site: Site, run: str) -> None:
    succeeds(site, run)
    curve = losses(site, run)
    assert sum(curve[-3:]) < 0.9 * sum(curve[:3]), curve


def test_a_script_on_hugging_faces_trainer(site: Site) -> None:
    falls(site, submit(site, workload=str(OWN / "trainer.py"), args=TRAINER, deepspeed="zero1"))


def test_a_script_on_trl(site: Site) -> None:
    falls(site, submit(site, workload=str(OWN / "preference.py"), args=TRAINER, deepspeed="zero2"))


def test_a_script_on_accelerate_with_deepspeed(site: Site) -> None:
    run = submit(
        site, command=["python", str(OWN / "accelerated.py"), "$DEEPSPEED_CONFIG"], batch={"micro": 4}
    )
    falls(site, run)
    assert "world 2" in text(site, run)


@pytest.mark.parametrize("launcher", ["torchrun", "accelerate"])
def test_launchers_start_the_ranks_themselves(launcher: str, site: Site) -> None:
    of_accelerate = [
        "--num_machines",
        "$NNODES",
        "--machine_rank",
        "$NODE_RANK",
        "--num_processes",
        "$WORLD_SIZE",
    ]
    of_accelerate += [
        "--main_process_ip",
        "$MASTER_ADDR",
        "--main_process_port",
        "$MASTER_PORT",
        "--multi_gpu",
    ]
    start = ["torchrun"] if launcher == "torchrun" else ["accelerate", "launch", *of_accelerate]
    run = submit(site, command=[*start, str(OWN / "accelerated.py")], processes="host")
    falls(site, run)
    assert "world 2" in text(site, run)


@pytest.mark.parametrize(
    "words",
    [["llamafactory-cli", "train", "cfg.yaml"], ["axolotl", "train", "cfg.yaml"]],
    ids=["llama", "axolotl"],
)
def test_tools_that_are_not_here_get_their_words_and_variables(words: list[str], site: Site) -> None:
    folder = site.folder / "their env"
    venv.create(folder, symlinks=True)
    tool = folder / "bin" / words[0]
    tool.write_text(
        f"#!{sys.executable}\nimport json, os, sys\n"
        "open(f\"{os.environ['RUN_DIR']}/told-{os.environ['NODE_RANK']}\", 'w').write("
        "json.dumps([sys.argv[1:], dict(os.environ)]))\n"
    )
    tool.chmod(0o755)
    with (site.folder / "site.yaml").open("a") as file:
        file.write(f"python: {json.dumps(str(folder))}\n")
    run = submit(site, command=[*words, "$$x 'y' $(touch pwned)\n"], processes="host", model="some/model")
    succeeds(site, run)
    for index in range(2):
        got, env = json.loads((site.path(run) / f"told-{index}").read_text())
        assert got == [*words[1:], "$x 'y' $(touch pwned)\n"]
        assert (env["NODE_RANK"], env["NNODES"], env["NPROC_PER_NODE"]) == (str(index), "2", "1")
        assert (env["PET_NODE_RANK"], env["PET_MASTER_PORT"]) == (str(index), env["MASTER_PORT"])
        assert (env["VIRTUAL_ENV"], env["MODEL"], env["FORCE_TORCHRUN"]) == (str(folder), "some/model", "1")
        assert env["PATH"].startswith(f"{folder}/bin:")
    shutil.rmtree(folder)
    again = site.launcher("slurm", "own.yaml", "--name", "again", code=3)
    assert "is no environment" in again.stderr or "there is no" in again.stderr


# As it is, but for an op that DeepSpeed would compile for a minute on a CPU.
START = """
import runpy, sys, deepspeed
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def example(site: Site, start: str = START, **fields: Any) -> str:
    command = ["python", "-u", "-c", start, str(ROOT / "jobs" / "own" / "train.py")]
    return submit(site, command=command, checkpoint={"every": 50, "keep": 2}, deepspeed="zero1", **fields)


def steps(site: Site, run: str) -> list[int]:
    return [int(step) for step in re.findall(r"^step (\d+) ", text(site, run), re.MULTILINE)]


def test_the_example_is_put_back_and_loses_no_step(site: Site) -> None:
    run = example(site, args={"steps": 400})
    site.shown(run, lambda: len(steps_so_far(site, run)) > 20)
    site.cluster.sh("scancel", "--signal=USR2", site.status(run)["native_id"])  # as before the walltime
    succeeds(site, run)
    assert "requeued, to resume" in site.all_logs(run)
    assert steps(site, run) == list(range(1, 401))
    falls(site, run)


def steps_so_far(site: Site, run: str) -> list[int]:
    return steps(site, run) if (site.path(run) / "logs" / "rank-0.log").exists() else []


DEAF = """
import os, time
from pathlib import Path
kept = Path(os.environ["RUN_DIR"]) / "checkpoints" / os.environ["RANK"]
kept.parent.mkdir(exist_ok=True)
if kept.exists():
    raise SystemExit
kept.touch()
print("step 1 loss 1", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("signal", ["none", "USR1", "TERM"])
def test_a_program_that_hears_nothing_is_put_back_at_the_walltime(signal: str, site: Site) -> None:
    """It has a checkpoint, and the job says so; `signal:` is what it would have to listen to."""
    (site.folder / "deaf.py").write_text(DEAF)
    more = site.folder / "site.yaml"  # ten seconds to save, and thirty to be put back
    more.write_text(more.read_text().replace("signal_seconds: 30", "signal_seconds: 40"))
    words = ["python", str(site.folder / "deaf.py")]
    run = submit(site, command=words, signal=signal, checkpoint={"requeue": True})
    site.shown(run, lambda: steps_so_far(site, run))
    site.cluster.sh("scancel", "--signal=USR2", site.status(run)["native_id"])
    succeeds(site, run)
    assert "requeued, to resume" in site.all_logs(run)
