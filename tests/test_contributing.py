"""What a contributor is told is true: CONTRIBUTING.md, the pre-commit hooks and the changelog."""

from __future__ import annotations

import re
import subprocess
from typing import Any

import pytest
from imagebuild import check
from packaging.requirements import Requirement
from ruamel.yaml import YAML

from launcher import ROOT, __version__

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
TARGETS = sorted(set(re.findall(r"(?:^|`)make ([a-z-]+)", TEXT, re.MULTILINE)))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
CHANGES = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("target", TARGETS)
def test_the_target_exists(target: str) -> None:
    done = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_files_that_it_names_exist() -> None:
    names = re.findall(
        r"`((?:launcher|tests|docker|jobs)/[\w./-]+|[A-Z]+\.md|\.pre-commit-config\.yaml)`", TEXT
    )
    assert len(names) > 10
    assert [name for name in names if not (ROOT / name).exists()] == []


def test_it_fits_on_a_page() -> None:
    assert len(TEXT.splitlines()) <= 90


def test_its_layers_are_the_contract() -> None:
    block = re.search(
        r"^layers = \[(.*?)^\]", (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    assert block
    contract = re.findall(r"[a-z_]+", block[1])
    said = re.search(r"```\n(cli .*?)```", TEXT, re.DOTALL)
    assert said
    assert ["__main__", *re.findall(r"[a-z_]+", said[1])] == contract


def test_hooks_are_local_and_run_what_make_check_runs() -> None:
    config: dict[str, Any] = YAML(typ="safe", pure=True).load(ROOT / ".pre-commit-config.yaml")
    (repository,) = config["repos"]
    assert repository["repo"] == "local"
    commands = [hook["entry"] for hook in repository["hooks"]]
    assert len(commands) >= 5
    recipe = MAKEFILE.replace("$(BIN)", ".venv/bin").replace(" --check .", "")
    assert [command for command in commands if f"\t{command}" not in recipe] == []


def test_the_changelog_has_this_version_and_known_sections() -> None:
    versions = re.findall(r"^## \[(.+?)\](?: - (\d{4}-\d\d-\d\d))?$", CHANGES, re.MULTILINE)
    assert len(versions) == len(re.findall("^## ", CHANGES, re.MULTILINE))
    dated = [version for version, date in versions if date]
    assert dated[0] == __version__
    assert [version for version, date in versions if not date] in ([], ["Unreleased"])
    sections = set(re.findall(r"^### (\w+)$", CHANGES, re.MULTILINE))
    assert sections <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_tests_train_with_the_torch_of_the_cpu_image() -> None:
    """Without the bound `make install` downloads 3 GB of a build for CUDA, with which nothing was tried."""
    (bound,) = re.findall(r"^torch.*", (ROOT / "tests" / "constraints.txt").read_text("utf-8"), re.MULTILINE)
    held = check.pins(check.HERE / "requirements" / "torch-cpu.txt")["torch"]
    assert held in Requirement(bound).specifier
    assert "--constraint tests/constraints.txt" in MAKEFILE
