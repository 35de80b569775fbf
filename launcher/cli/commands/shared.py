"""Options that several verbs have."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from launcher.cli import completion
from launcher.cli.arguments import filled

if TYPE_CHECKING:
    from collections.abc import Sequence

SCHEDULERS = ("local", "slurm", "kubernetes", "k8s")


def file_options(verb: argparse.ArgumentParser) -> None:
    """The cluster, settings, and whether warnings are errors."""
    what = "where it runs, instead of the job's `cluster:`"
    option = verb.add_argument("--cluster", type=filled, metavar="NAME|FILE", help=what)
    option.completer = completion.clusters  # type: ignore[attr-defined]
    what = 'change a field of the files; a key with dots is quoted: mounts."/a.b"=/b'
    repeated(verb, "--set", dest="settings", metavar="KEY=VALUE", what=what)
    flag(verb, "--strict", "treat warnings about environment variables as errors")


def job_options(verb: argparse.ArgumentParser) -> None:
    """A job file and what changes it."""
    job = verb.add_argument("job", type=filled, metavar="JOB", help="a job file, or a pipeline of jobs")
    job.completer = completion.jobs  # type: ignore[attr-defined]
    file_options(verb)
    name_option(verb)


def name_option(verb: argparse.ArgumentParser) -> None:
    """The end of a run's id."""
    verb.add_argument(
        "--name", type=filled, default=argparse.SUPPRESS, metavar="SUFFIX", help="appended to the run's id"
    )


def picture_options(verb: argparse.ArgumentParser, what: str) -> None:
    """Where its pictures are drawn."""
    verb.add_argument(
        *("--plot", "--html", "--png"),
        action="append",
        default=[],
        type=filled,
        metavar="FILE",
        help=f"also draw {what} into FILE.html, .png, .svg or .pdf; needs matplotlib",
    )


def exclude_option(verb: argparse.ArgumentParser) -> None:
    """Hosts to stay away from."""
    flag(verb, "--exclude-bad", "exclude hosts that failed recently (bad-hosts.txt)")


def run_option(verb: argparse.ArgumentParser) -> None:
    """One run."""
    option = verb.add_argument("run", metavar="RUN", help="the id of a run or pipeline, or the start of it")
    option.completer = completion.runs  # type: ignore[attr-defined]


def json_option(verb: argparse.ArgumentParser) -> None:
    """JSON instead of text."""
    flag(verb, "--json", "machine-readable output (JSON)")


def flag(verb: argparse.ArgumentParser, name: str, what: str) -> None:
    """An option without a value."""
    verb.add_argument(name, action="store_true", help=what)


def repeated(
    verb: argparse.ArgumentParser,
    name: str,
    *,
    dest: str,
    metavar: str,
    what: str,
    choices: Sequence[str] | None = None,
) -> None:
    """An option that may be given several times."""
    option = verb.add_argument(
        name, action="append", default=[], dest=dest, metavar=metavar, help=what, choices=choices
    )
    if metavar == "RUN":
        option.completer = completion.runs  # type: ignore[attr-defined]
