"""How a run ends (docker/supervisor.py): failures, lost hosts and signals, over several hosts."""

from __future__ import annotations

import importlib
import os
import queue
import signal
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tests.docker import entries

if TYPE_CHECKING:
    from collections.abc import Callable


ending = importlib.import_module("ending")
events = importlib.import_module("events")
links = importlib.import_module("links")
ranks = importlib.import_module("ranks")
supervisor = importlib.import_module("supervisor")


def supervised(folder: Path, index: int = 0, done: list[Any] | None = None) -> Any:
    """The supervisor of one of two hosts; what its ranks and the other host would get goes to `done`."""
    done = [] if done is None else done
    send = lambda **message: done.append(message["type"])  # noqa: E731
    peers = links.Peers(["n1", "n2"], links={1 - index: SimpleNamespace(send=send)})
    found = supervisor.Supervisor(
        ranks=SimpleNamespace(signal=done.append),
        peers=peers,
        host=f"n{index + 1}",
        outcome=ending.Outcome(folder / "outcome-0"),
        events=queue.SimpleQueue(),
        run_events=events.of(folder, index, "0"),
        say=lambda _: None,
        hang=SimpleNamespace(watched=SimpleNamespace(silence=600.0)),
        decision=SimpleNamespace(code=lambda failure, wanted: failure.code),
    )
    found.unfinished.update(peers.links)
    return found


# How a run ends.


