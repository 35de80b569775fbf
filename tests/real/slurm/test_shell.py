"""`launcher shell` on a real Slurm: a step in the run's own allocation, in a terminal and without one."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from tests.terminals import Terminal

if TYPE_CHECKING:
    from tests.real.slurm.site import Site

pytestmark = pytest.mark.slurm

SLEEP = "import time; print('ready', flush=True); time.sleep(600)\n"


def test_a_shell_beside_a_rank(site: Site) -> None:
    run = site.submit(*site.program(SLEEP), "nodes=2", 'env={WORDS: "it\'s $(here)"}')
    logs = [site.path(run) / "logs" / f"rank-{rank}.log" for rank in (0, 1)]
    now = site.shown(run, lambda: all(log.exists() and "ready" in log.read_text() for log in logs))

    words = [sys.executable, "-m", "launcher", "shell", run, "--rank", "1"]
    terminal = Terminal(words, site.env, site.folder)
    terminal.wait_for(rf"\[rank 1 on {now['hosts'][1]}\]")
    terminal.type('echo "rank=$RANK host=$(hostname) at=$RUN_DIR words=$WORDS"; tty')
    terminal.wait_for(f"rank=1 host={now['hosts'][1]} at={site.path(run)} words=it's \\$\\(here\\)")
    terminal.wait_for("/dev/pts/")
    terminal.type("exit 3")
    assert terminal.ended() == 3

    assert "its hosts: " in site.launcher("shell", run, "--host", "other", code=5).stderr
    assert site.status(run)["state"] == "RUNNING", "the shell's end is not the run's"
    site.launcher("cancel", run)
    site.ended(run)
    assert f"{run} has ended" in site.launcher("shell", run, code=4).stderr
