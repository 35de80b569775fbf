"""The README is true: its commands run in the order of the page, its links resolve, its tree is the one on disk."""

from __future__ import annotations

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
ACTIVATE = ". .venv/bin/activate"
# What starts something for good is tried as a dry run here; tests/launcher/schedulers and tests/real/slurm run it.
STARTS = re.compile(r"^python -m launcher (local|slurm|kubernetes) ")


def test_every_command_is_of_a_kind_that_is_tested() -> None:
    assert LAUNCHER
    assert not [c for c in COMMANDS if c not in LAUNCHER and c not in MAKE and not c.startswith(ACTIVATE)]


def test_what_the_first_command_needs_stands_before_it() -> None:
    first = COMMANDS.index(LAUNCHER[0])
    assert [c.split("  ")[0] for c in COMMANDS[:first]][:2] == ["make install", ACTIVATE]


def typed(command: str, program: Path) -> str:
    """A command as a shell gets it here: what submits for good is tried as a dry run, or with a short program."""
    words = shlex.split(command, comments=True)
    text = command.partition("  #")[0].replace("RUN", '"$RUN"').replace("DEST", '"$HOME/dest"')
    if not STARTS.match(command) or "--dry-run" in words:
        return text
    if "--wait" in words:
        return f"{text} --set workload={program} --set args={{}}"
    return f"{text} --dry-run"


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str, str]]:
    """Command → exit code, stdout and stderr, after one fresh shell got all of them in the order of the page."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "own.py").write_text("print('hello')\n")
    activate = ROOT / ".venv" / "bin" / "activate"
    lines = [f"cd {shlex.quote(str(ROOT))}"]
    # where the tests run in another environment than the page's, its programs come first instead
    lines += [ACTIVATE if activate.exists() else f"PATH={Path(sys.executable).parent}:$PATH"]
    for number, command in enumerate(LAUNCHER):
        out = folder / str(number)
        lines += [f"{typed(command, folder / 'own.py')} >{out}.out 2>{out}.err; echo $? >{out}.code"]
        if "--wait" in command:
            lines += ['RUN=$(ls "$LAUNCHER_RUNS"); mkdir "$LAUNCHER_RUNS/$RUN/"{checkpoints,export}']
    env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(folder), "LAUNCHER_RUNS": str(folder / "runs")}
    subprocess.run(["bash", "--norc", "-c", "\n".join(lines)], env=env, check=False, timeout=600)
    return {
        command: (
            int((folder / f"{number}.code").read_text()),
            (folder / f"{number}.out").read_text(),
            (folder / f"{number}.err").read_text(),
        )
        for number, command in enumerate(LAUNCHER)
    }


@pytest.mark.heavy
@pytest.mark.parametrize("command", LAUNCHER)
def test_command(command: str, session: dict[str, tuple[int, str, str]]) -> None:
    code, out, err = session[command]
    assert code == 0, err
    assert out or err


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
        *ROOT.glob("launcher/**/*.md"),
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
    """Each folder at the top, and each one directly below it, has its line."""
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    files = [Path(name) for name in done.stdout.splitlines() if not name.startswith(".")]
    folders = {Path(*path.parts[:depth]) for path in files for depth in (1, 2) if len(path.parts) > depth}
    assert set(tree()) == folders
