"""What the processes of a host run: Python with a workload, or a program of the user's own with names in its words.

Owns the node entry's options for it, and each process's words and variables; processes are ranks.py's.
"""

from __future__ import annotations

import signal
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import expansion
import interpreter
from ending import BAD_INPUT, Stop

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

SIGNALS: dict[str, int | None] = {
    "USR2": signal.SIGUSR2,
    "TERM": signal.SIGTERM,
    "USR1": signal.SIGUSR1,
    "none": None,
}


@dataclass(frozen=True)
class Program:
    """`alone`: the words are a program's own, and not what Python is started with.

    `names_from`: the first word whose names are replaced, None without any. `per_host`: one process a host, which
    starts the ranks itself. `signal`: what ranks get before the walltime; None: nothing. `nsys`: the folder of the
    reports, where ranks are to be under nsys.
    """

    alone: bool = False
    names_from: int | None = None
    per_host: bool = False
    python: str = ""
    signal: int | None = signal.SIGUSR2
    nsys: str = ""

    @property
    def own(self) -> bool:
        """Whether it is the user's, not one of our workloads."""
        return self.names_from is not None


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--program", action="store_true", help="the command is not Python's arguments")
    parser.add_argument(
        "--names-from", type=int, metavar="N", help="the first word in which $NAME is replaced"
    )
    parser.add_argument("--processes", choices=("slot", "host"), default="slot", help="one a slot or a host")
    parser.add_argument("--python", default="", help="an interpreter, a venv, or a conda environment")
    parser.add_argument("--signal", choices=SIGNALS, default="USR2", help="what ranks get for SIGUSR2")
    parser.add_argument("--nsys", action="store_true", help="start the ranks under Nsight Systems: nsys.py")


def of(args: argparse.Namespace) -> Program:
    return Program(
        alone=args.program,
        names_from=args.names_from,
        per_host=args.processes == "host",
        python=args.python,
        signal=SIGNALS[args.signal],
        nsys=f"{args.folder}/profiles/nsys-{args.attempt}" if args.nsys else "",
    )


def chosen(program: Program, variables: Mapping[str, str]) -> interpreter.Interpreter | None:
    """The environment that is active in the processes; None where they have this process's own.

    A command finds `python` and `torchrun` beside the interpreter of the node entry, unless the cluster names another.
    Raises Stop when it is not here.
    """
    if not program.python and not program.alone:
        return None
    return interpreter.resolve(program.python or sys.executable, variables)


def of_host(slots: int, hosts: int, index: int, hostfile: str) -> dict[str, str]:
    """What a program of the user's own knows of its host beside what every rank does."""
    return {
        "NNODES": str(hosts),
        "NODE_RANK": str(index),
        "NPROC_PER_NODE": str(slots),
        "HOSTFILE": hostfile,
    }


def for_launchers(variables: Mapping[str, str]) -> dict[str, str]:
    """What tools read that start a host's ranks themselves.

    torchrun takes the default of --nnodes from PET_NNODES, and so on (torch/distributed/argparse_util.py), also where
    axolotl starts it. LLaMA-Factory starts torchrun if FORCE_TORCHRUN says so, with NNODES, NODE_RANK, NPROC_PER_NODE,
    MASTER_ADDR and MASTER_PORT (src/llamafactory/launcher.py). accelerate reads no variable: its options take names.
    """
    names = ("NNODES", "NODE_RANK", "NPROC_PER_NODE", "MASTER_ADDR", "MASTER_PORT")
    return {f"PET_{name}": variables[name] for name in names}


def words(program: Program, command: list[str], values: Mapping[str, str]) -> list[str]:
    """`command` with the values of its names. Raises Stop for a name that has none."""
    if program.names_from is None:
        return command
    known = {name: values[name] for name in expansion.NAMES if name in values}
    try:
        more = [expansion.expand(word, known) for word in command[program.names_from :]]
    except KeyError as error:
        raise Stop(
            BAD_INPUT, f"${error.args[0]} has no value here; $$ is a dollar: docker/README.md"
        ) from None
    return [*command[: program.names_from], *more]
