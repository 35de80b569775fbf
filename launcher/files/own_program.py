"""A program of the user's own in a job file: `command:`, `processes:`, `signal:`, and the names in its words.

Owns what is wrong with them; that Python can run a script is references.py's to say.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from launcher import entry, workloads
from launcher.errors import Problem, did_you_mean, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.files.document import Document, Keys

_DOLLAR = "$$ is a dollar"


def workload(document: Document) -> str:
    """The workload that the file names; `workloads.COMMAND` for a command."""
    if document.data.get("command") is not None:
        return workloads.COMMAND
    return str(document.data.get("workload", "pretrain"))


def problems(document: Document) -> Iterator[Problem]:
    """All that is wrong with a job's own program."""
    yield from _command_problems(document)
    if workloads.is_script(workload(document)):
        for keys, word in _words(document):
            yield from _name_problems(document, keys, word)


def _command_problems(document: Document) -> Iterator[Problem]:
    command, named = document.data.get("command"), document.data.get("workload")
    place = document.place(("command",))
    if command is None:
        if named == workloads.COMMAND:
            what, hint = f"workload {shown(named)} has no words", "write command: [program, word, …] instead"
            yield Problem(what, hint, document.place(("workload",)))
        return
    if named not in (None, workloads.COMMAND):
        what = f"command and workload {shown(named)} cannot both be run"
        yield Problem(what, "leave one of them out", place)
    if isinstance(command, str):
        return  # validation says that it is no list
    if command == []:
        yield Problem("command has no words", "write command: [program, word, …]", place)
    elif isinstance(command, list) and isinstance(command[0], str):
        what, hint = _first_word_problem(command[0], len(command))
        if what:
            yield Problem(f"command: {shown(command[0])} {what}", hint, document.place(("command", 0)))


def _first_word_problem(word: str, count: int) -> tuple[str, str]:
    """Why it is no program's name, and what to do; empty texts when it may be one."""
    if not word.strip():
        return "is no program", "name one"
    if re.match(r"[A-Za-z_][A-Za-z0-9_]*=", word):
        return "sets a variable, which no shell reads here", "write it below `env:`"
    if " " in word.strip() and "/" not in word and count == 1:
        return "is a command line in one word", f"write command: [{', '.join(word.split())}]"
    if word.startswith("-"):
        return "is an option", "name a program first"
    return "", ""


def _words(document: Document) -> Iterator[tuple[Keys, str]]:
    """Every text in which names are replaced, and where it is written."""
    command, args = document.data.get("command"), document.data.get("args")
    for index, word in enumerate(command if isinstance(command, list) else ()):
        if isinstance(word, str):
            yield ("command", index), word
    for key, value in (args if isinstance(args, dict) else {}).items():
        if not isinstance(value, list):
            value = [value]
        yield from ((("args", key), word) for word in [key, *value] if isinstance(word, str))


def _name_problems(document: Document, keys: Keys, word: str) -> Iterator[Problem]:
    place = document.place(keys)
    for name in dict.fromkeys(entry.references(word)):
        what, hint = _name_problem(document.data, name)
        if what:
            yield Problem(f"{'.'.join(map(str, keys))}: {what}", hint, place)


def _name_problem(job: dict[str, Any], name: str) -> tuple[str, str]:
    if name == "{":
        return "${ stands before no name", f"write ${{NAME}}; {_DOLLAR}"
    if name not in entry.names():
        hint = did_you_mean(name, entry.names())
        return f"unknown name ${name}", f"{hint}{' ' if hint.endswith('?') else '; '}{_DOLLAR}"
    if name == "MODEL" and job.get("model") is None:
        return "$MODEL, and the job names none", "add `model:` to the job"
    if name in entry.of_a_rank() and job.get("processes") == "host":
        return f"${name} with `processes: host`", "the program numbers its ranks itself: leave it out"
    variable = env.get(name) if isinstance(env := job.get("env"), dict) else None
    if isinstance(variable, dict) and variable.get("secret"):
        return (
            f"${name} is a secret, and everyone on the host can read words",
            "let the program read its variable",
        )
    return "", ""
