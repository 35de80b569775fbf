"""The ranks' environment: this process's own, with the job's variables on top.

Owns the file environment.json, in which a script hands the job's variables on. They pass through no shell and no other
program, so names that bash keeps for itself, PATH and values of any kind arrive as they were written:

    {"NCCL_DEBUG": {"value": "WARN", "why": "…"}, "HF_TOKEN": {"secret": "hf-token", "from": "LAUNCHER_SECRET_0"}}

A secret's value is in no file: the script exports it under the name that `from` gives.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import terminal
from ending import BAD_INPUT, Stop

if TYPE_CHECKING:
    from pathlib import Path

CARRIER = "LAUNCHER_SECRET_"
NOTIFY = "LAUNCHER_NOTIFY_"  # before a number: an address of notify.py, which no rank gets
# Bytes of one NAME=value or one argument, with the NUL at its end: MAX_ARG_STRLEN of execve(2), 32 pages.
LONGEST = 32 * os.sysconf("SC_PAGE_SIZE")


def inherited() -> dict[str, str]:
    """This process's own variables, without secrets, addresses and the terminal that were handed on beside them."""
    beside = (CARRIER, NOTIFY, terminal.VARIABLE)
    return {name: value for name, value in os.environ.items() if not name.startswith(beside)}


def of_job(path: Path | None) -> dict[str, str]:
    """The ranks' variables of the job; none without a path, where they came with this process's own.

    Raises Stop for a file that is not as above, and for a secret that did not come here.
    """
    return {name: value for name, value in _all(path).items() if not name.startswith(NOTIFY)}


def addresses(path: Path | None) -> dict[str, str]:
    """The variables that notify.py needs. Raises Stop as `of_job`."""
    return {name: value for name, value in {**os.environ, **_all(path)}.items() if name.startswith(NOTIFY)}


def _all(path: Path | None) -> dict[str, str]:
    if path is None:
        return {}
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return {name: _value(entry) for name, entry in entries.items()}
    except OSError as error:
        raise Stop(BAD_INPUT, f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise Stop(BAD_INPUT, f"{path} is not JSON with a value for each variable") from None


def _value(entry: dict[str, Any]) -> str:
    if "secret" not in entry:
        if not isinstance(entry["value"], str):
            raise TypeError
        return entry["value"]
    if entry["from"] not in os.environ:
        raise Stop(
            BAD_INPUT, f"secret {entry['secret']} did not come to this host: {entry['from']} is not set"
        )
    return os.environ[entry["from"]]


def oversize(variables: dict[str, str], command: list[str]) -> str:
    """Why Linux does not start a process with `variables` and `command`, with the sizes; '' when it does."""
    sizes = {f"variable {name}": len(os.fsencode(f"{name}={value}")) + 1 for name, value in variables.items()}
    sizes |= {f"argument {number}": len(os.fsencode(word)) + 1 for number, word in enumerate(command)}
    largest = max(sizes, key=lambda name: sizes[name])
    if sizes[largest] > LONGEST:
        return f"{largest} has {sizes[largest]:,} bytes, and Linux takes {LONGEST:,} at most"
    total = sum(sizes.values()) + 8 * len(sizes)  # a pointer each
    limit = os.sysconf("SC_ARG_MAX")
    if total > limit:
        return (
            f"variables and arguments have {total:,} bytes together, and this host takes {limit:,} "
            f"(a quarter of `ulimit -s`); the largest is {largest} with {sizes[largest]:,}"
        )
    return ""