@pytest.mark.parametrize(("code", "seconds"), [(1, 10), (ending.LOST, 3), (ending.STALLED, 3)])
def test_ranks_that_can_save_nothing_have_less_time(
    code: int, seconds: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A spare waits to take over, and a rank that hangs does not hear that it should leave."""
    here = supervised(tmp_path)
    monkeypatch.setattr("time.monotonic", lambda: 100.0)
    here._fail(ending.Failure(code, -1, "n2"))
    assert here.deadline == 100 + seconds


def test_the_first_host_decides_with_which_code_another_ones_failure_ends(tmp_path: Path) -> None:
    """A scheduler that knows codes alone must not see the raw one of the host that failed."""
    here = supervised(tmp_path, index=1)
    failure = {"code": 1, "rank": 1, "host": "n2"}
    here._fail(ending.Failure(**failure))
    assert here.code == 1
    here._handle(ranks.Heard(0, {"type": "failed", **failure, "ends": ending.NOT_CURED}))
    assert here.code == ending.NOT_CURED
    assert not here.unfinished


@pytest.mark.parametrize("others", [entries.SLEEP, entries.READ], ids=["sleep", "read"])
def test_the_first_failure_ends_every_host_with_its_code(
    others: str, new_job: Callable[..., entries.Job]
) -> None:
    job = new_job(hosts=3)
    for index, program in enumerate((others, entries.WAIT + "; sys.exit(3)", others)):
        job.start(index, program, grace=10 * entries.LIMIT)  # that nothing may wait for
    pids = job.ranks()
    job.go_on()
    assert job.codes() == [3, 3, 3]
    assert job.outcome() == (3, 1, "127.0.0.2")
    assert not any(map(entries.lives, pids))
    for index in range(3):
        assert "node: rank 1 on 127.0.0.2 ended with 3\n" in job.said(index)


def test_the_first_host_decides_which_failure_was_the_first(new_job: Callable[..., entries.Job]) -> None:
    """Two hosts fail before either hears of the other: all end with what the first host heard first."""
    job = new_job(hosts=3)
    first = job.start(0, entries.SLEEP)
    for index, code in ((1, 5), (2, 3)):
        job.start(index, entries.READY + f"ready(); wait_for('fail-{index}'); sys.exit({code})")
    job.ranks()
    first.send_signal(signal.SIGSTOP)
    for index, code in ((1, 5), (2, 3)):
        (job.folder / f"fail-{index}").touch()
        said = f"rank {index} on 127.0.0.{index + 1} ended with {code}"
        entries.until(lambda index=index, said=said: said in job.said(index), said)  # type: ignore[misc]
    first.send_signal(signal.SIGCONT)
    assert job.codes() == [5, 5, 5]
    assert job.outcome() == (5, 1, "127.0.0.2")


def test_a_run_folder_that_does_not_answer_keeps_no_rank_from_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[Any] = []
    answer = threading.Event()

    def hangs(*_: Any) -> None:
        if not answer.wait(entries.LIMIT):
            done.append("waited")

    monkeypatch.setattr(ending.Outcome, "_write", hangs)
    monkeypatch.setattr(events, "_append", hangs)
    for module in (events, supervisor):
        monkeypatch.setattr(module, "_WRITING", 0.01)
    supervised(tmp_path, done=done)._handle(ranks.Stalled(1, "n2", of_host=False, why=""))
    answer.set()
    assert done == ["failed", signal.SIGTERM]


def test_the_first_outcome_stays(tmp_path: Path) -> None:
    outcome = ending.Outcome(tmp_path / "outcome-0")
    for code in (3, 1):
        outcome.write(ending.Failure(code, 2, "n1"))
    assert outcome.path.read_text().startswith("3 2 n1 ")
    ending.Outcome(tmp_path / "no-such-folder" / "outcome-0").write(
        ending.Failure(3, 2, "n1")
    )  # and no error


def test_a_rank_that_does_not_leave_is_killed(new_job: Callable[..., entries.Job]) -> None:
    """It, and what it started, after its grace."""
    job = new_job(hosts=2)
    child = (
        "import subprocess; c = subprocess.Popen(['sleep', '600']); Path('child').write_text(str(c.pid))\n"
    )
    job.start(0, entries.READY + child + entries.STUBBORN, grace=0.5)
    job.start(1, entries.WAIT + "; sys.exit(3)", grace=0.5)
    pids = job.ranks()
    job.go_on()
    assert job.codes() == [3, 3]
    pids.append(int((job.folder / "child").read_text()))
    entries.until(lambda: not any(map(entries.lives, pids)), "no process is left")


def test_a_rank_that_is_killed(new_job: Callable[..., entries.Job]) -> None:
    job = new_job(hosts=2)
    job.start(0, entries.SLEEP)
    job.start(1, entries.WAIT + "; os.kill(os.getpid(), 9)")
    job.ranks()
    job.go_on()
    assert job.codes() == [137, 137]
    assert job.outcome() == (137, 1, "127.0.0.2")


def test_saved_is_waited_for(new_job: Callable[..., entries.Job]) -> None:
    """Nobody is told to stop when one rank has saved: the others are about to, at their own pace."""
    job = new_job(hosts=2)
    job.start(0, entries.WAIT + "; sys.exit(75)", grace=0.1)
    job.start(
        1,
        entries.READY + entries.NOTE + "ready(); wait_for('saved'); print('saved', got); sys.exit(75)",
        grace=0.1,
    )
    job.ranks()
    job.go_on()
    entries.until(lambda: "rank 0 on 127.0.0.1 ended with 75" in job.said(1), "the second host heard of it")
    (job.folder / "saved").touch()
    assert job.codes() == [75, 75]
    assert job.log(1) == b"saved []\n"
    assert job.outcome() == (75, 0, "127.0.0.1")


@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_host_is_named(lost: int, new_job: Callable[..., entries.Job]) -> None:
    job = new_job(hosts=3)
    job.start_all(entries.SLEEP)
    pids = job.ranks()
    job.entries[lost].kill()
    codes = job.codes()
    assert codes.pop(lost) == -9
    assert codes == [70, 70]
    assert job.outcome() == (70, -1, job.hosts[lost])
    for index in {0, 1, 2} - {lost}:
        assert f"node: lost {job.hosts[lost]}\n" in job.said(index)
    entries.until(lambda: not any(map(entries.lives, pids)), "no rank is left, not on the lost host either")


@pytest.mark.parametrize("early", [0, 1])
def test_a_host_that_is_done_first_is_not_lost(early: int, new_job: Callable[..., entries.Job]) -> None:
    job = new_job(hosts=3)
    for index in range(3):
        job.start(index, entries.READY + "ready()" if index == early else entries.WAIT)
    pids = job.ranks()
    entries.until(lambda: not entries.lives(pids[early]), "the first is done")
    job.go_on()
    assert job.codes() == [0, 0, 0]
    assert job.outcome() == (0, -1, "127.0.0.1")
    assert not any("lost" in job.said(index) for index in range(3))


@pytest.mark.parametrize("early", [0, 1])
def test_a_host_that_is_done_hears_of_a_late_failure(early: int, new_job: Callable[..., entries.Job]) -> None:
    job = new_job(hosts=3)
    for index in range(3):
        job.start(
            index,
            {early: entries.READY + "ready()", 2: entries.WAIT + "; sys.exit(3)"}.get(index, entries.WAIT),
        )
    pids = job.ranks()
    entries.until(lambda: not entries.lives(pids[early]), "the first is done")
    job.go_on()
    codes = job.codes()
    assert (codes[early], codes[2]) == (3, 3)


def test_ranks_that_cannot_start(new_job: Callable[..., entries.Job]) -> None:
    job = new_job(hosts=2)
    (job.folder / "logs/rank-1.log").mkdir(parents=True)
    job.start_all(entries.SLEEP)
    assert job.codes() == [71, 71]
    assert "node: error: the ranks cannot be started: [Errno 21] Is a directory" in job.said(1)
    assert "node: 127.0.0.2 ended with 71\n" in job.said(0)


def test_the_outcome_of_an_earlier_try_is_forgotten(new_job: Callable[..., entries.Job]) -> None:
    """Kubernetes starts the pods of a run again with the same words."""
    job = new_job(hosts=2)
    for code in (3, 4):
        job.start_all(f"import sys; sys.exit({code} if __import__('os').environ['RANK'] == '1' else 0)")
        assert job.codes() == [code, code]
        assert job.outcome() == (code, 1, "127.0.0.2")


# Signals.


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR2"])
def test_a_signal_reaches_every_rank_once(name: str, new_job: Callable[..., entries.Job]) -> None:
    job = new_job(slots=3)
    entry = job.start(0, entries.READY + entries.NOTE + "ready(); wait_for('go-on'); print(len(got))")
    job.ranks()
    for count in (1, 2):
        entry.send_signal(signal.Signals[name])
        job.ranks(f"{name}{count}")
    job.go_on()
    assert job.codes() == [0]
    assert [job.log(rank) for rank in range(3)] == [b"2\n"] * 3


def test_ctrl_c_is_sigterm_for_the_ranks(new_job: Callable[..., entries.Job]) -> None:
    job = new_job(slots=2)
    entry = job.start(0, entries.READY + entries.NOTE + "ready(); wait_for('go-on'); print(got)")
    job.ranks()
    entry.send_signal(signal.SIGINT)
    job.ranks("SIGTERM1")
    job.go_on()
    assert job.codes() == [0]
    assert job.log(0) == b"[15]\n"


def test_the_signal_to_save_waits_for_a_handler(new_job: Callable[..., entries.Job]) -> None:
    """Slurm sends it to every process of a step at once: a rank that still imports must live, and get it later."""
    job = new_job(slots=2)
    late = (
        entries.READY
        + "ready(); wait_for('go-on')"
        + entries.NOTE
        + "wait_for(f'SIGUSR21-{rank}'); sys.exit(75)"
    )
    entry = job.start(0, late)
    for pid in [*job.ranks(), entry.pid]:
        os.kill(pid, signal.SIGUSR2)
    job.go_on()
    assert job.codes() == [75]


def test_a_rank_that_cannot_save_is_left_alone(new_job: Callable[..., entries.Job]) -> None:
    job = new_job()
    entry = job.start(0, entries.WAIT)
    job.ranks()
    entry.send_signal(signal.SIGUSR2)
    entry.send_signal(signal.SIGUSR2)
    job.go_on()
    assert job.codes() == [0]


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130), ("SIGUSR2", 75)])
def test_a_signal_before_the_ranks_start(name: str, code: int, new_job: Callable[..., entries.Job]) -> None:
    job = new_job(hosts=2)
    entry = job.start(0, entries.SLEEP)
    entries.until(lambda: "waiting at" in job.said(0), "the first host waits")
    entry.send_signal(signal.Signals[name])
    assert job.codes() == [code]
    assert job.said(0).endswith(f"node: error: {name} came before the ranks were started\n")
    assert job.outcome()[:2] == (code, -1)


# In a container.


@entries.in_namespaces
def test_as_the_first_process_of_a_container(new_job: Callable[..., entries.Job]) -> None:
    """PID 1 gets no signal that it has no handler for, and must bury the orphans of its ranks."""
    job = new_job()
    orphan = """
if os.fork() == 0:
    if os.fork() == 0:
        while os.getppid() != 1: time.sleep(0.01)
        ready("orphan")
    os._exit(0)
os.wait()
while not (path := Path(f"orphan-{rank}")).exists() or Path("/proc", path.read_text()).exists(): time.sleep(0.01)
"""
    leave = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(75)); ready(); time.sleep(600)"
    around = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
    outer = job.start(0, entries.READY + orphan + leave, around=around)
    job.ranks()
    (first,) = Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split()
    assert int(job.log_head(0).rpartition(" pid ")[2]) < 10, "numbers begin anew; threads take some"
    os.kill(int(first), signal.SIGTERM)
    assert job.codes() == [75]
    assert job.outcome() == (75, 0, "127.0.0.1")
