"""A program of this machine with lines to its stdin and from its stdout: so `launcher fetch` asks docker/sender.py."""

from __future__ import annotations

import subprocess
import tempfile
from typing import TYPE_CHECKING

from launcher.errors import SubmitError

if TYPE_CHECKING:
    from collections.abc import Sequence


class Child:
    """A runs.unpacking.Line to `words`, which are gone at the end. Raises SubmitError when they do not start."""

    def __init__(self, words: Sequence[str]) -> None:
        self.said = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the program
        try:
            self.process = subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.said
            )
        except OSError as error:
            raise SubmitError(f"{words[0]} did not start: {error.strerror}") from None
        assert self.process.stdin
        assert self.process.stdout
        self.stdin, self.stdout = self.process.stdin, self.process.stdout

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        for file in (self.stdin, self.stdout, self.said):
            try:
                file.close()
            except BrokenPipeError:  # it had more to read
                continue

    def write(self, data: bytes) -> None:
        try:
            self.stdin.write(data)
            self.stdin.flush()
        except BrokenPipeError:
            raise SubmitError(f"the program that reads the run folder ended: {self.finish()}") from None

    def read(self, size: int) -> bytes:
        return self.stdout.read(size)

    def readline(self) -> bytes:
        return self.stdout.readline()

    def finish(self) -> str:
        """What went wrong: the last line of its stderr."""
        while self.stdout.read(2**20):
            continue
        if not (code := self.process.wait()):
            return ""
        self.said.seek(0)
        lines = self.said.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else f"it ended with {code}"
