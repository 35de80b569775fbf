"""Programs that start ranks themselves, as the first words of a job's command: torchrun, accelerate, mpirun and others.

Owns which they are. Started once a slot, each of them would start all ranks of the host, or train alone and succeed.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from launcher.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from launcher.files.job import Job

# They start the ranks of one host, and know the others by what the node entry sets (docker/program.py) or by options.
_OF_A_HOST = (
    *("torchrun", "torch.distributed.run", "torch.distributed.launch"),
    *("accelerate launch", "accelerate-launch", "accelerate.commands.launch"),
)
# They start the ranks of all hosts, over ssh or a scheduler's own ways.
_OF_ALL = ("deepspeed", "mpirun", "mpiexec", "orterun", "horovodrun", "srun", "deepspeed.launcher.runner")
# What may stand before them, with the options of each that take the next word.
_BEFORE = {
    "env": ("-u", "-C"),
    "uv": ("--with", "--python", "-p", "--project", "--env-file", "--extra", "--group", "--package"),
    "poetry": ("-P", "-C"),
    "pixi": ("-e",),
    "pdm": ("-p",),
    "python": ("-X", "-W"),
}
_HOSTS = ("--nnodes", "--num_machines", "--num-machines")


def problems(job: Job, slots: int) -> Iterator[Problem]:
    """Why the job's command would train another thing than the job says, on hosts of `slots` slots."""
    words, about = job.command or [], ("job", "command", 0)
    starter = _starter(words)
    if not starter:
        return
    if starter in _OF_ALL and job.nodes.max > 1:
        what = f"command: {starter} starts the ranks of all hosts, and is started on each"
        yield Problem(
            what, "name the program alone, as [python, train.py]: ranks are the launcher's", about=about
        )
    elif job.processes == "slot" and job.nodes.max * slots > 1:
        what = f"command: {starter} starts the ranks itself, and would be started once a slot"
        yield Problem(
            what, "add `processes: host`, or name the program alone: [python, train.py]", about=about
        )
    elif (said := _hosts(words)) is not None and said != str(job.nodes.max) and not job.nodes.vary:
        hosts = f"{said} host{'' if said == '1' else 's'}"
        what = f"command: {starter} is told of {hosts}, and the job has {job.nodes.max}"
        yield Problem(what, "write $NNODES, or leave it out of torchrun's options", about=about)


def _starter(words: Sequence[str]) -> str:
    """The starter that `words` are a call of; '' for any other program."""
    skips: tuple[str, ...] = ()
    rest = list(words)
    while rest:
        word, *rest = rest
        name = word.rpartition("/")[2]
        if name == "accelerate" and rest:
            name = f"accelerate {rest[0]}"
        if name in (*_OF_A_HOST, *_OF_ALL):
            return name
        if (before := re.sub(r"^(python)[0-9.]*$", r"\1", name)) in _BEFORE:
            skips = _BEFORE[before]
        elif word in skips:
            rest = rest[1:]
        elif not (word.startswith("-") or "=" in word or word == "run"):
            return ""
    return ""


def _hosts(words: Sequence[str]) -> str | None:
    """The number of hosts that the options say; None where they say none, or a name or range."""
    for word, after in zip(words, (*words[1:], ""), strict=True):
        if word.endswith(".py"):  # what follows is the program's own
            return None
        option, equals, value = word.partition("=")
        if option in _HOSTS:
            value = value if equals else after
            return str(int(value)) if re.fullmatch("[0-9]+", value) else None
        if word == "--standalone":
            return "1"
    return None
