"""Words on the command line to calls: verbs, streams, exit codes.

Owns the options and the exit code of every failure; what a verb does is in cli/verbs/.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
from typing import TYPE_CHECKING

from launcher import ROOT, __version__
from launcher.cli import arguments, completion, options, streams
from launcher.cli.arguments import filled, whole
from launcher.cli.streams import say, say_problems
from launcher.cli.verbs import (
    again,
    check,
    checkpoints,
    cluster,
    data,
    fetch,
    launch,
    look,
    plan,
    prove,
    report,
    runs,
    shell,
    tune,
)
from launcher.errors import LauncherError, ToolMissingError

if TYPE_CHECKING:
    from collections.abc import Sequence

_SCHEDULERS = ("local", "slurm", "kubernetes", "k8s")
_STATES = ("PENDING", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED", "UNKNOWN")
USAGE, BUG, INTERRUPTED = 2, 70, 130


def parser(only: str | None = None) -> arguments.Parser:
    """The command line; with `only`, as much of it as this verb needs."""
    root = arguments.Parser(
        prog="launcher",
        description="Run one DeepSpeed job file on this machine, on Slurm or on Kubernetes.",
        allow_abbrev=False,
    )
    root.add_argument("--version", action="version", version=f"launcher {__version__}")
    verbs = arguments.Verbs(root, only)
    _add_run(verbs)
    _add_look(verbs)
    _add_operate(verbs)
    _add_cluster(verbs)
    _add_data(verbs)
    _add_files(verbs)
    return root


def _add_run(verbs: arguments.Verbs) -> None:
    verbs.group("run")
    for name, aliases, where in (
        ("local", (), "on this machine"),
        ("slurm", (), "on a Slurm cluster"),
        ("kubernetes", ("k8s",), "on Kubernetes"),
    ):
        what = f"run a job {where}"
        if verb := verbs.add(name, what, launch.launch, options.Launch, aliases=aliases):
            _launch_options(verb, name)
    what = "show by short runs that a job goes on after kills and signals as if nothing had happened"
    if verb := verbs.add("prove", what, prove.prove, options.Prove):
        _prove_options(verb)

    what = "try configurations of a job in one allocation, and write the job file with the best"
    if verb := verbs.add("tune", what, tune.tune, options.Tune):
        _tune_options(verb)


def _tune_options(verb: argparse.ArgumentParser) -> None:
    what = "a job file; or the id of a tuning run, whose results are shown"
    verb.add_argument("job", type=filled, metavar="JOB|RUN", help=what).completer = completion.jobs  # type: ignore[attr-defined]
    _file_options(verb)
    _name_option(verb)
    what = "where it runs: local (default), slurm or kubernetes"
    verb.add_argument("--on", choices=_SCHEDULERS, default="local", metavar="SCHEDULER", help=what)
    what = "values to try instead of the usual ones: preset, micro, checkpointing, overlap, buckets, hpz"
    _repeated(verb, "--space", dest="space", metavar="KEY=V,V…", what=what)
    what = "steps of each trial at first; four times as many for the best quarter, and so on (default: 5)"
    verb.add_argument("--steps", type=int, default=5, metavar="N", help=what)
    what = "time of a trial at first, its start included (default: 10m)"
    verb.add_argument("--limit", default="10m", metavar="TIME", help=what)
    what = "candidates that are tried, the fastest by the plan (default: 24)"
    verb.add_argument("--most", type=int, default=24, metavar="N", help=what)
    _flag(verb, "--dry-run", "print the candidates with what the plan says of each; submit nothing")
    _flag(verb, "--wait", "follow the run until it ends, and show what it found")
    what = "write the job file with the best configuration to the new FILE"
    verb.add_argument("-o", dest="output", type=filled, metavar="FILE", help=what)
    _json_option(verb)
    _picture_options(verb, "step times")


def _launch_options(verb: argparse.ArgumentParser, scheduler: str) -> None:
    _job_options(verb)
    _flag(verb, "--dry-run", "print what would be submitted; submit nothing")
    verb.add_argument(
        "-o", dest="output", type=filled, metavar="DIR", help="write what would be submitted to DIR"
    )
    _flag(verb, "--force", "submit even if the plan does not fit or the image lacks something")
    _flag(verb, "--wait", "follow the run until it ends; exit code 1 if it failed")
    what = "start when this run has succeeded" + (", with --wait" if scheduler == "kubernetes" else "")
    _repeated(verb, "--after", dest="after", metavar="RUN", what=what)
    if scheduler == "local":
        _flag(verb, "--debug", "rank 0 in the foreground, with this terminal: breakpoint() works")
    if scheduler != "local":
        _exclude_option(verb)
        what = "a run for each combination" + (", as one job array" if scheduler == "slurm" else "")
        _repeated(verb, "--sweep", dest="sweep", metavar="KEY=V,V…", what=what)
    if scheduler == "kubernetes":
        _flag(verb, "--server-dry-run", "validate by the API server's dry run; submit nothing")
        what = "with --dry-run: also the claims that the job names, of this size: 1Ti, or 1Ti:CLASS"
        verb.add_argument("--with-claims", type=filled, metavar="SIZE[:CLASS]", help=what)
    verb.set_defaults(scheduler=scheduler)


def _add_look(verbs: arguments.Verbs) -> None:
    verbs.group("look")
    what = "batch arithmetic, memory, DeepSpeed configuration, environment"
    if verb := verbs.add("plan", what, plan.show_plan, options.Plan):
        _job_options(verb)
        _json_option(verb)
        either = verb.add_mutually_exclusive_group()
        what = "the largest model of a family (llama, gpt …) that would fit"
        either.add_argument("--max-model", type=filled, metavar="FAMILY", help=what)
        either.add_argument("--min-nodes", action="store_true", help="the fewest hosts on which the job fits")
        _picture_options(verb, "bars of memory")

    what = "validate jobs and render them for every scheduler; submit nothing"
    if verb := verbs.add("check", what, check.check, options.Check):
        verb.add_argument("jobs", nargs="+", type=filled, metavar="JOB", help="job and pipeline files")
        what = "only for this scheduler, on which it then must be possible: local, slurm or kubernetes"
        _repeated(verb, "--on", dest="on", metavar="SCHEDULER", what=what, choices=_SCHEDULERS)
        what = "ask the scheduler too whether it could start as it is: limits, rights, quota; submit nothing"
        _flag(verb, "--live", what)
        _file_options(verb)

    what = "what a job would change: in its live Kubernetes objects, or against its last run on Slurm or here"
    if verb := verbs.add("diff", what, look.diff, options.Diff):
        _job_options(verb)
        what = "where it would run: kubernetes (default), slurm or local"
        verb.add_argument("--on", choices=_SCHEDULERS, default="kubernetes", metavar="SCHEDULER", help=what)

    if verb := verbs.add("list", "all runs, newest first", runs.list_runs, options.List):
        _flag(verb, "--all", "also the runs of this user in other folders")
        verb.add_argument("--state", choices=_STATES, type=str.upper, help="only runs in this state")
        _json_option(verb)

    if verb := verbs.add("status", "show a run's status", runs.status, options.Run):
        _run_option(verb)
        _json_option(verb)

    if verb := verbs.add("logs", "show a run's logs", runs.logs, options.Run):
        _run_option(verb)
        verb.add_argument("-f", "--follow", action="store_true", help="until the run ends")
        verb.add_argument("--rank", type=int, metavar="N", help="only this rank's")
        verb.add_argument("--host", type=filled, metavar="H", help="only this host's")

    what = "what runs or a sweep measured, and where their GPU hours went: tables, curves"
    if verb := verbs.add("report", what, report.report, options.Report):
        what = "runs, pipelines or sweeps, by id or the start of it; or run folders"
        verb.add_argument("runs", nargs="*", metavar="RUN", help=what).completer = completion.runs  # type: ignore[attr-defined]
        what = "instead of RUN: every run here that was submitted since, such as 30d"
        verb.add_argument("--since", type=filled, metavar="TIME", help=what)
        what = "as a page that is drawn anew; on 127.0.0.1 unless a host is named, default: a free port"
        address = "[HOST:]PORT"
        verb.add_argument("--serve", nargs="?", const="0", type=filled, metavar=address, help=what)
        _json_option(verb)
        _picture_options(verb, "curves")

    what = "what differs between two runs, and the step at which their losses part"
    if verb := verbs.add("compare", what, again.compare, options.Compare):
        what = "a run, by its id or the start of it, or its folder"
        for name in ("one", "other"):
            verb.add_argument(name, metavar="RUN", help=what).completer = completion.runs  # type: ignore[attr-defined]
        _json_option(verb)


def _prove_options(verb: argparse.ArgumentParser) -> None:
    _job_options(verb)
    what = "where its runs are made: local (default) or slurm"
    verb.add_argument(
        "--on", dest="scheduler", choices=_SCHEDULERS, default="local", metavar="SCHEDULER", help=what
    )
    verb.add_argument("--kills", type=whole, default=1, metavar="N", help="kill a rank so often; default: 1")
    what = "optimizer steps of each run; default: 16, or more with more kills"
    verb.add_argument("--steps", type=whole, metavar="N", help=what)
    _flag(verb, "--force", "also if the plan does not fit or the image lacks something")
    _json_option(verb)


def _add_operate(verbs: arguments.Verbs) -> None:
    verbs.group("operate")
    if verb := verbs.add("cancel", "cancel a run", runs.cancel, options.Run):
        _run_option(verb)

    what = "resume a run in place from its latest checkpoint"
    if verb := verbs.add("resume", what, runs.resume, options.Run):
        _run_option(verb)
        _exclude_option(verb)

    what = "a shell with a rank's environment, inside the running job"
    if verb := verbs.add("shell", what, shell.shell, options.Shell):
        _run_option(verb)
        either = verb.add_mutually_exclusive_group()
        either.add_argument("--rank", type=int, metavar="N", help="beside this rank; default: 0")
        either.add_argument("--host", type=filled, metavar="H", help="on this host, beside its first rank")

    if verb := verbs.add(
        "stacks", "what each rank of a running run is in right now", shell.stacks, options.Run
    ):
        _run_option(verb)
        _json_option(verb)

    what = "traces by torch's profiler or nsys of ranks of a running run, into its folder"
    if verb := verbs.add("profile", what, shell.profile, options.Profile):
        _profile_options(verb)

    if verb := verbs.add("rerun", "run the same once more, as a new run", again.rerun, options.Rerun):
        _run_option(verb)
        _flag(verb, "--force", "also where code, data, image or packages have changed since")
        _flag(verb, "--wait", "follow the run until it ends; exit code 1 if it failed")

    what = "the checkpoints of a run: list, verify, export or delete them"
    if verb := verbs.add("checkpoints", what, checkpoints.checkpoints, options.Checkpoints):
        _checkpoint_options(verb)

    what = "copy files of a run's folder here, also from a claim of Kubernetes"
    if verb := verbs.add("fetch", what, fetch.fetch, options.Fetch):
        _run_option(verb)
        what = "a file or folder of the run folder, such as export/; . is all of it"
        verb.add_argument("path", type=filled, metavar="PATH", help=what)
        what = "the folder for the file, or for what is in the folder"
        verb.add_argument("dest", type=filled, metavar="DEST", help=what)
        _flag(verb, "--force", "overwrite files that are there and differ")


def _profile_options(verb: argparse.ArgumentParser) -> None:
    _run_option(verb)
    verb.add_argument("--steps", type=filled, default="10", metavar="N", help="how many steps; default: 10")
    what = "0,5 or 0-7 or all; default: 0"
    verb.add_argument("--ranks", type=filled, default="0", metavar="LIST", help=what)
    what = "default: torch, its profiler; nsys is for runs with `profile: {nsys: true}`, of which it takes GPU work"
    verb.add_argument("--tool", choices=("torch", "nsys"), default="torch", help=what)
    what = "give up when no rank of them has done a step for so long; default: 10m"
    verb.add_argument("--timeout", type=filled, default="10m", metavar="TIME", help=what)
    _json_option(verb)


def _checkpoint_options(verb: argparse.ArgumentParser) -> None:
    _run_option(verb)
    either = verb.add_mutually_exclusive_group()
    either.add_argument("--verify", action="store_true", help="read each byte, and compare the digests")
    what = "write the newest as a model for transformers to the new folder DIR; needs torch"
    either.add_argument("--export", type=filled, metavar="DIR", help=what)
    either.add_argument(
        "--keep", type=int, metavar="N", help="delete all but the newest N, once the run has ended"
    )
    verb.add_argument("--step", type=int, metavar="N", help="with --export: the checkpoint of this step")
    _json_option(verb)


def _add_cluster(verbs: arguments.Verbs) -> None:
    verbs.group("cluster")
    what = "write the cluster file of what is there, measure its hosts, or print the Role that the launcher needs"
    if verb := verbs.add("cluster", what, cluster.cluster, options.Cluster):
        actions = ("discover", "probe", "measured", "rbac")
        what = "discover, probe (measure the hosts, a minute), measured (keep what runs took) or rbac"
        verb.add_argument("action", choices=actions, metavar="ACTION", help=what)
        what = (
            "discover: slurm, kubernetes or local, default: what this machine has; probe, measured: a cluster"
        )
        subject = verb.add_argument("subject", nargs="?", type=filled, metavar="SCHEDULER|CLUSTER", help=what)
        subject.completer = completion.clusters  # type: ignore[attr-defined]
        _discover_options(verb)
        what = "rbac: only what runs on this cluster need; default: of every kind"
        option = verb.add_argument("--cluster", type=filled, metavar="NAME|FILE", help=what)
        option.completer = completion.clusters  # type: ignore[attr-defined]
        what = "probe: slurm, kubernetes or local; default: what this machine has"
        verb.add_argument("--on", choices=_SCHEDULERS, metavar="SCHEDULER", help=what)
        what = "probe: how many hosts; default: two, of one that there is, or on this machine, one"
        verb.add_argument("--nodes", type=int, metavar="N", help=what)
        what = "probe: change a field of jobs/probe.yaml or of the cluster file: args.rounds=3"
        _repeated(verb, "--set", dest="settings", metavar="KEY=VALUE", what=what)
        what = "measured: this run; default: each here that ran on the cluster and has ended well"
        _repeated(verb, "--from", dest="from", metavar="RUN", what=what)

    what = "DeepSpeed's hostfile of a host list or allocation"
    if verb := verbs.add("hostfile", what, look.hostfile, options.Look):
        verb.add_argument("hostlist", nargs="?", metavar="HOSTLIST|-", help="node[1-4,7]; - reads stdin")
        verb.add_argument("--slots", type=int, metavar="N", help="ranks per host")

    what = "a fabric's NCCL environment as export lines, each with its reason"
    if verb := verbs.add("env", what, look.fabric_env, options.Look):
        verb.add_argument("fabric", nargs="?", metavar="FABRIC", help="without it: all fabrics are listed")
        _json_option(verb)

    if verb := verbs.add("doctor", "what this machine has and lacks", look.doctor, options.Look):
        verb.add_argument("--cluster", metavar="NAME|FILE", help="also its `python:`, as ranks would have it")
        _json_option(verb)


def _discover_options(verb: argparse.ArgumentParser) -> None:
    what = "write to FILE instead of standard output"
    verb.add_argument("-o", dest="output", type=filled, metavar="FILE", help=what)
    _flag(verb, "--force", "overwrite FILE")
    what = "discover: show how FILE would change, and write nothing; exit code 1 if it would"
    _flag(verb, "--update", what)
    what = "discover: then measure the hosts, and put interface, devices, memory and bandwidth into FILE"
    _flag(verb, "--probe", what)
    what = "discover slurm: the hosts of this partition; default: Slurm's own default"
    verb.add_argument("--partition", type=filled, metavar="NAME", help=what)
    what = "discover kubernetes: of the kubeconfig; default: the current one"
    verb.add_argument("--context", type=filled, metavar="NAME", help=what)
    what = "of Kubernetes; default: that of the context, or of the cluster file"
    verb.add_argument("--namespace", type=filled, metavar="NAME", help=what)


def _add_data(verbs: arguments.Verbs) -> None:
    verbs.group("data")
    what = "the tokenized texts that runs share: list them, show one, remove one"
    if verb := verbs.add("data", what, data.data, options.Data):
        actions = ("list", "show", "remove")
        verb.add_argument("action", choices=actions, metavar="ACTION", help="list, show or remove")
        verb.add_argument("key", nargs="?", metavar="KEY", help="a text's key, or the start of it")
        what = "the folder to look in; default: $DATA_CACHE, else data/ of each run here"
        either = verb.add_mutually_exclusive_group()
        either.add_argument("--cache", type=filled, metavar="DIR", help=what)
        what = "the `data_cache` of this cluster"
        option = either.add_argument("--cluster", type=filled, metavar="NAME|FILE", help=what)
        option.completer = completion.clusters  # type: ignore[attr-defined]
        _json_option(verb)


def _add_files(verbs: arguments.Verbs) -> None:
    verbs.group("files and shell")
    what = "the JSON Schema of a job, cluster or pipeline file"
    if verb := verbs.add("schema", what, look.schema, options.Look):
        verb.add_argument("kind", choices=("job", "cluster", "pipeline"), help="of which file")

    what = "a shell's completion of verbs, options, runs and jobs"
    if verb := verbs.add("completion", what, look.completion, options.Look):
        what = 'which one; bash: eval "$(launcher completion bash)"'
        verb.add_argument("shell", choices=completion.SHELLS, help=what)


def _file_options(verb: argparse.ArgumentParser) -> None:
    what = "where it runs, instead of the job's `cluster:`"
    option = verb.add_argument("--cluster", type=filled, metavar="NAME|FILE", help=what)
    option.completer = completion.clusters  # type: ignore[attr-defined]
    what = 'change a field of the files; a key with dots is quoted: mounts."/a.b"=/b'
    _repeated(verb, "--set", dest="settings", metavar="KEY=VALUE", what=what)
    _flag(verb, "--strict", "treat warnings about environment variables as errors")


def _job_options(verb: argparse.ArgumentParser) -> None:
    job = verb.add_argument("job", type=filled, metavar="JOB", help="a job file, or a pipeline of jobs")
    job.completer = completion.jobs  # type: ignore[attr-defined]
    _file_options(verb)
    _name_option(verb)


def _name_option(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--name", type=filled, default=argparse.SUPPRESS, metavar="SUFFIX", help="appended to the run's id"
    )


def _picture_options(verb: argparse.ArgumentParser, what: str) -> None:
    verb.add_argument(
        *("--plot", "--html", "--png"),
        action="append",
        default=[],
        type=filled,
        metavar="FILE",
        help=f"also draw {what} into FILE.html, .png, .svg or .pdf; needs matplotlib",
    )


def _exclude_option(verb: argparse.ArgumentParser) -> None:
    _flag(verb, "--exclude-bad", "exclude hosts that failed recently (bad-hosts.txt)")


def _run_option(verb: argparse.ArgumentParser) -> None:
    option = verb.add_argument("run", metavar="RUN", help="the id of a run or pipeline, or the start of it")
    option.completer = completion.runs  # type: ignore[attr-defined]


def _json_option(verb: argparse.ArgumentParser) -> None:
    _flag(verb, "--json", "machine-readable output (JSON)")


def _flag(verb: argparse.ArgumentParser, name: str, what: str) -> None:
    verb.add_argument(name, action="store_true", help=what)


def _repeated(
    verb: argparse.ArgumentParser,
    name: str,
    *,
    dest: str,
    metavar: str,
    what: str,
    choices: Sequence[str] | None = None,
) -> None:
    option = verb.add_argument(
        name, action="append", default=[], dest=dest, metavar=metavar, help=what, choices=choices
    )
    if metavar == "RUN":
        option.completer = completion.runs  # type: ignore[attr-defined]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code; see errors.py for what each means."""
    # imports make many objects and no garbage: looking for some is 5% of a command's time
    gc.set_threshold(100_000)
    streams.protect_stderr()
    streams.use_utf8()
    try:
        return _run(argv)
    except LauncherError as error:
        return say_problems(error)
    except KeyboardInterrupt:
        say("interrupted")
        return INTERRUPTED
    except BrokenPipeError:  # the reader, such as `head`, has gone
        streams.drop_output()
        return 0
    except OSError as error:  # a full disk, a quota, a folder that may not be entered
        streams.drop_output()
        say(f"error: {_unusable(error)}")
        return USAGE
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and not (error.name or "launcher").startswith("launcher"):
            return say_problems(_not_installed(str(error.name)))
        import traceback

        traceback.print_exc()
        say("this is a bug in the launcher: please report it with the lines above")
        return BUG


def _run(argv: Sequence[str] | None) -> int:
    if "_ARGCOMPLETE" in os.environ:
        completion.answer(parser())
    words = sys.argv[1:] if argv is None else list(argv)
    verb = next(
        (word for word in words if not word.startswith("-")), ""
    )  # the options before it take no values
    try:
        args, unknown = parser(verb).parse_known_args(words)
        if unknown:
            args.parser.unknown(unknown)
        code = int(args.function(args.options(**vars(args))))
    except SystemExit:  # of --help and --version
        _flush()
        raise
    _flush()
    return code


def _flush() -> None:
    # what goes wrong with it goes wrong here, not at exit
    if sys.stdout:
        sys.stdout.flush()


def _unusable(error: OSError) -> str:
    if isinstance(error, FileNotFoundError) and not error.filename:  # of os.getcwd()
        return "the folder that this command runs in no longer exists; change to another one"
    return f"{error.filename or 'output'}: {error.strerror or error}"


def _not_installed(package: str) -> ToolMissingError:
    here = f"in {ROOT}: make install, then . .venv/bin/activate"
    hint = here if (ROOT / "Makefile").exists() else "install this package with its dependencies"
    return ToolMissingError(f"{sys.executable} has no package {package!r}", hint=hint)
