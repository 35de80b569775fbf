"""Files of this machine in containers and pods: refused, or warned of, where ranks would not see them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from launcher import schedulers
from launcher.cli import main
from launcher.cli.verbs import shared
from launcher.files import load
from launcher.planning import visible
from tests.launcher.files.test_paths import CONFIG, project, write

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["project"]

ARGS: dict[str, Any] = {"seq-length": 64, "lr": 0.1, "max-steps": 1}
IMAGE = """slots: 1
scratch: /scratch
fabric: tcp
image: registry.example.com/{}
mounts: {{{}}}
slurm: {{container: pyxis}}
"""


@pytest.mark.parametrize(
    ("scheduler", "more"), [("local", ["--set", "cluster.local.container=docker"]), ("kubernetes", [])]
)
def test_what_is_here_and_not_in_the_container_is_refused(
    scheduler: str, more: list[str], project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = {"data": ["data/a.txt"], "seq-length": 64, "lr": 0.1, "max-steps": 1}
    path = write(project, args=args)
    mount = f"/data: {{host: {json.dumps(str(project / 'data'))}, claim: data}}"
    (project / "here.yaml").write_text(IMAGE.format("deepspeed-train:1", mount))
    assert main.main(["check", path, "--on", scheduler, *more]) == 3
    said = capsys.readouterr().err
    assert (
        f"model: '{project}/hf' is here, and the ranks' container does not have it; name a folder that"
        in said
    )
    assert f"args.data.0: '{project}/data/a.txt' is here, and the ranks' container does not have it" in said
    assert "ranks see it as /data/a.txt" in said
    inside = f"{mount}, {json.dumps(str(project))}: {{host: {json.dumps(str(project))}, claim: project}}"
    (project / "here.yaml").write_text(IMAGE.format("deepspeed-train:1", inside))
    assert main.main(["check", path, "--on", scheduler, *more]) == 0, capsys.readouterr().err


@pytest.mark.heavy
def test_what_an_image_of_somebody_else_holds_is_not_known(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """/models/x may be in it, although it is here too; what lies below home or beside the job file is not."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    models_here = tmp_path / "models"
    models_here.mkdir()
    (models_here / "config.json").write_text(json.dumps(CONFIG))
    (project / "here.yaml").write_text(IMAGE.format("vendor/pytorch:1", ""))
    args = ARGS
    assert main.main(["check", write(project, model=str(models_here), args=args), "--on", "kubernetes"]) == 0
    capsys.readouterr()
    assert main.main(["check", write(project, args=args), "--on", "kubernetes"]) == 3
    assert "is here, and the ranks' container does not have it" in capsys.readouterr().err


def planned(path: str) -> Any:
    return shared.planner()(load.load(path).stages[0], {})


@pytest.mark.parametrize("runtime", ["pyxis", "apptainer", "charliecloud"])
def test_what_a_site_may_bind_of_its_own_accord_is_warned_of(runtime: str, project: Path) -> None:
    """As enroot's mounts.d and Apptainer's `bind path` do: the run is submitted."""
    image = IMAGE.replace("pyxis", runtime).format("deepspeed-train:1", "")
    (project / "here.yaml").write_text(image)
    plan = planned(write(project, args=ARGS))
    (warning,) = schedulers.warnings("slurm", plan)
    assert warning.message == f"model: '{project}/hf' is here, and the ranks' container does not have it"
    assert warning.place
    (project / "here.yaml").write_text(image.replace(runtime, "none"))
    assert schedulers.warnings("slurm", planned(write(project, args=ARGS))) == []


def test_what_a_patch_mounts_is_seen(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mounted = {"containers": [{"name": "node", "volumeMounts": [{"name": "nfs", "mountPath": str(project)}]}]}
    volumes = {"volumes": [{"name": "nfs", "nfs": {"server": "nfs.example.com", "path": "/export"}}]}
    patch = json.dumps({"spec": mounted | volumes})
    text = IMAGE.format("deepspeed-train:1", "") + f"kubernetes: {{pod_patch: {patch}}}\n"
    (project / "here.yaml").write_text(text)
    path = write(project, args=ARGS)
    assert main.main(["check", path, "--on", "kubernetes"]) == 0, capsys.readouterr().err


def test_the_root_is_nobodys_folder(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    monkeypatch.setenv("HOME", "/")
    (project / "here.yaml").write_text(IMAGE.format("deepspeed-train:1", ""))
    assert list(visible._own(planned(write(project, args=ARGS)))) == [project]


def test_who_has_no_home_is_told_what_is_wrong_with_the_job(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An arbitrary user of a pod has neither HOME nor a line in /etc/passwd."""
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    (project / "here.yaml").write_text(IMAGE.format("deepspeed-train:1", ""))
    assert main.main(["check", write(project, args=ARGS), "--on", "kubernetes"]) == 3
    assert "is here, and the ranks' container does not have it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"args": {**ARGS, "data": ["data/*.txt"]}}, "args.data.0"),
        ({"args": {**ARGS, "data": [{"path": "data/a.txt", "weight": 1}]}}, "args.data.0"),
        ({"checkpoint": {"resume": "./hf"}, "args": ARGS}, "checkpoint.resume"),
    ],
)
def test_patterns_mixtures_and_checkpoints_too(
    fields: dict[str, Any], named: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "here.yaml").write_text(IMAGE.format("deepspeed-train:1", ""))
    assert main.main(["check", write(project, **fields), "--on", "kubernetes"]) == 3
    assert f"{named}: '{project}/" in capsys.readouterr().err


def test_a_cache_that_a_run_here_has_left_is_none_of_the_pods_business(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "tokens").mkdir()
    (project / "here.yaml").write_text(IMAGE.format("deepspeed-train:1", ""))
    path = write(project, model="gpt2", args={**ARGS, "data-cache": "./tokens"})
    assert main.main(["check", path, "--on", "kubernetes"]) == 0, capsys.readouterr().err
