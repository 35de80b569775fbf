"""Runs one input in a process of its own, in an empty folder, with limits on memory and time.

Owns what the launcher may reach: nothing is started, nobody is signalled, no socket is connected, and what would be
written outside of the folder is refused and kept for the verdict. Programs that are asked are stand-ins.

The process is forked from one that has imported the launcher already, so an input costs some 20 ms of a core.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import gc
import io
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.cli import main as cli_main

if TYPE_CHECKING:
    from tests.fuzz.commands import Input

SECONDS, MEMORY = 10, 300 * 2**20  # above this a command hangs, or takes too much
PATIENCE = 6 * SECONDS  # by the clock on a busy machine, where SECONDS count the processor's
OUTPUT = 64 * 2**20
STARTS = {"os.posix_spawn", "os.fork", "os.forkpty", "os.exec", "os.system", "pty.spawn"}
CHANGES = {
    "os.mkdir",
    "os.rmdir",
    "os.remove",
    "os.rename",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
    "shutil.rmtree",
}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass(frozen=True)
class Outcome:
    """How a process ended: `code` is negative for a signal; `trespasses` is what was refused to it.

    `left` is what stands in the folder that was not there before, or not so; memory in bytes above the start.
    """

    code: int
    out: str
    err: str
    seconds: float
    memory: int
    left: tuple[str, ...]
    trespasses: tuple[str, ...]


def run(given: Input) -> Outcome:
    """What becomes of `given`."""
    with tempfile.TemporaryDirectory(prefix="fuzz-", ignore_cleanup_errors=True) as name:
        folder = Path(name).resolve()
        _lay(given, folder)
        before = _contents(folder)
        out, err, told = (os.memfd_create(word) for word in ("out", "err", "told"))
        gc.freeze()
        pid = os.fork()
        if not pid:
            _child(given, folder, (out, err, told))
        code, usage = _await(pid)
        after = _contents(folder)
        texts = [_text(descriptor) for descriptor in (out, err, told)]
    left = tuple(sorted(path for path, content in after.items() if before.get(path) != content))
    first, _, rest = texts[2].partition("\n")
    memory = usage.ru_maxrss * 1024 - int(first or 0)
    return Outcome(
        code, texts[0], texts[1], usage.ru_utime + usage.ru_stime, memory, left, tuple(rest.splitlines())
    )


def _lay(given: Input, folder: Path) -> None:
    for name, content in given.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    for name, target in given.links.items():
        if not (folder / name).exists():
            (folder / name).symlink_to(target)


def _contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Path → size and time of change, of all below `folder` but folders."""
    found = {}
    for root, _, names in os.walk(folder):
        for name in names:
            told = os.lstat(f"{root}/{name}")
            found[os.path.relpath(f"{root}/{name}", folder)] = (told.st_size, told.st_mtime_ns)
    return found


def _text(descriptor: int) -> str:
    with os.fdopen(descriptor, "rb") as file:
        file.seek(0)
        return file.read(OUTPUT).decode("utf-8", "replace")


def _await(pid: int) -> tuple[int, resource.struct_rusage]:
    """Exit code, or the negative signal, and what was used."""
    handle = os.pidfd_open(pid)
    try:
        if not select.select([handle], [], [], PATIENCE)[0]:
            os.kill(pid, signal.SIGKILL)
    finally:
        os.close(handle)
    _, status, usage = os.wait4(pid, 0)
    return os.waitstatus_to_exitcode(status), usage


def _child(given: Input, folder: Path, ends: tuple[int, int, int]) -> None:
    """Never returns."""
    code = 71
    atexit._clear()  # those of the process that this one is a copy of
    try:
        os.setsid()
        os.chdir(folder)
        os.write(ends[2], b"%d\n" % (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))
        _environment(given, folder)
        _limit(ends[1])
        _streams(given, ends)
        _Walls(folder, ends[2], given).stand()
        code = _call(list(given.words))
        atexit._run_exitfuncs()  # libraries remove their temporary files
    except BaseException:
        with contextlib.suppress(BaseException):
            os.write(ends[2], f"sandbox: {traceback.format_exc()!r}\n".encode())
    finally:
        os._exit(
            code if isinstance(code, int) else 71
        )  # whatever happened, this is not the process of the tests


def _call(words: list[str]) -> int:
    """The exit code as Python's own end would give it: 120 where a stream cannot be emptied."""
    try:
        code = cli_main.main(words)
    except SystemExit as error:
        code = int(error.code or 0)
    except BaseException:  # Python itself would print it and end with 1
        traceback.print_exc()
        code = 1
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream:
                stream.flush()
        except (OSError, ValueError):
            code = 120 if code == 0 else code
    return code


def _environment(given: Input, folder: Path) -> None:
    os.environ.clear()
    os.environ.update(
        {
            "PATH": f"{folder}/bin",
            "HOME": str(folder),
            "KUBECONFIG": f"{folder}/absent",
            **given.environment,
        }
    )
    tempfile.tempdir = str(folder)  # it was looked up before this process was forked


def _limit(report: int) -> None:
    size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (OUTPUT, OUTPUT))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    faulthandler.register(signal.SIGPROF, file=os.dup(report), all_threads=False, chain=True)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)


