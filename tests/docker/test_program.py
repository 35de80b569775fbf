"""Programs of the user's own (docker/program.py, processes.py, team.py): words, variables, signals."""

from __future__ import annotations

import importlib
import json
import signal
import subprocess
import sys
import venv
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.docker import entries

if TYPE_CHECKING:
    from collections.abc import Callable

DUMP = "import json, os, sys; print(json.dumps([sys.argv[1:], dict(os.environ)]))"
ASKED = """
import os, signal, sys, time
from pathlib import Path
def ready(word):
    Path(f"{word}.tmp").touch(); Path(f"{word}.tmp").rename(word)
"""


def start(job: entries.Job, index: int, *options: str, words: list[str], **env: str) -> None:
    """Host `index` of a job whose ranks run `words`."""
    job.write_hostfile()
    entry = job.command(index, "", *options)[: -len(["--", "-c", ""])]
    with job.path(index, "out").open("wb") as out, job.path(index, "err").open("wb") as err:
        job.entries[index] = subprocess.Popen(
            [*entry, "--", *words], cwd=job.folder, stdout=out, stderr=err, env={**entries.CLEAN, **env}
        )


def dumped(job: entries.Job, rank: int) -> tuple[list[str], dict[str, str]]:
    words, env = json.loads(job.log(rank))
    return words, env


def test_a_command_gets_its_names_and_finds_this_python(new_job: Callable[..., entries.Job]) -> None:
    job, hostile = new_job(hosts=2, slots=2), "it's $(touch pwned) `x` $1\n"
    words = ["python", "-c", DUMP, "--out=$RUN_DIR/${RANK}", "$$RANK", hostile, "$WORLD_SIZE $MASTER_ADDR"]
    options = ("--program", "--names-from=0")
    for index in range(2):
        start(job, index, *options, words=words, RUN_DIR="/r u n", PYTHONPATH="/mine", PATH="/usr/bin:/bin")
    assert job.codes() == [0, 0], job.said(0)
    for rank in range(4):
        got, env = dumped(job, rank)
        assert got == [f"--out=/r u n/{rank}", "$RANK", hostile, "4 127.0.0.1"]
        assert env["PATH"].split(":")[0] == str(Path(sys.executable).parent)
        hook, own = env["PYTHONPATH"].split(":")  # docker/on_signal.py, and the job's
        assert (Path(hook).name, own) == ("python", "/mine")
        assert (env["NNODES"], env["NODE_RANK"], env["NPROC_PER_NODE"]) == ("2", str(rank // 2), "2")
        assert env["HOSTFILE"] == str(job.hostfile)
    assert not (job.folder / "pwned").exists()


def test_words_before_the_first_with_names_are_left_alone(new_job: Callable[..., entries.Job]) -> None:
    job = new_job()
    script = job.folder / "$RANK $HOME.py"
    script.write_text(DUMP)
    start(job, 0, "--names-from=1", words=[str(script), "$RANK"])
    assert job.codes() == [0], job.said(0)
    assert dumped(job, 0)[0] == ["0"]


def test_one_process_a_host_has_what_launchers_read(new_job: Callable[..., entries.Job]) -> None:
    job = new_job(hosts=2, slots=3)
    options = ("--program", "--names-from=0", "--processes=host")
    for index in range(2):
        words = ["python", "-c", DUMP, "$WORLD_SIZE", "$NODE_RANK"]
        start(job, index, *options, words=words, PET_NNODES="9", RANK="7", WORLD_SIZE="7")
    assert job.codes() == [0, 0], job.said(0)
    for index, rank in enumerate((0, 3)):
        got, env = dumped(job, rank)
        assert got == ["6", str(index)]
        for prefix in ("", "PET_"):
            names = ("NNODES", "NODE_RANK", "NPROC_PER_NODE", "MASTER_ADDR")
            assert [env[prefix + name] for name in names] == ["2", str(index), "3", "127.0.0.1"]
        assert env["PET_MASTER_PORT"] == env["MASTER_PORT"]
        assert env["FORCE_TORCHRUN"] == "1"
        assert not {"RANK", "LOCAL_RANK", "WORLD_SIZE"} & set(env)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["no-such-program"], "no-such-program is not on this host (PATH="),
        (["./folder"], "./folder cannot be started"),
        (["python", "$HOME"], "$HOME has no value here"),
    ],
)
def test_a_program_that_cannot_be_started_is_named(
    words: list[str], said: str, new_job: Callable[..., entries.Job]
) -> None:
    job = new_job()
    (job.folder / "folder").mkdir()
    start(job, 0, "--program", "--names-from=0", words=words)
    assert job.codes() != [0]
    assert said in job.said(0)


