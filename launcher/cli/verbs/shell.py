"""shell, stacks: what is asked of ranks that run."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from launcher.cli.verbs import again
from launcher.cli.verbs.shared import OK

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


def stacks(given: options.Run) -> int:
    run = again.single(given.run)
    from launcher.reports import stacks as report
    from launcher.reports import tables
    from launcher.submission import stacks as asking  # it reads YAML

    found = asking.take(run)
    print(tables.dump(found) if given.json else report.text(found))
    return OK
