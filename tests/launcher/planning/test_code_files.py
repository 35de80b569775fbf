"""Which files of the user's own code travel: git's word, what is a secret, links, limits, and what is wrong."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from launcher.planning import code_files
from launcher.planning.code_files import Found
from tests import samples

if TYPE_CHECKING:
    from launcher.planning.code import Code

WEIRD = 'it\'s $(x) `y`\n"z" é'


def find(beside: Path, **fields: str | list[str]) -> Found:
    return code_files.find(samples.job(**fields), beside, str(beside / "runs"))


def sent(beside: Path, **fields: str | list[str]) -> Code:
    code, problem = find(beside, **fields)
    assert problem is None
    assert code
    return code


def why(beside: Path, **fields: str | list[str]) -> str:
    code, problem = find(beside, **fields)
    assert code is None
    assert problem
    return str(problem)


def put(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {name}\n")


def git(root: Path, *words: str) -> None:
    subprocess.run(["git", "-C", str(root), *words], check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "checkout"
    put(root, "jobs/job.yaml", "jobs/train.py", "pkg/__init__.py", "old.py")
    (root / ".gitignore").write_text("*.log\ndata/\n")
    git(root, "init", "-q")
    git(root, "add", ".")
    return root


def names(code: Code) -> list[str]:
    return [file.path for file in code.files]


def test_the_checkout_travels_as_it_is_now(checkout: Path) -> None:
    """Tracked and new files with uncommitted changes; nothing that is ignored, deleted, or git's own."""
    put(checkout, "new.py", "a.log", "data/big.bin", "runs/a-1/code/train.py")
    (checkout / "pkg/__init__.py").write_text("changed")
    (checkout / "old.py").unlink()
    code = sent(checkout / "jobs", workload="./train.py")
    assert (code.root, code.program) == (str(checkout), "jobs/train.py")
    made = [".gitignore", "jobs/job.yaml", "jobs/train.py", "new.py", "pkg/__init__.py"]
    assert [name for name in names(code) if not name.startswith("runs/")] == made
    assert {file.path: file.content for file in code.files}["pkg/__init__.py"] == b"changed"


def test_run_folders_are_no_code(checkout: Path) -> None:
    put(checkout, "jobs/runs/a-1/job.sh")
    assert "jobs/runs/a-1/job.sh" not in names(sent(checkout / "jobs", workload="./train.py"))


def test_paths_start_at_the_job_file(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_DIR", "/nonexistent")  # as a hook of another checkout has it
    code = sent(Path("checkout/jobs"), workload="train.py", code=".")
    assert (code.root, code.program, names(code)) == (
        str(checkout / "jobs"),
        "train.py",
        ["job.yaml", "train.py"],
    )
    assert sent(Path("checkout/jobs"), workload=str(checkout / "jobs/train.py")).root == str(checkout)


def test_a_script_that_git_ignores_travels_all_the_same(checkout: Path) -> None:
    put(checkout, "jobs/ignored.py", "data/own.py", "data/lib.py")
    (checkout / ".gitignore").write_text("ignored.py\ndata/\n")
    assert "jobs/ignored.py" in names(sent(checkout / "jobs", workload="./ignored.py"))
    # a folder that the checkout ignores is no part of it
    assert names(sent(checkout, workload="data/own.py")) == ["lib.py", "own.py"]


def test_a_folder_without_git(tmp_path: Path) -> None:
    put(tmp_path, "train.py", "lib/a.py", "lib/__pycache__/a.pyc", "b.pyc", "env/pyvenv.cfg", "env/bin/x")
    put(tmp_path, "node_modules/m.js", "runs/a-1/job.sh", f"{WEIRD}.txt")
    code = sent(tmp_path, workload="./train.py")
    assert code.root == str(tmp_path)
    assert names(code) == sorted(["train.py", "lib/a.py", f"{WEIRD}.txt"])


def test_names_that_are_no_text_and_modes(tmp_path: Path) -> None:
    put(tmp_path, "train.py", "run.sh")
    (tmp_path / "run.sh").chmod(0o755)
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.py")).write_text("")
    code = sent(tmp_path, workload="./train.py")
    assert "\udcff.py" in names(code)
    assert [file.path for file in code.files if file.executable] == ["run.sh"]


def test_secrets_do_not_travel_even_when_tracked(checkout: Path) -> None:
    hidden = [".env", ".env.local", "keys/a.pem", "id_rsa", ".aws/config", "x/.netrc", "kubeconfig"]
    put(checkout, *hidden, ".env.example")
    git(checkout, "add", "-f", ".")
    code = sent(checkout / "jobs", workload="./train.py")
    assert not set(hidden) & set(names(code))
    assert ".env.example" in names(code)
    assert sorted(code.left_out) == sorted(f"{name}: looks like a secret" for name in hidden)


def test_links_stay_links_and_lead_nowhere_else(checkout: Path) -> None:
    put(checkout, ".env")
    for name, target in {
        "inside": "pkg",
        "absolute": str(checkout / "pkg/__init__.py"),
        "outside": "/etc",
        "up": "../../x",
        "secret": ".env",
        "loop": "loop",
    }.items():
        (checkout / name).symlink_to(target)
    code = sent(checkout / "jobs", workload="./train.py")
    kept = {"inside": "pkg", "absolute": "pkg/__init__.py", "loop": "loop"}
    assert {f.path: f.link for f in code.files if f.link} == kept
    assert {what.partition(":")[0] for what in code.left_out} == {".env", "outside", "up", "secret"}


def test_the_script_may_be_a_link(tmp_path: Path) -> None:
    put(tmp_path, "elsewhere/real.py", "here/x.py")
    (tmp_path / "here/train.py").symlink_to(tmp_path / "elsewhere/real.py")
    code = sent(tmp_path / "here", workload="./train.py")
    assert {f.path: f.content for f in code.files}["train.py"] == b"# elsewhere/real.py\n"


def test_a_repository_inside(checkout: Path) -> None:
    put(checkout, "vendor/lib.py")
    git(checkout / "vendor", "init", "-q")
    code = sent(checkout / "jobs", workload="./train.py")
    assert "vendor/lib.py" in names(code)
    assert not [name for name in names(code) if ".git/" in name]


def test_a_checkout_that_git_does_not_read(checkout: Path) -> None:
    """Nothing travels then: without git's rules, what it ignores would."""
    (checkout / ".git/config").write_text("[core\n")
    said = why(checkout / "jobs", workload="./train.py")
    assert f"git does not say what belongs to {checkout}/jobs: bad config" in said
    assert "write `code: none`" in said


def test_too_much_names_the_largest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "train.py")
    monkeypatch.setattr(code_files, "MOST_BYTES", 5 * 2**20)
    (tmp_path / "weights.bin").write_bytes(bytes(6 * 2**20))
    said = why(tmp_path, workload="./train.py")
    assert "has more than 5 MiB" in said
    assert "weights.bin (6,291,456 bytes)" in said
    monkeypatch.setattr(code_files, "MOST_FILES", 1)
    assert "or 1 files" in why(tmp_path, workload="./train.py")


