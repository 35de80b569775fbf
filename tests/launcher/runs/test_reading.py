"""Nothing that lies below a run folder holds a command up: what is no file, and what is too large for a record."""

from __future__ import annotations

import collections
import os
import resource
import signal
from typing import TYPE_CHECKING, Any

import pytest

from launcher.errors import RunNotFoundError
from launcher.runs import badhosts, diagnosis, lock, logs, measuring, metrics, reading, record
from launcher.runs.status import Selection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def limit() -> Iterator[None]:
    """A test that would wait for a FIFO's other end fails instead."""
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it waits"))
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def fifo(path: Path) -> None:
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.mkdir()


def circle(path: Path) -> None:
    path.symlink_to(path)


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(3 * 2**30)


READERS: dict[str, tuple[str, Callable[[Path], Any], Any]] = {
    "exit code": ("exit_code", lambda run: logs.exit_code(run), None),
    "hosts": ("hostfile", lambda run: logs.host_names(run), []),
    "failure": ("outcome-0", lambda run: logs.failure(run), None),
    "lock": ("lock.json", lambda run: lock.read(run), {}),
    "fabric": ("plan.json", lambda run: diagnosis.is_fast(run), False),
    "probe": ("probe.json", lambda run: measuring.probe_text(measuring.Folder("p", run, {})), None),
    "bad hosts": (badhosts.NAME, lambda runs: badhosts.current(runs), []),
}


@pytest.mark.parametrize("kind", [fifo, folder, circle, huge])
@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_record_says_nothing(reader: str, kind: Callable[[Path], None], tmp_path: Path) -> None:
    name, read, nothing = READERS[reader]
    kind(tmp_path / name)
    assert read(tmp_path) == nothing


@pytest.mark.parametrize("kind", [fifo, folder, circle])
def test_logs_and_measurements(kind: Callable[[Path], None], tmp_path: Path) -> None:
    kind(tmp_path / metrics.FILE)
    kind(tmp_path / "job.log")
    assert metrics.read(tmp_path) == ([], 0)
    assert logs.tail(tmp_path / "job.log") == []


@pytest.mark.parametrize(
    ("kind", "why"),
    [(fifo, "Not a regular file"), (folder, "Is a directory"), (huge, "More than 16,777,216 bytes")],
)
def test_a_run_that_cannot_be_read_hides_no_other(
    kind: Callable[[Path], None], why: str, tmp_path: Path
) -> None:
    (tmp_path / "broken").mkdir()
    kind(tmp_path / "broken" / record.RECORD)
    every, broken = record.listed(tmp_path)
    assert every == []
    assert broken == [f"{tmp_path}/broken/run.json cannot be read: {why}"]
    with pytest.raises(RunNotFoundError, match=why):
        record.read_json(tmp_path / "broken" / record.RECORD)


def test_a_record_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes("it's é\r\n".encode() + b"\xff")
    assert reading.text(tmp_path / "text", errors="replace") == "it's é\r\n\N{REPLACEMENT CHARACTER}"


@pytest.mark.heavy
def test_what_is_larger_than_memory_is_read_in_pieces(tmp_path: Path) -> None:
    """256 MiB without a line's end are no record, and are not held at once; the records behind them are read."""
    (tmp_path / "logs").mkdir()
    for name in (metrics.FILE, "logs/job.log"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(2**28)
            file.seek(2**28)
            file.write(b'\n{"step": 1, "loss": 2}\n{"step": 2')
    run = record.Run("r", "local", "1:1", tmp_path, 0.0, 1, 1, {})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    records, end = metrics.read(tmp_path)
    assert [one.step for one in records] == [1]
    assert end == (tmp_path / metrics.FILE).stat().st_size - len(b'{"step": 2')
    shown = collections.deque(logs.lines(run, Selection(), lambda: "SUCCEEDED"), maxlen=2)
    assert [line.removeprefix("job: ") for line in shown] == ['{"step": 1, "loss": 2}', '{"step": 2']
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024  # KiB
