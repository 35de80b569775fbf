"""Words on the command line to calls: verbs, streams, exit codes.

Owns the options and the exit code of every failure; what a verb does is in cli/verbs/.
"""

from __future__ import annotations

import gc
import os
import sys
import traceback
from typing import TYPE_CHECKING, Any

from launcher import __version__
from launcher.cli import arguments, streams
from launcher.cli.streams import say, tell
from launcher.cli.verbs import look, pipelines, runs
from launcher.errors import LauncherError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

_STATES = ("PENDING", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED", "UNKNOWN")
USAGE, BUG, INTERRUPTED = 2, 70, 130


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    made = arguments.Parser(
        prog="launcher",
        description="Run one DeepSpeed job file on this machine, on Slurm or on Kubernetes.",
        allow_abbrev=False,
    )
    made.add_argument("--version", action="version", version=f"launcher {__version__}")
    table = made.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=arguments.Parser)

    for name, aliases, where in (
        ("local", (), "on this machine"),
        ("slurm", (), "on a Slurm cluster"),
        ("kubernetes", ("k8s",), "on Kubernetes"),
    ):
        verb = _verb(table, name, f"run a job {where}", pipelines.launch, aliases)
        _job_options(verb)
        verb.add_argument(
            "--dry-run", action="store_true", help="print what would be submitted, submit nothing"
        )
        verb.add_argument("-o", dest="output", metavar="DIR", help="write what would be submitted to DIR")
        verb.add_argument(
            "--force", action="store_true", help="submit although memory or the image is said not to do"
        )
        verb.add_argument(
            "--wait", action="store_true", help="follow the run to its end; exit 1 if it failed"
        )
        if name != "kubernetes":
            _after_option(verb)
        if name == "slurm":
            _slurm_options(verb)
        if name == "kubernetes":
            verb.add_argument(
                "--server-dry-run", action="store_true", help="ask the API server about it, submit nothing"
            )
        verb.set_defaults(scheduler=name)

    verb = _verb(
        table,
        "plan",
        "what would run: batch arithmetic, DeepSpeed configuration, environment",
        pipelines.show_plan,
    )
    _job_options(verb)
    verb.add_argument("--json", action="store_true", help="for programs")
    _plan_options(verb)

    verb = _verb(
        table,
        "check",
        "validate jobs and render them for every scheduler; submit nothing",
        pipelines.check,
    )
    verb.add_argument("jobs", nargs="+", metavar="JOB", help="job and pipeline files")
    _file_options(verb)

    verb = _verb(table, "diff", "what applying a job would change on its live Kubernetes objects", look.diff)
    _job_options(verb)

    verb = _verb(
        table, "hostfile", "hosts, or the current allocation, as DeepSpeed's hostfile", look.hostfile
    )
    verb.add_argument("hostlist", nargs="?", metavar="HOSTLIST|-", help="node[1-4,7]; - reads stdin")
    verb.add_argument("--slots", type=int, metavar="N", help="ranks per host")

    verb = _verb(
        table, "env", "a fabric's NCCL environment as export lines, each with its reason", look.fabric_env
    )
    verb.add_argument("fabric", nargs="?", metavar="FABRIC", help="without it: the fabrics that are known")
    verb.add_argument("--json", action="store_true", help="for programs")

    verb = _verb(table, "status", "how a run is", pipelines.status)
    _run_option(verb)
    verb.add_argument("--json", action="store_true", help="for programs")

    verb = _verb(table, "logs", "a run's log lines", pipelines.logs)
    _run_option(verb)
    verb.add_argument("-f", "--follow", action="store_true", help="until the run ends")
    verb.add_argument("--rank", type=int, metavar="N", help="only this rank's")
    verb.add_argument("--host", metavar="H", help="only this host's")

    _run_option(_verb(table, "cancel", "end a run", pipelines.cancel))

    verb = _verb(
        table,
        "resume",
        "let a run that ended go on in its folder, from its last checkpoint",
        pipelines.resume,
    )
    _run_option(verb)
    _exclude_option(verb)

    verb = _verb(table, "report", "what runs or a sweep measured, as a table or as curves", pipelines.report)
    verb.add_argument(
        "runs", nargs="+", metavar="RUN", help="runs or sweeps, by id or its first characters; or run folders"
    )
    verb.add_argument("--json", action="store_true", help="for programs")
    _picture_options(verb, "curves")

    verb = _verb(table, "list", "all runs, newest first", runs.list_runs)
    verb.add_argument("--state", choices=_STATES, type=str.upper, help="only runs in this state")
    verb.add_argument("--json", action="store_true", help="for programs")

    verb = _verb(table, "schema", "the JSON Schema of a job, cluster or pipeline file", look.schema)
    verb.add_argument("kind", choices=("job", "cluster", "pipeline"), help="of which file")

    verb = _verb(table, "doctor", "what this machine has and lacks", look.doctor)
    verb.add_argument("--json", action="store_true", help="for programs")
    return made