def test_large_code_is_not_read_while_planning(tmp_path: Path) -> None:
    put(tmp_path, "train.py")
    (tmp_path / "weights.bin").write_bytes(bytes(code_files.SMALL + 1))
    assert {file.content for file in sent(tmp_path, workload="./train.py").files} == {None}


def test_nothing_travels_of_ours_or_where_none_is_asked_for(tmp_path: Path) -> None:
    assert find(tmp_path, workload="pretrain") == Found()
    assert find(tmp_path, workload="/opt/train.py", code="none") == Found()
    assert "with `code: none` nothing brings it" in why(tmp_path, workload="./train.py", code="none")


@pytest.mark.parametrize(
    "words",
    [
        ["torchrun", "train.py"],
        ["llamafactory-cli", "train", "configs/a b.yaml"],
        ["python", "-m", "pkg.train", "positional"],
        ["python", "-u", "-m", "alone"],
    ],
)
def test_a_command_that_names_files_takes_its_folder_along(words: list[str], tmp_path: Path) -> None:
    put(tmp_path, "train.py", "configs/a b.yaml", "pkg/train.py", "alone.py", "job.yaml")
    code = sent(tmp_path, command=words)
    assert (code.root, code.program) == (str(tmp_path), "")
    assert "pkg/train.py" in names(code)
    assert find(tmp_path, command=words, code="none") == Found()


@pytest.mark.parametrize(
    "words", [["accelerate", "env"], ["python", "-m", "elsewhere.train"], ["/opt/x", "--flag", "x" * 5000]]
)
def test_a_command_that_names_none_sends_nothing(words: list[str], tmp_path: Path) -> None:
    put(tmp_path, "job.yaml", "train.py")
    assert find(tmp_path, command=words) == Found()
    assert names(sent(tmp_path, command=words, code=".")) == ["job.yaml", "train.py"]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["python", "../train.py"], "outside of the code that travels"),
        (["./ignored.py"], "a file that does not travel"),
        (["tool", ".env"], "a file that does not travel"),
    ],
)
def test_words_of_a_command_that_do_not_travel(words: list[str], reason: str, checkout: Path) -> None:
    put(checkout, "jobs/ignored.py", "jobs/.env", "train.py", "jobs/other.py")
    (checkout / ".gitignore").write_text("ignored.py\n")
    assert reason in why(checkout / "jobs", command=words)


def test_run_folders_behind_a_link_are_no_code_either(tmp_path: Path) -> None:
    put(tmp_path / "real", "train.py", "runs/a-1/plan.json")
    (tmp_path / "link").symlink_to("real")
    code, _ = code_files.find(
        samples.job(workload="./train.py"), tmp_path / "link", str(tmp_path / "link" / "runs")
    )
    assert code
    assert names(code) == ["train.py"]


def test_code_of_a_user_who_is_not_here(tmp_path: Path) -> None:
    put(tmp_path, "train.py")
    assert "cannot be read" in why(tmp_path, workload="./train.py", code="~nouser/x")


def test_code_beside_a_workload_of_ours(tmp_path: Path) -> None:
    put(tmp_path, "rewards.py")
    code = sent(tmp_path, workload="pretrain", code=".")
    assert (code.program, names(code)) == ("", ["rewards.py"])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"workload": "./absent.py"}, "'./absent.py' is not here; check the path, which starts at"),
        ({"workload": "/absent.py"}, "'/absent.py' is not here; check the path, or write `code: none`"),
        ({"workload": "./folder"}, "is a folder without a __main__.py; name a Python file in it"),
        ({"workload": "./pipe.py"}, "is no file"),
        ({"workload": "./train.py", "code": "absent"}, "code 'absent' is not here"),
        ({"workload": "./train.py", "code": "train.py"}, "code 'train.py' is no folder"),
        (
            {"workload": "./train.py", "code": "folder"},
            "code 'folder' does not hold workload './train.py'; name a folder that holds it",
        ),
        ({"workload": f"./{'x' * 300}.py"}, "File name too long"),
    ],
)
def test_what_is_wrong(fields: dict[str, str], words: str, tmp_path: Path) -> None:
    put(tmp_path, "train.py", "folder/a.py")
    os.mkfifo(tmp_path / "pipe.py")
    assert words in why(tmp_path, **fields)
