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
OPTIONS = ("data", "ptx-data", "tokenizer", "reward", "prompts", "task-folder", "data-cache", "chat-template")
_MADE = "data-cache"  # by the ranks
_WORDS = {"auto", "builtin", "bytes"}
# What of a folder makes it a model or a tokenizer: others are called like one of the hub by chance.
_OF_HUB = ("model", "tokenizer", "reward")
_HUB_FILES = (
    *("config.json", "adapter_config.json", "tokenizer.json", "tokenizer_config.json"),
    *("tokenizer.model", "spiece.model", "vocab.json", "vocab.txt"),
)


def absolute(job: Job, beside: Path) -> Job:
    """`job` with its paths absolute where they are here; `beside` is the job file's folder."""
    resume = job.checkpoint.resume
    if resume is not None and "/" in resume and (there := _absolute("resume", resume, beside)) != resume:
        job = replace(job, checkpoint=replace(job.checkpoint, resume=there))
    if workloads.is_script(job.workload):
        return job
    named = job.model and model(job.model, beside)
    given = {name: job.args[name] for name in OPTIONS if name in job.args}
    if "reward" in given and str(given["reward"]) in workloads.reward_rules():
        del given["reward"]
    args = {**job.args, **{name: _all(name, value, beside) for name, value in given.items()}}
    return replace(job, model=named, args=args) if (named, args) != (job.model, job.args) else job


def folder(source: str) -> Path:
    """Where the paths in a file start: at its own folder, and of a pipe at the working folder."""
    return Path() if source.startswith(("/dev/", "/proc/")) else Path(source).parent


def model(name: str, beside: Path) -> str:
    """A model's name as it is, and a path to one absolute."""
    return name if name in models.named() else _absolute("model", name, beside)


def named(job: Job) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """(keys, value) of each field of a job that may name a path which is read."""
    if job.model is not None:
        yield ("job", "model"), job.model
    if job.checkpoint.resume is not None:
        yield ("job", "checkpoint", "resume"), job.checkpoint.resume
    for name in (option for option in OPTIONS if option != _MADE):
        value = job.args.get(name)
        for index, entry in enumerate(value) if isinstance(value, list) else [(None, value)]:
            path = entry.get("path") if isinstance(entry, dict) else entry
            if isinstance(path, str):
                yield ("job", "args", name, *(() if index is None else (index,))), path


def is_here(path: Path) -> bool:
    """Whether there is such a file or folder, or one that fits such a pattern."""
    head, pattern = _parts(path)
    try:
        return any(head.glob(pattern)) if pattern else head.exists()
    except (OSError, ValueError):
        return False


def _all(option: str, value: Any, beside: Path) -> Any:
    if isinstance(value, list):
        return [_all(option, entry, beside) for entry in value]
    if isinstance(value, dict) and isinstance(value.get("path"), str):
        return {**value, "path": _absolute(option, value["path"], beside)}
    return _absolute(option, value, beside) if isinstance(value, str) else value


def _absolute(option: str, word: str, beside: Path) -> str:
    if not word or word.startswith("/") or "://" in word or "\0" in word or word in _WORDS:
        return word
    try:
        path = Path(word).expanduser()
    except RuntimeError:  # `~name` of a user who is not here
        return word
    is_path = word.startswith(("./", "../", "~")) or word in (".", "..")
    for folder in (beside, Path()):
        if is_here(folder / path) and (is_path or option not in _OF_HUB or _is_of_hub(folder / path)):
            return _plain(folder / path)
    return _plain(beside / path) if is_path or option == _MADE else word


def _is_of_hub(path: Path) -> bool:
    return path.is_file() or any((path / name).exists() for name in _HUB_FILES)


def _plain(path: Path) -> str:
    """`path` from the root on. Links stay as they are written, but for one before `..`, which leads elsewhere."""
    whole = path.absolute()
    if ".." not in whole.parts:
        return str(whole)
    head, pattern = _parts(whole)
    plain = Path(posixpath.normpath(head))
    try:
        same = plain.samefile(head)
    except OSError:  # neither may be there
        same = not head.exists()
    return str((plain if same else head.resolve()) / pattern)


def _parts(path: Path) -> tuple[Path, str]:
    """The folders before a pattern, and the pattern; '' where there is none."""
    first = next((n for n, part in enumerate(path.parts) if set("*?[") & set(part)), len(path.parts))
    return Path(*path.parts[:first]), "/".join(path.parts[first:])