def _verb(
    table: Any, name: str, text: str, function: Any, aliases: Sequence[str] = ()
) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = table.add_parser(
        name, help=text, description=text[0].upper() + text[1:] + ".", aliases=aliases, allow_abbrev=False
    )
    made.set_defaults(function=function, parser=made)
    return made


def _file_options(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--cluster", metavar="NAME|FILE", help="where, instead of the job's `cluster:`")
    verb.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="settings",
        help="change a field of the files",
    )
    verb.add_argument(
        "--strict", action="store_true", help="take warnings about environment variables as errors"
    )


def _job_options(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("job", metavar="JOB", help="a job file, or a pipeline of jobs")
    _file_options(verb)
    verb.add_argument("--name", default="", metavar="SUFFIX", help="added to the run's id")


def _plan_options(verb: argparse.ArgumentParser) -> None:
    either = verb.add_mutually_exclusive_group()
    either.add_argument(
        "--max-model", metavar="FAMILY", help="the largest model of a family (llama, gpt …) that would fit"
    )
    either.add_argument("--min-nodes", action="store_true", help="the fewest hosts on which the job fits")
    _picture_options(verb, "bars of memory")


def _picture_options(verb: argparse.ArgumentParser, what: str) -> None:
    verb.add_argument(
        *("--plot", "--html", "--png"),
        action="append",
        default=[],
        metavar="FILE",
        help=f"also draw {what} into FILE.html, .png, .svg or .pdf; needs matplotlib",
    )


def _after_option(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--after", action="append", default=[], metavar="RUN", help="start when this run has succeeded"
    )


def _slurm_options(verb: argparse.ArgumentParser) -> None:
    _exclude_option(verb)
    verb.add_argument(
        "--sweep",
        action="append",
        default=[],
        metavar="KEY=V,V…",
        help="a run for each combination, as one array",
    )


def _exclude_option(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--exclude-bad", action="store_true", help="stay away from hosts that failed lately (bad-hosts.txt)"
    )


def _run_option(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("run", metavar="RUN", help="a run's id, or its first characters")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code; see errors.py for what each means."""
    # imports make many objects and no garbage: looking for some is 5% of a command's time
    gc.set_threshold(100_000)
    # pydantic looks through every installed package for plugins, a tenth of the command's time, and there are none
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    streams.protect_stderr()
    streams.use_utf8()
    try:
        args, unknown = parser().parse_known_args(argv)
        if unknown:
            args.parser.unknown(unknown)
        code = int(args.function(args))
        if sys.stdout:
            sys.stdout.flush()  # what goes wrong with it goes wrong here, not at exit
        return code
    except LauncherError as error:
        return tell(error)
    except KeyboardInterrupt:
        say("interrupted")
        return INTERRUPTED
    except BrokenPipeError:  # the reader, such as `head`, has gone
        streams.drop_output()
        return 0
    except OSError as error:  # a full disk, a quota, a folder that may not be entered
        streams.drop_output()
        say(f"error: {error.filename or 'output'}: {error.strerror or error}")
        return USAGE
    except Exception:
        traceback.print_exc()
        say("this is a bug in the launcher: please report it with the lines above")
        return BUG
