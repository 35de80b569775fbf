"""Pyxis and Apptainer, which no Debian has: the script runs, and executables on PATH record what they are given.

What they record is compared with the flags' documentation; the runtimes themselves do not run in these tests.
https://github.com/NVIDIA/pyxis#usage · https://apptainer.org/docs/user/latest/cli/apptainer_exec.html
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import environment
import pytest

from launcher import ROOT, schedulers
from launcher.planning import plan
from launcher.rendering import containers, own_image
from tests import samples

WEIRD = """a'b"c $HOME `id` $(id) #x, y;&|\\ \t*~ é
second line"""
RECORDER = """\
#!{python}
import json, os, sys
name = os.path.basename(sys.argv[0])
if sys.argv[1:2] == ["pull"]:
    name = "pull"
    open(sys.argv[-2], "w").write("an image")
json.dump([sys.argv[1:], dict(os.environ)], open(os.environ["RECORDS"] + "/" + name, "w"))
if name == "srun" and "apptainer" in sys.argv:
    os.execvp("apptainer", sys.argv[sys.argv.index("apptainer"):])
"""


class Recorded:
    """What the script of a job on a cluster gave to srun and to apptainer."""

    def __init__(self, folder: Path, runtime: str, *settings: str) -> None:
        tools, self.records = folder / "bin", folder / "records"
        tools.mkdir()
        self.records.mkdir()
        for name in ("srun", "apptainer", "scontrol", "sinfo"):
            (tools / name).write_text(RECORDER.format(python=sys.executable))
            (tools / name).chmod(0o755)
        site = plan.Workspace(str(ROOT), str(folder / "runs"), sys.executable, "0123456789ab")
        words = [
            f"cluster.slurm.container={runtime}",
            f"env={json.dumps({'WEIRD': WEIRD, 'NCCL_IB_TC': '106'})}",
            'env.HF_TOKEN={secret: "hf-token"}',
            f"cluster.slurm.secrets={folder}/secrets",
            f"cluster.scratch={folder}/scratch",
            "nodes=2",
            *settings,
        ]
        (folder / "secrets").mkdir()
        (folder / "secrets" / "hf-token").write_text("s3cret")
        self.plan = plan.make(samples.loaded(str(ROOT / "jobs/gpt2.yaml"), "h100-infiniband", words), site)
        self.script = schedulers.load("slurm").render(self.plan)["job.sh"]
        self.folder = folder
        (folder / "job.sh").write_text(self.script)
        for name in own_image.folders(self.plan, "slurm"):  # a submission puts them there
            Path(self.plan.folder, name).mkdir(parents=True)
        self.run()

    def run(self) -> None:
        env = {
            "PATH": f"{self.folder}/bin:/usr/bin:/bin",
            "HOME": str(self.folder),
            "RECORDS": str(self.records),
        }
        env |= {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "gpu[1-2]", "LC_ALL": "C.UTF-8"}
        subprocess.run(["bash", f"{self.folder}/job.sh"], env=env, check=False, timeout=60)

    def of(self, tool: str) -> tuple[list[str], dict[str, str]]:
        argv, env = json.loads((self.records / tool).read_text())
        return argv, env

    def check_environment(self, env: dict[str, str]) -> None:
        """The ranks get every variable, none of which changed what the script's own programs got."""
        path = Path(self.plan.folder) / "environment.json"
        assert path.stat().st_mode & 0o777 == 0o600
        assert "s3cret" not in path.read_text()
        with mock.patch.dict(os.environ, env, clear=True):
            found = environment.of_job(path)
        wanted = {v.name: v.value for v in self.plan.environment} | {"HF_TOKEN": "s3cret"}
        run = {"RUN_DIR": self.plan.folder, "DEEPSPEED_CONFIG": f"{self.plan.folder}/ds_config.json"}
        assert found == wanted | run
        assert found["WEIRD"] == WEIRD
        assert not set(found) & set(env)

    def value(self, option: str) -> str:
        """The value of an srun option, which must be given once."""
        (found,) = [word.partition("=")[2] for word in self.of("srun")[0] if word.startswith(f"{option}=")]
        return str(found)


