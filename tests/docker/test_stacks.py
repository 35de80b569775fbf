"""The stacks of real processes: Pythons that listen, others that must not be harmed, and the user's sitecustomize."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import processes
import pytest
import stacks
import verdict

from tests.docker import entries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SPIN = "print('up', flush=True)\ndef spin():\n    sum(range(10**13))\nspin()\n"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    variables = stacks.variables(tmp_path, entries.CLEAN)

    def begin(*words: str, **more: str) -> subprocess.Popen[bytes]:
        env = {**entries.CLEAN, **variables, **more}
        started.append(subprocess.Popen(words, stdout=subprocess.PIPE, env=env))
        assert started[-1].stdout
        assert started[-1].stdout.readline() == b"up\n"
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.wait(entries.LIMIT)


def test_an_endless_loop_in_c_answers(start: Callable[..., subprocess.Popen[bytes]], tmp_path: Path) -> None:
    script = tmp_path / "spin.py"
    script.write_text(SPIN)
    process = start(sys.executable, str(script))
    entries.until(lambda: "in spin" in stacks.take([process.pid], tmp_path)[process.pid].text, "it spins")
    for _ in range(2):  # the second time what came before is no part of it
        taken = stacks.take([process.pid], tmp_path)[process.pid]
        (frames,) = stacks.with_source(verdict.parse(taken.text))
        assert [frame.function for frame in frames] == ["spin", "<module>"]
        assert frames[0].text == "sum(range(10**13))"
        assert taken.why == ""
    assert process.poll() is None


@pytest.mark.parametrize(
    "words",
    [
        (sys.executable, "-I", "-c", SPIN),
        (sys.executable, "-S", "-c", SPIN),
        ("sh", "-c", "echo up; while :; do sleep 1; done"),
    ],
)
def test_others_are_not_harmed(
    words: tuple[str, ...],
    start: Callable[..., subprocess.Popen[bytes]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no py-spy
    process = start(*words)
    taken = stacks.take([process.pid], tmp_path)[process.pid]
    assert taken.text == ""
    assert "py-spy" in taken.why
    assert process.poll() is None


@pytest.mark.heavy
def test_of_a_script_the_program_is_looked_at_that_it_has_started(
    start: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    (tmp_path / "spin.py").write_text(SPIN)
    beside = f"{sys.executable} -c 'import time; time.sleep(600)' &"
    process = start("sh", "-c", f"{beside} {sys.executable} {tmp_path / 'spin.py'}; kill $!")
    entries.until(lambda: "in spin" in stacks.take([process.pid], tmp_path)[process.pid].text, "it spins")
    taken = stacks.take([process.pid], tmp_path)[process.pid]
    assert taken.pid != process.pid
    assert taken.program.startswith("python")
    for one in processes.children(process.pid):
        processes.kill(one, 9)


def test_of_a_script_of_other_programs_the_one_that_it_waits_for(
    start: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "fifo")
    process = start("sh", "-c", f"echo up; cat {tmp_path / 'fifo'}; true")

    def program() -> str:
        return stacks.take([process.pid], tmp_path)[process.pid].program

    entries.until(lambda: program() == "cat", "it waits")
    os.close(os.open(tmp_path / "fifo", os.O_RDWR))


@pytest.mark.heavy
def test_a_stopped_process_is_told_as_such(
    start: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    process = start(sys.executable, "-c", SPIN)
    os.kill(process.pid, 19)
    entries.until(lambda: processes.state(process.pid) == "T", "it is stopped")
    taken = stacks.take([process.pid], tmp_path)[process.pid]
    assert (taken.state, taken.text, taken.why) == ("T", "", "it did not answer the signal")


def test_a_process_that_is_gone(tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait(entries.LIMIT)
    assert stacks.take([gone.pid], tmp_path)[gone.pid].state == ""


def test_the_users_own_sitecustomize_is_imported(
    start: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "sitecustomize.py").write_text("MINE = True\n")
    program = (
        "import sitecustomize, sys; assert sitecustomize.MINE; "
        f"assert {str(tmp_path / 'python')!r} not in sys.path; print('up', flush=True); import time; time.sleep(600)"
    )
    process = start(sys.executable, "-c", program, PYTHONPATH=f"{tmp_path / 'python'}:{own}")
    assert processes.catches(process.pid, stacks.NUMBER)


def test_a_program_without_the_folder_starts_all_the_same(tmp_path: Path) -> None:
    stacks.variables(tmp_path, {})
    env = {**entries.CLEAN, "PYTHONPATH": str(tmp_path / "python"), stacks.VARIABLE: "nonsense"}
    done = subprocess.run([sys.executable, "-c", "print('up')"], env=env, capture_output=True)
    assert (done.stdout, done.stderr) == (b"up\n", b"")


def test_no_folder_no_stacks(tmp_path: Path) -> None:
    assert stacks.variables(tmp_path / "gone", {}) == {}


def test_what_takes_too_long_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert stacks.within(0.1, lambda: (tmp_path / "fifo").read_text(), "otherwise") == "otherwise"
    os.close(os.open(tmp_path / "fifo", os.O_RDWR))  # lets the thread go
    assert stacks.within(60, lambda: "done", "otherwise") == "done"


def test_py_spys_words() -> None:
    native = {"filename": "/lib/libc.so.6", "line": 0, "name": "nanosleep", "module": "/lib/libc.so.6"}
    thread = {
        "thread_id": 7,
        "frames": [native, {"filename": "/a.py", "line": 3, "name": "f", "module": None}],
    }
    text = stacks._as_faulthandler(thread)
    assert '  Native "/lib/libc.so.6" in nanosleep\n' in text
    assert verdict.parse(text) == ((verdict.Frame("/a.py", 3, "f"),),)


NATIVE = """
import ctypes
# Yama lets a user look only into processes of one's own making, but for those that allow it: prctl(2), PR_SET_PTRACER
ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_ulong(-1), 0, 0, 0)
print("up", flush=True)
def sleeping():
    ctypes.CDLL(None).sleep(600)
sleeping()
"""


@pytest.mark.heavy
def test_py_spy_sees_native_code_where_no_signal_is_heard(
    start: Callable[..., subprocess.Popen[bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real py-spy, of a Python that does not listen."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    monkeypatch.setenv("PATH", path)
    process = start(sys.executable, "-I", "-c", NATIVE)
    entries.until(lambda: "sleeping" in stacks.take([process.pid], tmp_path)[process.pid].text, "it is seen")
    taken = stacks.take([process.pid], tmp_path)[process.pid]
    assert taken.why == ""
    assert [frame.function for frame in verdict.parse(taken.text)[0]] == ["sleeping", "<module>"]
    native, _, _ = taken.text.partition("in sleeping")
    assert "libc" in native, "the frames below Python come before"
    assert process.poll() is None
