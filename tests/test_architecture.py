"""The folder list is the architecture: layers, and who may use what (pyproject.toml), and the two halves apart."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from launcher import ROOT, schedulers

IN_IMAGES = sorted((ROOT / "docker").rglob("*.py"))
EVERYWHERE = sorted([*(ROOT / "launcher").rglob("*.py"), *IN_IMAGES, *(ROOT / "tests").rglob("*.py")])
# Names that say nothing of what is inside.
VAGUE = {"utils", "util", "helpers", "helper", "base", "manager", "common", "core", "misc"}


def imported(path: Path) -> set[str]:
    """The top-level packages that a file imports, anywhere in it."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
    return {name.partition(".")[0] for name in names}


def test_imports_keep_the_contracts() -> None:
    words = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", IN_IMAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_in_the_images_stands_alone(path: Path) -> None:
    assert not imported(path) & {"launcher", "tests"}


def test_the_node_entry_needs_the_standard_library_alone() -> None:
    beside = {path.stem for path in (ROOT / "docker").glob("*.py")}
    seen, waiting = set(), {"node"}
    while waiting:
        seen |= waiting
        waiting = {
            name for own in waiting for name in imported(ROOT / "docker" / f"{own}.py") if name in beside
        } - seen
    foreign = {name for own in seen for name in imported(ROOT / "docker" / f"{own}.py")} - seen
    assert {"ending", "ranks", "rendezvous"} <= seen
    assert foreign <= set(sys.stdlib_module_names)


def test_names_say_what_is_inside() -> None:
    assert [path for path in EVERYWHERE if {path.stem, path.parent.name} & VAGUE] == []


@pytest.mark.parametrize("path", EVERYWHERE, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_says_what_it_is_for(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not text or ast.get_docstring(ast.parse(text)), "the first line says what the module owns"


@pytest.mark.parametrize("name", schedulers.SCHEDULERS)
def test_a_scheduler_has_the_functions_of_the_protocol(name: str) -> None:
    module = schedulers.load(name)
    for verb in ("render", "submit", "status", "logs", "cancel"):
        wanted = list(inspect.signature(getattr(schedulers.Scheduler, verb)).parameters)[1:]
        assert list(inspect.signature(getattr(module, verb)).parameters) == wanted
    assert set(schedulers.ALIASES.values()) <= set(schedulers.SCHEDULERS)
