"""The copy of the user's code in a run folder, and its hash."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from launcher.errors import SubmitError
from launcher.planning import code_files
from launcher.submission import snapshot
from tests import samples

if TYPE_CHECKING:
    from collections.abc import Callable

    from launcher.planning.plan import Plan


def planned(tmp_path: Path, scheduler_fields: dict[str, object] | None = None) -> Plan:
    site = samples.SITE._replace(runs=str(tmp_path / "runs"))
    plan = samples.decided({"workload": "./train.py"}, **(scheduler_fields or {}))._replace(workspace=site)
    code, problem = code_files.find(plan.job, tmp_path / "own", site.runs)
    assert problem is None
    Path(plan.folder).mkdir(parents=True)
    return plan._replace(code=code)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    folder = tmp_path / "own"
    (folder / "a b").mkdir(parents=True)
    (folder / "train.py").write_text("old")
    (folder / "a b/it's.sh").write_bytes(b"\xff\0")
    (folder / "a b/it's.sh").chmod(0o700)
    (folder / "link").symlink_to("a b")
    return folder


@pytest.mark.parametrize("small", [True, False])
def test_the_copy_is_what_was_there(
    small: bool, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code_files, "SMALL", 2**20 if small else 0)
    plan = planned(tmp_path)
    snapshot.write(plan, "slurm")
    (own / "train.py").write_text("new")
    copy = Path(plan.folder) / "code"
    assert (copy / "train.py").read_text() == "old"
    assert (copy / "link").readlink() == Path("a b")
    assert (copy / "link/it's.sh").read_bytes() == b"\xff\0"
    assert (copy / "a b/it's.sh").stat().st_mode & 0o777 == 0o700, "what only its owner may read"
    facts = json.loads((Path(plan.folder) / "code.json").read_text())
    assert (facts["root"], facts["program"], facts["files"]) == (str(own), "train.py", 3)
    assert facts["paths"] == ["a b/it's.sh", "link", "train.py"]
    assert len(facts["sha256"]) == 64


def test_the_hash_is_of_names_modes_and_contents(own: Path, tmp_path: Path) -> None:
    changes: list[Callable[[], object]] = [
        lambda: None,
        lambda: None,
        lambda: (own / "train.py").write_text("other"),
        lambda: (own / "train.py").chmod(0o755),
        lambda: (own / "a b/it's.sh").rename(own / "a b/its.sh"),
    ]
    hashes = []
    for change in changes:
        change()
        plan = planned(tmp_path)
        assert plan.code
        hashes.append(snapshot.facts(plan.code, Path(plan.folder))["sha256"])
        Path(plan.folder).rmdir()
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 4


def test_a_file_that_is_gone_by_now(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_files, "SMALL", 0)
    plan = planned(tmp_path)
    (own / "train.py").unlink()
    with pytest.raises(SubmitError, match=r"train\.py cannot be copied into the run folder: No such file"):
        snapshot.write(plan, "local")


def test_on_kubernetes_the_run_folder_has_it_too(own: Path, tmp_path: Path) -> None:
    plan = planned(tmp_path)
    snapshot.write(plan, "kubernetes")
    assert sorted(path.name for path in Path(plan.folder).iterdir()) == ["code", "code.json"], "for rerun"


def test_a_foreign_image_gets_the_programs(own: Path, tmp_path: Path) -> None:
    plan = planned(tmp_path, {"image": "python:3.12", "slurm": {"container": "pyxis"}})
    snapshot.write(plan, "slurm")
    programs = Path(plan.folder) / "programs"
    assert {"node.py", "preflight.py", "exit_codes.json", "workloads"} <= {p.name for p in programs.iterdir()}
    assert not list(programs.rglob("__pycache__"))


def test_of_a_folder_that_is_no_utf8_the_facts_are_json(tmp_path: Path) -> None:
    home = tmp_path / os.fsdecode(b"caf\xe9")
    (home / "own").mkdir(parents=True)
    (home / "own" / "train.py").write_text("")
    plan = planned(home)
    snapshot.write(plan, "local")
    facts = json.loads((Path(plan.folder) / snapshot.FACTS).read_bytes())
    assert facts["root"] == str(home / "own")
