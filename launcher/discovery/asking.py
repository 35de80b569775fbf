"""One question to a command of this machine, with a time limit."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from launcher.namedtuple import NamedTuple
from launcher.schedulers.slurm import query

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

SECONDS = 30


class Answer(NamedTuple):
    """What a command printed, or why it is no answer: `refusal` is '' for one that succeeded."""

    text: str
    refusal: str = ""
    said: str = ""  # on standard error; of one that is refused, what it said instead of an answer


def ask(
    words: Sequence[str], seconds: float = SECONDS, given: str = "", without: Collection[str] = ()
) -> Answer:
    """Run a command in the C locale, with `given` on its standard input and the variables `without` left out.

    Never raises: what went wrong is the answer's `refusal`.
    """
    try:
        done = subprocess.run(
            words,
            env={k: v for k, v in query.surroundings().items() if k not in without} | {"LC_ALL": "C"},
            input=given,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        return Answer("", f"{words[0]} did not answer within {seconds:g} s")
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        return Answer(
            "", f"{words[0]} is not on PATH" if missing else f"{words[0]}: {error.strerror or error}"
        )
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        last = said[-1] if said else f"exit code {done.returncode}"
        named = last if last.startswith(words[0]) else f"{words[0]}: {last}"
        return Answer(done.stdout, named, "\n".join(said))
    return Answer(done.stdout, said=done.stderr)
