"""The README is true: its commands run, its links resolve, and its tree is the one on disk."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from launcher import ROOT

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
COMMANDS = [
    line for block in BLOCKS for line in block.splitlines() if line.strip() and not line.startswith("#")
]
LAUNCHER = [c for c in COMMANDS if c.startswith("python -m launcher ")]
MAKE = [c for c in COMMANDS if c.startswith("make ")]
# What starts something for good is tried as a dry run here; tests/launcher/schedulers and tests/real/slurm run it.
STARTS = re.compile(r"^python -m launcher (local|slurm|kubernetes) ")


def test_every_command_is_of_a_kind_that_is_tested() -> None:
    assert LAUNCHER
    assert not [c for c in COMMANDS if c not in LAUNCHER and c not in MAKE]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, str]]:
    """A run to name in place of RUN, and the environment in which it is found."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "own.py").write_text("print('hello')\n")
    env = {**os.environ, "LAUNCHER_RUNS": str(folder / "runs")}
    words = [
        "local",
        "jobs/quickstart.yaml",
        "--wait",
        "--set",
        f"workload={folder}/own.py",
        "--set",
        "args={}",
    ]
    subprocess.run([sys.executable, "-m", "launcher", *words], cwd=ROOT, env=env, check=True)
    made = next((folder / "runs").iterdir())
    (made / "checkpoints").mkdir()
    return made.name, env


@pytest.mark.heavy
@pytest.mark.parametrize("command", LAUNCHER)
def test_command(command: str, run: tuple[str, dict[str, str]]) -> None:
    name, env = run
    words = shlex.split(command.replace("RUN", name), comments=True)[1:]
    if STARTS.match(command) and "--dry-run" not in words:
        words = [w for w in words if w != "--wait"] + ["--dry-run"]
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout or "cancel" in words


@pytest.mark.parametrize("command", MAKE)
def test_make_target_exists(command: str) -> None:
    words = shlex.split(command, comments=True)
    done = subprocess.run([*words, "--dry-run"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_links_resolve() -> None:
    for path in [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *ROOT.glob("docker/*.md"),
        *ROOT.glob("jobs/**/*.md"),
        *ROOT.glob("templates/**/*.md"),
    ]:
        text = path.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
            if "://" not in target:
                assert (path.parent / target).exists(), f"{path}: {target}"


def tree() -> dict[Path, str]:
    """Path → caption of the README's tree block. An entry that ends in `/` stands for all below it."""
    block = re.search(r"^## The tree\n.*?^```\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    assert block, "the README has no tree"
    found: dict[Path, str] = {}
    stack: list[str] = []
    for line in block[1].splitlines():
        match = re.match(r"( *)(\S+)\s+(\S.*)", line)
        assert match, f"no caption: {line!r}"
        depth = len(match[1]) // 2
        stack[depth:] = [match[2]]
        found[Path(*stack)] = match[3]
    return found


def test_tree_is_the_one_on_disk() -> None:
    """Each folder, and each folder below it, has its line; deeper ones are known by their parents."""
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    files = [Path(name) for name in done.stdout.splitlines() if not name.startswith(".")]
    folders = {Path(*path.parts[:depth]) for path in files for depth in (1, 2) if len(path.parts) > depth}
    assert set(tree()) == folders
