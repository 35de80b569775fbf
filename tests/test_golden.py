"""What is rendered: equal to the golden files, and valid by the tools that will read it."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests import golden
from tests.launcher.schedulers.kubernetes import schemas

# Tests are named after the files that are kept; what is rendered now is only known once the first of them runs.
KEPT = sorted(path for path in golden.GOLDEN.rglob("*") if path.is_file())
SCRIPTS = [p for p in KEPT if p.suffix == ".sh"]
MANIFESTS = [p for p in KEPT if p.name == "manifest.yaml"]
rendered = functools.cache(golden.rendered)


@functools.cache
def documents(path: Path) -> list[dict[str, Any]]:
    return list(YAML(typ="safe", pure=True).load_all(path.read_text(encoding="utf-8")))


def name(path: Path) -> str:
    return str(path.relative_to(golden.GOLDEN))


@pytest.mark.parametrize("path", KEPT, ids=name)
def test_equals_golden(path: Path) -> None:
    assert path in rendered(), "nothing renders it any more: run `make golden`"
    assert rendered()[path] == path.read_text(encoding="utf-8")


def test_all_that_is_rendered_has_its_golden() -> None:
    assert set(rendered()) == set(KEPT), "run `make golden` and review it"


@pytest.mark.heavy
@pytest.mark.parametrize("path", SCRIPTS, ids=name)
def test_script_is_valid_shell(path: Path) -> None:
    subprocess.run(["bash", "-n", path], check=True)
    done = subprocess.run(
        [Path(sys.executable).with_name("shellcheck"), "--shell=bash", path], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("version", [schemas.OLDEST, "1.34", schemas.NEWEST])
@pytest.mark.parametrize("path", MANIFESTS, ids=name)
def test_manifest_fits_the_schema(path: Path, version: str) -> None:
    runs = {"Job", "LeaderWorkerSet"}  # the second is a custom resource, which test_manifests.py judges
    assert {"ConfigMap", "Service"} <= {d["kind"] for d in documents(path)}
    assert len([d for d in documents(path) if d["kind"] in runs]) == 1
    for document in (d for d in documents(path) if d["kind"] != "LeaderWorkerSet"):
        assert schemas.problems(document, version) == []