def test_pyxis(tmp_path: Path) -> None:
    seen = Recorded(tmp_path, "pyxis", "cluster.image=registry.example.com:5000/team/deepspeed-train:1.2")
    argv, env = seen.of("srun")
    # '#' separates registry and image in enroot's own syntax, and starts no comment here
    assert seen.value("--container-image") == "registry.example.com:5000#team/deepspeed-train:1.2"
    assert argv.count("--no-container-mount-home") == 1
    mounts = seen.value("--container-mounts").split(",")
    assert f"{tmp_path}/runs:{tmp_path}/runs" in mounts
    # The job's variables do not pass through srun and the image's ENV, which would win over some of them: the node
    # entry reads them in the run's folder.
    assert not [word for word in argv if word.startswith("--container-env")]
    seen.check_environment(env)
    assert "s3cret" not in " ".join(argv)
    assert "s3cret" not in seen.script
    inside = argv[argv.index("/opt/venv/bin/python") :]
    assert inside[1] == "/opt/job/preflight.py"
    assert inside[inside.index("--") + 1 : inside.index("--") + 3] == [
        "--hostfile",
        f"{seen.plan.folder}/hostfile-7-0",
    ]


def test_pyxis_takes_a_squashfs_file_as_it_is(tmp_path: Path) -> None:
    seen = Recorded(tmp_path, "pyxis", "cluster.image=/shared/images/deepspeed-train.sqsh")
    assert seen.value("--container-image") == "/shared/images/deepspeed-train.sqsh"


def test_pyxis_does_not_mistake_a_hub_name_for_a_registry(tmp_path: Path) -> None:
    seen = Recorded(tmp_path, "pyxis", "cluster.image=nvidia/cuda:13.0")
    assert seen.value("--container-image") == "nvidia/cuda:13.0"


def test_apptainer(tmp_path: Path) -> None:
    seen = Recorded(tmp_path, "apptainer", "cluster.image=/shared/deepspeed-train.sif")
    argv, env = seen.of("apptainer")
    assert argv[0] == "exec"
    assert "--nv" in argv
    assert "--no-home" in argv
    binds = [argv[i + 1] for i, word in enumerate(argv) if word == "--bind"]
    assert f"{tmp_path}/runs:{tmp_path}/runs" in binds
    at = argv.index("/shared/deepspeed-train.sif")
    assert argv[at + 1 : at + 3] == ["/opt/venv/bin/python", "/opt/job/preflight.py"]
    seen.check_environment(env)
    assert "s3cret" not in " ".join(argv)
    assert not (seen.records / "pull").exists()


@pytest.mark.heavy
def test_apptainer_fetches_an_image_once_for_all_hosts_and_runs(tmp_path: Path) -> None:
    first = Recorded(tmp_path, "apptainer", "cluster.image=nvcr.io/x/y:1")
    image = f"{tmp_path}/runs/images/nvcr.io_x_y_1.sif"
    assert first.of("pull")[0] == ["pull", "--force", f"{image}.7-0", "docker://nvcr.io/x/y:1"]
    assert image in first.of("apptainer")[0]
    assert Path(image).read_text() == "an image"
    (first.records / "pull").unlink()
    first.run()
    assert not (first.records / "pull").exists(), "it is there already"


# of one's own, without rates
CARD = {"name": "x", "memory": "80GB", "capability": 9.0}


@pytest.mark.parametrize(
    ("fields", "floor"),
    [
        ({"fabric": "infiniband", "bandwidth": 3200}, "200"),  # half of 400 GB/s
        ({"fabric": "roce", "bandwidth": 1600}, "100"),
        ({"fabric": "infiniband", "bandwidth": 8000}, "225"),  # the GPUs' own links are slower: 450 GB/s
        ({"fabric": "infiniband", "bandwidth": 3200, "gpu": CARD}, "200"),
        ({"fabric": "infiniband"}, "0"),
        ({"fabric": "tcp", "bandwidth": 100}, "0"),
        ({"fabric": "infiniband", "bandwidth": 3200, "slurm": {"floor": 7}}, "7"),
    ],
)
def test_preflight_asks_for_a_part_of_the_fabrics_rate(fields: dict[str, Any], floor: str) -> None:
    decided = samples.decided({"nodes": 2}, **{"gpu": "h100-80gb", "slots": 8, "interface": "eth0", **fields})
    assert f"--floor={floor} " in schedulers.load("slurm").render(decided)["job.sh"]


@pytest.mark.parametrize("engine", ["docker", "podman"])
@pytest.mark.parametrize(("gpu", "asked"), [(None, False), ("h100-80gb", True)])
def test_only_gpus_want_the_limit_of_locked_memory_away(engine: str, gpu: str | None, asked: bool) -> None:
    """Without CAP_SYS_RESOURCE, as rootless and in many containers, an engine refuses to raise it."""
    decided = samples.decided(image="x:1", gpu=gpu, memory="1TB")
    words = containers.node_entry(engine, decided)
    assert ("--ulimit=memlock=-1" in words) == asked
