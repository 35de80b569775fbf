"""Completion in bash, zsh and fish: argcomplete's script asks this program at each TAB.

Owns what completes a run's id, a job and a cluster; options and verbs argcomplete reads off the parser.
https://kislyuk.github.io/argcomplete/
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from launcher import ROOT

if TYPE_CHECKING:
    import argparse

SHELLS = ("bash", "zsh", "fish")


def script(shell: str) -> str:
    """What the shell evaluates once, for the command `launcher`."""
    from argcomplete.shell_integration import shellcode

    return str(shellcode(["launcher"], shell=shell)).strip("\n")


def answer(parser: argparse.ArgumentParser) -> None:
    """Answer a TAB, which the environment describes, and exit."""
    import argcomplete

    argcomplete.autocomplete(parser)


def runs(prefix: str, **_: Any) -> list[str]:
    """Ids of runs, pipelines and sweeps, here and in this user's other folders."""
    from launcher.planning import workspace
    from launcher.runs import folders, index, pipelines, sweeps

    records = (*pipelines.READERS, sweeps.RECORD)
    ids: list[str] = []
    for folder in dict.fromkeys([workspace.runs(), *index.known()]):
        ids += [path.parent.name for path in folders.records(folder, records)]
    return [name for name in ids if name.startswith(prefix)]


def jobs(prefix: str, **_: Any) -> list[str]:
    """Files in YAML and folders, and the jobs that ship with the project."""
    shipped = (f"jobs/{path.relative_to(ROOT / 'jobs')}" for path in sorted((ROOT / "jobs").rglob("*.yaml")))
    wanted = [name for name in shipped if name.startswith(prefix) and "/clusters/" not in name]
    return list(dict.fromkeys([*_files(prefix), *wanted]))


def clusters(prefix: str, **_: Any) -> list[str]:
    """The clusters that ship with the project, and files in YAML."""
    names = sorted(path.stem for path in (ROOT / "jobs" / "clusters").glob("*.yaml"))
    return [*(name for name in names if name.startswith(prefix)), *_files(prefix)]


def _files(prefix: str) -> list[str]:
    from argcomplete.completers import FilesCompleter

    return list(FilesCompleter(("yaml", "yml"))(prefix))
