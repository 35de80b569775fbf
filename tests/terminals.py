"""A command in a terminal of its own, as a person types into it.

Owns the pseudo-terminal; what is typed and what must appear is the tests' to say.
"""

from __future__ import annotations

import os
import pty
import re
import select
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


class Terminal:
    """`words` in a new session whose controlling terminal is ours to read and write."""

    def __init__(self, words: Sequence[str], env: Mapping[str, str], folder: Path) -> None:
        self.seen = ""
        self.pid, self.screen = pty.fork()
        if self.pid == 0:
            try:
                os.chdir(folder)
                os.execvpe(words[0], list(words), dict(env))
            finally:
                os._exit(127)

    def type(self, line: str) -> None:
        os.write(self.screen, f"{line}\n".encode())

    def wait_for(self, pattern: str, seconds: float = 120) -> str:
        """The first match of `pattern` in what appeared since the last one that was waited for."""
        deadline = time.monotonic() + seconds
        while not (match := re.search(pattern, self.seen)):
            left = deadline - time.monotonic()
            assert left > 0, f"{pattern!r} did not appear in:\n{self.seen}"
            assert self._read(left), f"it ended before {pattern!r} appeared:\n{self.seen}"
        self.seen = self.seen[match.end() :]
        return match[0]

    def _read(self, seconds: float) -> bool:
        """Whether it still runs."""
        if select.select([self.screen], [], [], min(seconds, 1.0))[0]:
            try:
                data = os.read(self.screen, 65536)
            except OSError:  # Linux says so when the last process with the terminal has ended
                return False
            self.seen += data.decode("utf-8", "replace")
            return bool(data)
        return True

    def ended(self, seconds: float = 120) -> int:
        """Its exit code, once it has ended; the rest of what appeared is in `seen`."""
        deadline = time.monotonic() + seconds
        while self._read(1.0):
            assert time.monotonic() < deadline, f"it did not end:\n{self.seen}"
        os.close(self.screen)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
