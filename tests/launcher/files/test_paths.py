"""Paths in a job file: from any folder the same files, for ranks that start elsewhere and for whoever resumes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from launcher import workloads
from launcher.cli import main
from launcher.files import paths
from launcher.sizing import models
from tests import samples

CONFIG = {
    "model_type": "gpt2",
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 2,
    "vocab_size": 300,
    "n_positions": 128,
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a job, its model and its data; the current folder is another one, with data of its own."""
    folder = tmp_path / "pro ject"
    (folder / "hf").mkdir(parents=True)
    (folder / "hf" / "config.json").write_text(json.dumps(CONFIG))
    (folder / "data").mkdir()
    (folder / "data" / "a.txt").write_text("text")
    (folder / "here.yaml").write_text("slots: 2\nfabric: loopback\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "b.txt").write_text("text")
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("LAUNCHER_RUNS", str(tmp_path / "runs"))
    return folder


def write(project: Path, **fields: Any) -> str:
    job = {"name": "a", "cluster": "here.yaml", "model": "./hf", "batch": {"micro": 1}} | fields
    (project / "job.yaml").write_text(json.dumps(job))
    return str(project / "job.yaml")


def test_a_relative_path_starts_at_the_job_files_folder_else_at_the_current_one(project: Path) -> None:
    data = [
        "data/a.txt",
        "data/*.txt",
        "b.txt",
        "absent.txt",
        "builtin",
        "/data/x",
        {"path": "./data", "weight": 1},
    ]
    job = samples.job(model="./hf", args={"data": data, "tokenizer": "bpe:512", "lr": 0.1, "task": "b.txt"})
    found = paths.absolute(job, project)
    assert found.model == f"{project}/hf"
    assert found.args["data"] == [
        f"{project}/data/a.txt",
        f"{project}/data/*.txt",
        f"{Path.cwd()}/b.txt",
        "absent.txt",
        "builtin",
        "/data/x",
        {"path": f"{project}/data", "weight": 1},
    ]
    assert {key: found.args[key] for key in ("tokenizer", "lr", "task")} == {
        "tokenizer": "bpe:512",
        "lr": 0.1,
        "task": "b.txt",
    }


@pytest.mark.parametrize("name", ["gpt2", "org/model", "https://x/y", "", "~nobody-here/x"])
def test_names_are_no_paths(name: str, project: Path) -> None:
    assert paths.model(name, project) == name


def test_a_name_of_the_table_is_no_folder(project: Path) -> None:
    (project / "gpt2").mkdir()
    assert "gpt2" in models.named()
    assert paths.model("gpt2", project) == "gpt2"
    for rule in workloads.reward_rules():
        (project / rule).mkdir()
        job = samples.job(args={"reward": rule})
        assert paths.absolute(job, project) is job


def test_home_and_links_are_kept_as_they_are_written(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(project))
    (project / "link").symlink_to(project / "hf")
    assert paths.model("~/hf", Path("/")) == f"{project}/hf"
    assert paths.model("data/../link", project) == f"{project}/link"
    assert paths.model("./absent", project) == f"{project}/absent", "it is named where it was looked for"


def test_a_checkpoint_of_ones_own(project: Path) -> None:
    job = samples.job(checkpoint={"resume": "./old/checkpoints"})
    assert paths.absolute(job, project).checkpoint.resume == f"{project}/old/checkpoints"
    job = samples.job(checkpoint={"resume": "run-1"})
    assert paths.absolute(job, project) is job


def test_the_same_from_every_folder(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(project, args={"data": ["data/a.txt"], "seq-length": 64, "lr": 0.1, "max-steps": 1})
    scripts = []
    for folder in (Path.cwd(), project, Path("/")):
        monkeypatch.chdir(folder)
        assert main.main(["local", path, "--dry-run"]) == 0
        scripts.append(capsys.readouterr().out)
    assert f"--model={project}/hf" in scripts[0].replace("'", "")
    assert f"{project}/data/a.txt" in scripts[0]
    assert len(set(scripts)) == 1


def test_a_program_of_ones_own_has_its_words_and_its_memory_is_estimated(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "train.py").write_text("")
    path = write(project, workload="./train.py", args={"data": "data/a.txt", "seq-length": 64})
    assert main.main(["plan", path, "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["memory"]["per_slot"]["total"] > 0
    assert main.main(["local", path, "--dry-run"]) == 0
    script = capsys.readouterr().out
    assert "--data=data/a.txt" in script
    assert '"MODEL": {"value": "./hf"}' in script


def test_a_link_before_two_dots_leads_where_it_leads(project: Path, tmp_path: Path) -> None:
    """Home folders and experiments are often links."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "exp").symlink_to(project)
    (tmp_path / "beside.txt").write_text("text")
    beside = tmp_path / "home" / "exp"
    job = samples.job(args={"data": ["../beside.txt", "../bes*.txt", "./data/a.txt"]})
    found, pattern, plain = paths.absolute(job, beside).args["data"]
    assert found == f"{tmp_path}/beside.txt"
    assert pattern == f"{tmp_path}/bes*.txt"
    assert plain == f"{beside}/data/a.txt"


def test_a_cache_that_ranks_make_is_one_place_before_and_after(project: Path) -> None:
    job = samples.job(args={"data-cache": "tokens"})
    assert paths.absolute(job, project).args["data-cache"] == f"{project}/tokens"
    assert [keys for keys, _ in paths.named(job)] == [("job", "model")]


@pytest.mark.parametrize("option", ["tokenizer", "reward"])
def test_a_folder_that_is_called_like_a_name_of_the_hub_is_none_of_its_kind(
    option: str, project: Path
) -> None:
    (project / "org" / "name").mkdir(parents=True)
    job = samples.job(args={option: "org/name"})
    assert paths.absolute(job, project) is job
    assert paths.model("org/name", project) == "org/name"
    (project / "org" / "name" / "config.json").write_text("{}")
    assert paths.absolute(job, project).args[option] == f"{project}/org/name"
    assert paths.model("org/name", project) == f"{project}/org/name"


def test_no_option_that_names_a_file_is_forgotten() -> None:
    """By its metavar; a folder on each host's own disk, and what the launcher sets, are not this machine's."""
    named: set[str] = set()
    for name in workloads.names():
        ours, theirs = workloads._options(workloads.parser(name))
        files = {o for o, action in theirs.items() if action.metavar in {"SOURCE", "FILE", "DIR"}}
        named |= files - ours
    assert named - {"scratch"} == set(paths.OPTIONS) - {"tokenizer", "reward"}
