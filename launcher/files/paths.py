"""Paths that a job's fields name, made absolute: ranks start in another folder, and so may whoever resumes the run.

Owns which fields name paths. A relative one starts at the job file's folder, else, as `--set` would have it, at the
current one; a program of one's own starts in its code, and its words are its own.
"""

from __future__ import annotations

import posixpath
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher import workloads
from launcher.sizing import models

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.files.job import Job

# Options of our workloads that name files or folders, or something else by a word without a slash.
OPTIONS = ("data", "tokenizer", "reward", "prompts", "task-folder", "data-cache", "chat-template")
_WORDS = {"auto", "builtin", "bytes"}


def absolute(job: Job, beside: Path) -> Job:
    """`job` with its paths absolute where they are here; `beside` is the job file's folder."""
    resume = job.checkpoint.resume
    if resume is not None and "/" in resume and (there := _absolute(resume, beside)) != resume:
        job = replace(job, checkpoint=replace(job.checkpoint, resume=there))
    if workloads.is_script(job.workload):
        return job
    named = job.model and model(job.model, beside)
    given = {name: job.args[name] for name in OPTIONS if name in job.args}
    if "reward" in given and str(given["reward"]) in workloads.reward_rules():
        del given["reward"]
    args = {**job.args, **{name: _all(value, beside) for name, value in given.items()}}
    return replace(job, model=named, args=args) if (named, args) != (job.model, job.args) else job


def folder(source: str) -> Path:
    """Where the paths in a file start: at its own folder, and of a pipe at the working folder."""
    return Path() if source.startswith(("/dev/", "/proc/")) else Path(source).parent


def model(name: str, beside: Path) -> str:
    """A model's name as it is, and a path to one absolute."""
    return name if name in models.named() else _absolute(name, beside)


def named(job: Job) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """(keys, value) of each field of a job that may name a path."""
    if job.model is not None:
        yield ("job", "model"), job.model
    for name in OPTIONS:
        value = job.args.get(name)
        for index, entry in enumerate(value) if isinstance(value, list) else [(None, value)]:
            path = entry.get("path") if isinstance(entry, dict) else entry
            if isinstance(path, str):
                yield ("job", "args", name, *(() if index is None else (index,))), path


def _all(value: Any, beside: Path) -> Any:
    if isinstance(value, list):
        return [_all(entry, beside) for entry in value]
    if isinstance(value, dict) and isinstance(value.get("path"), str):
        return {**value, "path": _absolute(value["path"], beside)}
    return _absolute(value, beside) if isinstance(value, str) else value


def _absolute(word: str, beside: Path) -> str:
    if not word or word.startswith("/") or "://" in word or "\0" in word or word in _WORDS:
        return word
    try:
        path = Path(word).expanduser()
    except RuntimeError:  # `~name` of a user who is not here
        return word
    for folder in (beside, Path()):
        if _is_here(folder / path):
            return _plain(folder / path)
    return _plain(beside / path) if word.startswith(("./", "../", "~")) else word


def _plain(path: Path) -> str:
    return posixpath.normpath(path.absolute())  # links stay as they are written


def _is_here(path: Path) -> bool:
    """Whether there is such a file or folder, or one that fits such a pattern."""
    try:
        if path.exists():
            return True
        first = next((n for n, part in enumerate(path.parts) if set("*?[") & set(part)), None)
        return first is not None and any(Path(*path.parts[:first]).glob("/".join(path.parts[first:])))
    except (OSError, ValueError):
        return False