def _streams(given: Input, ends: tuple[int, int, int]) -> None:
    """0, 1 and 2 as the input wants them, and Python's streams over them."""
    targets: list[int | None] = [None if given.stdin is None else _filled(given.stdin)]
    for state, kept in zip(given.streams, ends, strict=False):
        if state == "gone":
            reader, writer = os.pipe()
            os.close(reader)
            targets.append(writer)
        else:
            targets.append({"file": kept, "full": os.open("/dev/full", os.O_WRONLY)}.get(state))
    for number, target in enumerate(targets):
        os.close(number) if target is None else os.dup2(target, number)
    names = ("stdin", "stdout", "stderr")
    for number, (name, mode) in enumerate(zip(names, "rww", strict=True)):
        stream = None if targets[number] is None else _opened(number, mode)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)  # as at Python's own start


def _opened(number: int, mode: str) -> Any:
    raw = io.FileIO(number, mode, closefd=False)
    buffered = io.BufferedReader(raw) if mode == "r" else io.BufferedWriter(raw)
    return io.TextIOWrapper(buffered, encoding="utf-8", errors="strict", line_buffering=number == 2)


def _filled(content: bytes) -> int:
    made = os.memfd_create("in")
    os.write(made, content)
    os.lseek(made, 0, os.SEEK_SET)
    return made


class _Walls:
    """What stands between the launcher and the machine."""

    def __init__(self, folder: Path, told: int, given: Input) -> None:
        self.folder, self.told, self.answers, self.slept = str(folder), told, given.answers, 0.0
        self.clock = time.monotonic

    def stand(self) -> None:
        """From now on; there is no way back."""
        self.real_which = shutil.which
        shutil.which = self._which  # type: ignore[assignment]
        os.kill = os.killpg = self._kill
        traceback.print_exc = self._print_exc  # type: ignore[assignment]
        time.sleep = self._sleep  # type: ignore[assignment]
        time.monotonic = lambda: self.clock() + self.slept
        subprocess.Popen = _program(self)  # type: ignore[misc, assignment]
        sys.addaudithook(self._audit)

    def _which(self, name: str, *more: Any, **named: Any) -> str | None:
        return f"/bin/{name}" if name in self.answers else self.real_which(name, *more, **named)

    def tell(self, what: str) -> None:
        os.write(self.told, (ascii(what)[1:-1] + "\n").encode())

    def _print_exc(self) -> None:
        """stderr may be one that nobody reads."""
        self.tell("raised")
        os.write(self.told, traceback.format_exc().encode("utf-8", "backslashreplace"))

    def _kill(self, pid: int, number: int) -> None:
        self.tell(f"kill {pid} {number}")
        raise ProcessLookupError(3, "No such process")

    def _sleep(self, seconds: float) -> None:
        self.slept += seconds
        if self.slept > 3600:  # it would wait for ever, as it should for a run that goes on; a person ends it
            raise KeyboardInterrupt

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = args
            if isinstance(flags, int) and flags & WRITES and isinstance(path, (str, bytes)):
                self._stay(event, path)
        elif event in CHANGES:
            for path in args[: 2 if event in {"os.rename", "os.link"} else 1]:
                if isinstance(path, (str, bytes, os.PathLike)):
                    self._stay(event, path)
        elif event in STARTS:
            self.tell(f"start {event}")
            raise FileNotFoundError(2, "No such file or directory")
        elif event == "socket.connect":
            raise ConnectionRefusedError(111, "Connection refused")

    def _stay(self, event: str, path: Any) -> None:
        """Refuse a change outside of the folder."""
        name = os.fsdecode(path)
        place = Path(name) if event == "open" else Path(name).parent  # an opened link is followed
        where = os.path.realpath(place)
        if name in {"/dev/null", "/dev/full"} or f"{where}/".startswith(f"{self.folder}/"):
            return
        if not where.startswith("/nope"):  # the inputs' own word for a place that cannot be written
            self.tell(f"outside {event} {name}")
        raise PermissionError(13, "Permission denied", name)


def _program(walls: _Walls) -> type:
    class Program:
        """A program that answers as the input says, or is not there."""

        def __init__(self, words: Any, *_: Any, **options: Any) -> None:
            name = Path(str(words[0] if isinstance(words, (list, tuple)) else words)).name
            if name in {"bash", "sbatch", "scancel"}:
                walls.tell(f"submit {name}")
            if name not in walls.answers:
                raise FileNotFoundError(2, "No such file or directory", name)
            self.returncode, answer = walls.answers[name]
            self.args, self.pid = words, 2**22 + 1
            self.is_text = any(options.get(key) for key in ("text", "universal_newlines", "encoding"))
            self.answer: Any = answer if self.is_text else answer.encode()
            self.stdout = self.stderr = self.stdin = None

        def __enter__(self) -> Program:
            return self

        def __exit__(self, *_: Any) -> None:
            return None

        def communicate(self, *_: Any, **__: Any) -> tuple[Any, Any]:
            return self.answer, self.answer if self.returncode else self.answer[:0]

        def poll(self) -> int:
            return self.returncode

        def wait(self, *_: Any, **__: Any) -> int:
            return self.returncode

        def kill(self) -> None:
            return None

    return Program
