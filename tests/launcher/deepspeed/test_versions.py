"""Keys are checked against the DeepSpeed that the ranks have, 0.16 to 0.19, and which that is is said."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

from launcher import ROOT
from launcher.cli import main
from launcher.deepspeed import config, keys, versions
from launcher.planning import workspace
from tests import deepspeed_keys, samples

if TYPE_CHECKING:
    from pathlib import Path

FILE = json.loads((ROOT / "launcher" / "deepspeed" / "versions.json").read_text(encoding="utf-8"))


def messages(version: str, overrides: dict[str, Any]) -> list[str]:
    return [str(problem) for _, problem in keys.problems(overrides, "pretrain", version)]


def test_there_is_a_table_of_each_minor_version_that_people_run() -> None:
    assert list(FILE) == ["0.16", "0.17", "0.18"]
    assert versions.ours().version.startswith("0.19.")
    for minor, entry in FILE.items():
        assert entry["version"].startswith(f"{minor}.")
        assert versions.table(f"{minor}.0").version == entry["version"]


@pytest.mark.parametrize("minor", FILE)
def test_a_table_differs_from_ours_by_what_is_written(minor: str) -> None:
    theirs = versions.table(minor).keys
    assert deepspeed_keys.difference(versions.ours().keys, theirs) == FILE[minor]["keys"]


@pytest.mark.parametrize(
    ("overrides", "since"),
    [
        ({"zero_optimization": {"zenflow": {"topk_ratio": 0.1}}}, "0.17"),
        ({"torch_autocast": {"enabled": True}}, "0.17"),
        ({"bf16": {"check_grad_overflow": True}}, "0.17"),
        ({"bf16": {"bf16_optimizer_states": True}}, "0.18"),
        ({"zero_optimization": {"offload_optimizer": {"super_offload": True}}}, "0.18"),
        ({"gradient_allreduce_op": "sum"}, "0.19"),
    ],
)
def test_a_key_is_known_since_it_is_there(overrides: dict[str, Any], since: str) -> None:
    for version in ("0.16.9", "0.17.6", "0.18.9", "0.19.8", ""):
        old = version != "" and version.rpartition(".")[0] < since
        assert bool(messages(version, overrides)) == old, version


def test_what_was_removed_is_known_before() -> None:
    removed = {"sparse_gradients": True, "zero_optimization": {"mics_shard_size": 8}}
    assert messages("0.18.9", removed) == []
    assert len(messages("0.19.8", removed)) == 2
    one_bit = {"optimizer": {"type": "OneBitAdam"}}
    assert messages("0.18.9", one_bit) == []
    assert messages("0.19.8", one_bit)
    assert messages("0.16.9", {"optimizer": {"type": "Muon"}})
    assert messages("0.18.9", {"optimizer": {"type": "Muon"}}) == []


@pytest.mark.parametrize("version", ["0.16.9", "0.17.6", "0.18.9"])
@pytest.mark.parametrize("name", config.presets())
def test_presets_have_keys_of_every_version(name: str, version: str) -> None:
    assert messages(version, config.preset(name)) == []


def test_what_they_are_checked_against_is_said() -> None:
    assert versions.note("") == versions.note("0.19.2") == ""
    assert versions.note("0.18.2").startswith("DeepSpeed's keys are checked against 0.18.9")
    assert versions.note("0.12") == (
        f"there is no table of DeepSpeed 0.12: its keys are checked against {versions.ours().version}"
    )


def test_the_version_of_the_interpreter(tmp_path: Path) -> None:
    decided = samples.decided()
    decided = decided._replace(workspace=decided.workspace._replace(python=f"{tmp_path}/bin/python"))
    assert workspace.deepspeed_note(decided) == ""
    (tmp_path / "lib/python3.12/site-packages/deepspeed-0.17.2.dist-info").mkdir(parents=True)
    assert "has DeepSpeed 0.17.2, and keys are checked against 0.19" in workspace.deepspeed_note(decided)
    said = samples.cluster(deepspeed_version="0.17.2")
    assert workspace.deepspeed_note(decided._replace(cluster=said)) == ""


def test_the_version_of_the_python_that_the_cluster_names(tmp_path: Path) -> None:
    for home, version in (("ours", "0.17.2"), ("theirs", "0.16.9")):
        (tmp_path / home / "bin").mkdir(parents=True)
        (tmp_path / home / "bin" / "python").symlink_to(sys.executable)
        (tmp_path / home / f"lib/python3.12/site-packages/deepspeed-{version}.dist-info").mkdir(parents=True)
    decided = samples.decided(python=str(tmp_path / "theirs"))
    decided = decided._replace(workspace=decided.workspace._replace(python=f"{tmp_path}/ours/bin/python"))
    assert f"{tmp_path}/theirs/bin/python has DeepSpeed 0.16.9" in workspace.deepspeed_note(decided)


def test_the_version_of_the_cluster_file_or_of_the_image(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = f"{samples.JOB}deepspeed: {{preset: zero1, gradient_allreduce_op: sum}}\n"
    (tmp_path / "job.yaml").write_text(job)
    (tmp_path / "here.yaml").write_text(samples.CLUSTER)
    path = str(tmp_path / "job.yaml")
    assert main.main(["plan", path]) == 0
    assert main.main(["plan", path, "--set", "cluster.deepspeed_version=0.18"]) == 2
    assert (
        "job.yaml:5:28: deepspeed.gradient_allreduce_op: DeepSpeed 0.18.9 has no such key"
        in capsys.readouterr().err
    )
    image = {
        "flavour": "cpu",
        "cuda": "",
        "ops": {},
        "cpu_level": "",
        "compiler": True,
        "deepspeed": "0.17.1",
    }
    (tmp_path / "here.image.json").write_text(json.dumps(image))
    assert main.main(["plan", path]) == 2
    (tmp_path / "job.yaml").write_text(samples.JOB)
    capsys.readouterr()
    assert main.main(["plan", path]) == 0
    assert "note: DeepSpeed's keys are checked against 0.17.6" in capsys.readouterr().err