def test_ranks_have_the_python_that_the_cluster_names(new_job: Callable[..., entries.Job]) -> None:
    job = new_job()
    folder = job.folder / "own env"
    venv.create(folder, symlinks=True)
    start(job, 0, f"--python={folder}", words=["-c", f"import sys; sys.argv[1:] = [sys.prefix]; {DUMP}"])
    assert job.codes() == [0], job.said(0)
    words, env = dumped(job, 0)
    assert words == [env["VIRTUAL_ENV"]] == [str(folder)]
    assert f"node: python {folder}/bin/python\n" in job.said(0)
    missing = new_job()
    start(missing, 0, f"--python={folder}x", words=["-c", "1"])
    assert missing.codes() == [64]
    assert f"python {folder}x: there is no {folder}x on this host" in missing.said(0)


@pytest.mark.parametrize("name", ["USR1", "TERM", "USR2"])
@pytest.mark.parametrize("processes", ["slot", "host"])
def test_ranks_get_the_signal_that_the_job_names(
    name: str, processes: str, new_job: Callable[..., entries.Job]
) -> None:
    """Also those that a launcher starts in sessions of their own, and only once they have a handler."""
    job = new_job()
    rank = (
        f"{ASKED}\nready('started')\nwhile not Path('go-on').exists(): time.sleep(0.01)\n"
        f"signal.signal(signal.SIG{name}, lambda *_: sys.exit(75)); time.sleep(600)"
    )
    launcher = (
        f"import subprocess, sys; words = [sys.executable, '-c', {rank!r}]\n"
        "sys.exit(subprocess.run(words, start_new_session=True).returncode)"
    )
    words = ["python", "-c", rank if processes == "slot" else launcher]
    start(job, 0, "--program", "--names-from=0", f"--processes={processes}", f"--signal={name}", words=words)
    entries.until((job.folder / "started").exists, "the rank has started")
    job.entries[0].send_signal(signal.SIGUSR2)
    job.go_on()
    assert job.codes() == [75], job.said(0)


def test_sigterm_goes_to_the_handler_that_there_is(new_job: Callable[..., entries.Job]) -> None:
    job = new_job()
    rank = (
        f"{ASKED}\nsignal.signal(signal.SIGUSR1, lambda *_: sys.exit(75)); ready('started'); time.sleep(600)"
    )
    start(job, 0, "--program", "--names-from=0", "--signal=USR1", words=["python", "-c", rank])
    entries.until((job.folder / "started").exists, "the rank has started")
    job.entries[0].send_signal(signal.SIGTERM)
    assert job.codes() == [75], job.said(0)


@pytest.mark.parametrize(("saved", "code"), [(True, 75), (False, 143)])
def test_a_program_that_goes_on_is_put_back_if_it_has_checkpoints(
    saved: bool, code: int, new_job: Callable[..., entries.Job]
) -> None:
    job = new_job(hosts=2)
    (job.folder / "checkpoints").mkdir()
    (job.folder / "checkpoints" / "step-1").touch() if saved else None
    options = ("--names-from=1", "--signal=none", "--requeue-after=0.5")
    for index in range(2):
        start(job, index, *options, words=["-c", entries.SLEEP])
    pids = job.ranks()
    for index in range(2):
        job.entries[index].send_signal(signal.SIGUSR2)
    assert job.codes() == [code, code], job.said(0)
    assert not any(map(entries.lives, pids))
    assert "the walltime is near" in job.said(0) + job.said(1)


@pytest.mark.parametrize("end", [0, 1])
def test_any_end_after_the_signal_is_to_be_continued(end: int, new_job: Callable[..., entries.Job]) -> None:
    """Hugging Face's Trainer returns after its checkpoint, and torchrun ends with 1 whatever its ranks end with."""
    job = new_job()
    (job.folder / "checkpoints" / "checkpoint-5").mkdir(parents=True)
    rank = f"{entries.READY}\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit({end})); ready(); time.sleep(600)"
    start(job, 0, "--names-from=1", "--signal=TERM", "--requeue-after=60", words=["-c", rank])
    job.ranks()
    job.entries[0].send_signal(signal.SIGUSR2)
    assert job.codes() == [75]


def test_nothing_of_a_launcher_is_left_behind(new_job: Callable[..., entries.Job]) -> None:
    """It dies without ending its ranks, which lead sessions of their own."""
    job = new_job()
    rank = f"{ASKED}\nPath('pid').write_text(str(os.getpid())); ready('started'); time.sleep(600)"
    launcher = (
        f"{ASKED}\nimport subprocess\nsubprocess.Popen([sys.executable, '-c', {rank!r}], start_new_session=True)\n"
        "while not Path('started').exists(): time.sleep(0.01)\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    start(job, 0, "--program", "--names-from=0", "--processes=host", words=["python", "-c", launcher])
    assert job.codes() == [137], job.said(0)
    assert not entries.lives(int((job.folder / "pid").read_text()))


def test_a_process_that_ends_while_it_is_looked_at_has_no_children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "is_dir", lambda _: True)  # it was there a moment ago
    gone = 2**22 + 1  # above the largest process id of Linux
    assert list(importlib.import_module("processes").children(gone)) == []
