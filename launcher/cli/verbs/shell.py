"""shell: a shell beside a rank."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from launcher.cli.verbs import again

if TYPE_CHECKING:
    from launcher.cli import options


def shell(given: options.Shell) -> int:
    run = again.single(given.run)
    from launcher.runs.status import Selection
    from launcher.submission import shell as shells  # it reads YAML

    terminal = sys.stdin is not None and sys.stdin.isatty()
    words = shells.words(run, Selection(given.rank, given.host), terminal)
    sys.stdout.flush()
    sys.stderr.flush()
    # in place of this process, so that the terminal, its size and Ctrl-C are the shell's
    os.execvp(words[0], words)
