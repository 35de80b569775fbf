"""Somebody who types `python -m launcher`, with an environment of their own: a new process, or a fork of this one."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import traceback
from typing import TYPE_CHECKING

from launcher import ROOT
from launcher.cli import main as cli_main

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


def launcher(words: Sequence[str], env: Mapping[str, str], code: int = 0) -> subprocess.CompletedProcess[str]:
    """What the command printed; it must end with `code`."""
    done = subprocess.run(
        [sys.executable, "-m", "launcher", *words],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == code, f"{words}: exit {done.returncode}\n{done.stdout}{done.stderr}"
    return done


def asked(words: Sequence[str], env: Mapping[str, str], cwd: Path) -> str:
    """What a command that must succeed printed, for questions that are asked until the answer changes.

    A fork of this process answers: it has read the launcher already, which is most of what a command takes.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        pid = os.fork()
        if not pid:
            _answer(words, env, cwd, (out.fileno(), err.fileno()))
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        said = []
        for file in (out, err):
            file.seek(0)
            said.append(file.read())
    assert code == 0, f"{words}: exit {code}\n{said[0]}{said[1]}"
    return said[0]


def _answer(words: Sequence[str], env: Mapping[str, str], cwd: Path, ends: tuple[int, int]) -> None:
    """Never returns."""
    code: object = 1
    try:
        for number, descriptor in enumerate(ends, 1):
            os.dup2(descriptor, number)
        sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(env)
        code = cli_main.main(list(words))
        sys.stdout.flush()
    except SystemExit as error:
        code = error.code
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code if isinstance(code, int) else 1)
