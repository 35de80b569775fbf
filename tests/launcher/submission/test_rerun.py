"""A run once more gives the same losses, bit for bit; what is gone or has changed is said before it starts."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from typing import TYPE_CHECKING

import pytest

from launcher.runs import lock
from tests import commandline

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

OWN = "import os; print('seed', os.environ['SEED'], flush=True)\n"
JOB = """\
name: own
cluster: laptop
workload: {program}
batch: {{micro: 1}}
args: {{data: {data}, tag: 007}}
env: {{SEED: "5", HF_TOKEN: {{secret: hf-token}}}}
"""


class User:
    """Somebody with a program, data and a secret, in a folder with a blank and a quote in its name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "it's here"
        self.runs = self.folder / "runs"
        (self.folder / ".secrets").mkdir(parents=True)
        (self.folder / ".secrets" / "hf-token").write_text("hf_notforanyoneseyes")
        (self.folder / "own.py").write_text(OWN)
        (self.folder / "corpus.txt").write_text("text")
        program, data = (json.dumps(str(self.folder / name)) for name in ("own.py", "corpus.txt"))
        (self.folder / "job.yaml").write_text(JOB.format(program=program, data=data))
        self.env = {**os.environ, "LAUNCHER_RUNS": str(self.runs), "HOME": str(self.folder)}

    def launcher(self, words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        return commandline.launcher(shlex.split(words), self.env, code)

    def submit(self, *settings: str) -> str:
        words = " ".join(shlex.quote(w) for s in settings for w in ("--set", s))
        self.launcher(f"local {shlex.quote(str(self.folder / 'job.yaml'))} --wait {words}")
        (run,) = (path.name for path in self.runs.iterdir())
        return run


@pytest.fixture
def user(tmp_path: Path) -> User:
    return User(tmp_path)


def test_the_same_once_more(user: User) -> None:
    run = user.submit()
    user.launcher(f"rerun {run} --wait")
    again = f"{run}-2"
    assert "seed 5" in user.launcher(f"logs {again} --rank 0").stdout
    scripts = [(user.runs / name / "job.sh").read_text() for name in (run, again)]
    assert scripts[1].replace(again, run) == scripts[0]
    told = json.loads(user.launcher(f"compare {run} {again} --json").stdout)
    assert told["differences"] == []
    assert lock.read(user.runs / again)["hosts"] == ["127.0.0.1"]
    assert "hf_notforanyoneseyes" not in (user.runs / again / lock.FILE).read_text()
    # of the run once more, once more: the third of the same plan
    assert user.launcher(f"rerun {again}").stdout.strip() == f"{run}-3"


def test_a_code_snapshot_is_taken_along(user: User) -> None:
    run = user.submit()
    (user.folder / "own.py").write_text("raise SystemExit('edited since')")
    for again in (f"{run}-2", f"{run}-3"):
        user.launcher(f"rerun {run} --wait")
        assert (user.runs / again / "code" / "own.py").read_text() == OWN
    (user.folder / "own.py").unlink()
    (user.runs / f"{run}-2" / "code" / "out.txt").write_text("what a rank wrote into its folder")
    user.launcher(f"rerun {run}-2 --wait")
    assert not (user.runs / f"{run}-4" / "code" / "out.txt").exists()


def code_of(user: User) -> Path:
    (run,) = user.runs.iterdir()
    return run / "code"


# A setting, what happens, and what is said of it; with `code: none` the program stays where it is.
GONE: dict[str, tuple[str, Callable[[User], object], str]] = {
    "program": ("code=none", lambda user: (user.folder / "own.py").unlink(), "its program is gone: "),
    "code": ("code=.", lambda user: shutil.rmtree(code_of(user)), "its code is gone: "),
    "data": ("code=.", lambda user: (user.folder / "corpus.txt").unlink(), "args.data is gone: "),
}
CHANGED: dict[str, tuple[str, Callable[[User], object], str]] = {
    "program": (
        "code=none",
        lambda user: (user.folder / "own.py").write_text(OWN + "#"),
        "code.program has changed: ",
    ),
    "code": (
        "code=.",
        lambda user: (code_of(user) / "own.py").write_text(OWN + "#"),
        "code.snapshot has changed: ",
    ),
    "data": ("code=.", lambda user: (user.folder / "corpus.txt").write_text("other"), "has changed: 4 bytes"),
}


@pytest.mark.parametrize("what", GONE)
def test_what_is_gone_is_named(what: str, user: User) -> None:
    setting, remove, message = GONE[what]
    run = user.submit(setting)
    remove(user)
    for force in ("", "--force"):
        said = user.launcher(f"rerun {run} {force}", code=3).stderr
        assert f"{run}: {message}" in said
    assert [path.name for path in user.runs.iterdir()] == [run], "nothing is left behind"


@pytest.mark.parametrize("what", CHANGED)
def test_what_has_changed_is_named(what: str, user: User) -> None:
    setting, change, message = CHANGED[what]
    run = user.submit(setting)
    change(user)
    said = user.launcher(f"rerun {run}", code=3).stderr
    assert message in said
    assert "or add --force" in said
    assert [path.name for path in user.runs.iterdir()] == [run], "nothing is left behind"
    forced = user.launcher(f"rerun {run} --force --wait")
    assert message in forced.stderr


def test_a_plan_that_is_none(user: User) -> None:
    run = user.submit()
    for text in ("[]", '"x"', '{"cluster": null}'):
        (user.runs / run / "plan.json").write_text(text)
        assert "is not one that this launcher reads" in user.launcher(f"rerun {run}", code=3).stderr


def test_a_run_without_a_lock_is_not_run_again(user: User) -> None:
    run = user.submit()
    (user.runs / run / lock.FILE).unlink()
    assert "has no lock.json" in user.launcher(f"rerun {run}", code=5).stderr


@pytest.mark.deepspeed
def test_the_same_losses_bit_for_bit(user: User) -> None:
    settings = ("args.max-steps=50", "args.log-every=1", "args.seq-length=32", "checkpoint.every=100")
    words = " ".join(f"--set {s}" for s in settings)
    user.launcher(f"local jobs/quickstart.yaml --wait {words} --set 'batch={{micro: 1}}'")
    (run,) = (path.name for path in user.runs.iterdir())
    user.launcher(f"rerun {run} --wait")
    told = json.loads(user.launcher(f"compare {run} {run}-2 --json").stdout)
    assert told["differences"] == []
    assert (told["loss"]["steps"], told["loss"]["parts_at_step"]) == (50, None)
