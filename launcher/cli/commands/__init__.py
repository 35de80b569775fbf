"""The command line: a module a group of verbs, as --help shows them. What a verb does is in cli/verbs/."""

from __future__ import annotations

from launcher import __version__
from launcher.cli import arguments
from launcher.cli.commands import look, operate, run, surroundings


def parser(only: str | None = None) -> arguments.Parser:
    """The command line; with `only`, as much of it as this verb needs."""
    root = arguments.Parser(
        prog="launcher",
        description="Run one DeepSpeed job file on this machine, on Slurm or on Kubernetes.",
        allow_abbrev=False,
    )
    root.add_argument("--version", action="version", version=f"launcher {__version__}")
    verbs = arguments.Verbs(root, only)
    run.add_run(verbs)
    look.add_look(verbs)
    operate.add_operate(verbs)
    surroundings.add_cluster(verbs)
    surroundings.add_data(verbs)
    surroundings.add_files(verbs)
    return root
