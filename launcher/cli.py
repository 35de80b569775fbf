"""Words on the command line to calls: verbs, streams, exit codes.

The only place that prints or exits. Every verb imports what it needs inside its function, so `--help` stays light.
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import TYPE_CHECKING, Any

from launcher import __version__, arguments, streams
from launcher.errors import LauncherError, did_you_mean

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from launcher.plan import Plan
    from launcher.runs import Run

_STATES = ("PENDING", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED", "UNKNOWN")
OK, JOB_FAILED, USAGE, BUG, INTERRUPTED = 0, 1, 2, 70, 130


def say(text: str) -> None:
    """Talk goes to stderr: stdout is for data."""
    print(text, file=sys.stderr, flush=True)


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    made = arguments.Parser(
        prog="launcher",
        description="Run one DeepSpeed job file on this machine, on Slurm or on Kubernetes.",
        allow_abbrev=False,
    )
    made.add_argument("--version", action="version", version=f"launcher {__version__}")
    verbs = made.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=arguments.Parser)

    for name, aliases, where in (
        ("local", (), "on this machine"),
        ("slurm", (), "on a Slurm cluster"),
        ("kubernetes", ("k8s",), "on Kubernetes"),
    ):
        verb = _verb(verbs, name, f"run a job {where}", launch, aliases)
        _job_options(verb)
        verb.add_argument(
            "--dry-run", action="store_true", help="print what would be submitted, submit nothing"
        )
        verb.add_argument("-o", dest="output", metavar="DIR", help="write what would be submitted to DIR")
        verb.add_argument("--force", action="store_true", help="submit although it should not fit in memory")
        verb.add_argument(
            "--wait", action="store_true", help="follow the run to its end; exit 1 if it failed"
        )
        if name == "slurm":
            _slurm_options(verb)
        if name == "kubernetes":
            verb.add_argument(
                "--server-dry-run", action="store_true", help="ask the API server about it, submit nothing"
            )
        verb.set_defaults(scheduler=name)

    verb = _verb(
        verbs, "plan", "what would run: batch arithmetic, DeepSpeed configuration, environment", show_plan
    )
    _job_options(verb)
    verb.add_argument("--json", action="store_true", help="for programs")

    verb = _verb(verbs, "check", "validate jobs and render them for every scheduler; submit nothing", check)
    verb.add_argument("jobs", nargs="+", metavar="JOB", help="job files")
    _file_options(verb)

    verb = _verb(verbs, "diff", "what applying a job would change on its live Kubernetes objects", diff)
    _job_options(verb)

    verb = _verb(verbs, "hostfile", "hosts, or the current allocation, as DeepSpeed's hostfile", hostfile)
    verb.add_argument("hostlist", nargs="?", metavar="HOSTLIST|-", help="node[1-4,7]; - reads stdin")
    verb.add_argument("--slots", type=int, metavar="N", help="ranks per host")

    verb = _verb(
        verbs, "env", "a fabric's NCCL environment as export lines, each with its reason", fabric_env
    )
    verb.add_argument("fabric", nargs="?", metavar="FABRIC", help="without it: the fabrics that are known")
    verb.add_argument("--json", action="store_true", help="for programs")

    verb = _verb(verbs, "status", "how a run is", status)
    _run_option(verb)
    verb.add_argument("--json", action="store_true", help="for programs")

    verb = _verb(verbs, "logs", "a run's log lines", logs)
    _run_option(verb)
    verb.add_argument("-f", "--follow", action="store_true", help="until the run ends")
    verb.add_argument("--rank", type=int, metavar="N", help="only this rank's")
    verb.add_argument("--host", metavar="H", help="only this host's")

    _run_option(_verb(verbs, "cancel", "end a run", cancel))

    verb = _verb(
        verbs, "resume", "let a run that ended go on in its folder, from its last checkpoint", resume
    )
    _run_option(verb)
    _exclude_option(verb)

    verb = _verb(verbs, "report", "the runs of a sweep with what came out, best first", report)
    verb.add_argument("sweep", metavar="SWEEP", help="a sweep's id, or its first characters")
    verb.add_argument("--json", action="store_true", help="for programs")

    verb = _verb(verbs, "list", "all runs, newest first", list_runs)
    verb.add_argument("--state", choices=_STATES, type=str.upper, help="only runs in this state")
    verb.add_argument("--json", action="store_true", help="for programs")

    verb = _verb(verbs, "schema", "the JSON Schema of a job or cluster file", schema)
    verb.add_argument("kind", choices=("job", "cluster"), help="which of the two")

    verb = _verb(verbs, "doctor", "what this machine has and lacks", doctor)
    verb.add_argument("--json", action="store_true", help="for programs")
    return made


def _verb(
    verbs: Any, name: str, text: str, function: Any, aliases: Sequence[str] = ()
) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = verbs.add_parser(
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


def _job_options(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("job", metavar="JOB", help="a job file")
    _file_options(verb)
    verb.add_argument("--name", default="", metavar="SUFFIX", help="added to the run's id")


def _slurm_options(verb: argparse.ArgumentParser) -> None:
    _exclude_option(verb)
    verb.add_argument(
        "--after", action="append", default=[], metavar="RUN", help="start when this run has succeeded"
    )
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


def _plan(args: argparse.Namespace, point: Sequence[str] = (), suffix: str = "") -> Plan:
    # pydantic looks through every installed package for plugins, a tenth of the command's time, and there are none
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    from launcher import load, placement, plan, site, spec
    from launcher.errors import SpecError

    if args.name and not spec.is_name(f"x{args.name}"):
        raise SpecError(
            f"--name {args.name!r} is not a valid suffix",
            hint="use lower case letters, digits and '-', ending with a letter or digit",
        )
    job, cluster = load.load(args.job, args.cluster, [*args.settings, *point])
    made = plan.make(job, cluster, site.here(), "-".join(filter(None, (args.name, suffix))))
    for note in made.notes:
        say(f"note: {note}")
    return placement.of(made, getattr(args, "after", ()), getattr(args, "exclude_bad", False), say)


def launch(args: argparse.Namespace) -> int:
    from launcher import schedulers

    scheduler = schedulers.load(args.scheduler)
    if getattr(args, "sweep", ()):
        return _sweep(args)
    plan = _plan(args)
    _must_fit(plan, args.force)
    if args.dry_run or args.output:
        files = scheduler.render(plan)
        if args.output:
            _write_output(args.output, getattr(scheduler, "separate", dict)(files))
        if args.dry_run:
            print("".join(files.values()), end="")
        return OK
    if getattr(args, "server_dry_run", False):
        return _rehearse(plan)
    from launcher import submit

    run = submit.submit(scheduler, args.scheduler, plan)
    say(f"{run.id}: submitted to {args.scheduler} ({run.native_id.partition(':')[0]}); folder {run.folder}")
    if args.wait:
        from launcher import progress

        return progress.follow(scheduler, run)
    say(f"follow it with: python -m launcher logs {run.id} -f")
    print(run.id)
    return OK


def _rehearse(plan: Plan) -> int:
    from launcher.schedulers import kubernetes

    for line in kubernetes.rehearse(plan, kubernetes.render(plan)):
        print(line)
    return OK


def _must_fit(plan: Plan, force: bool) -> None:
    """Refuse a plan that runs out of memory; with --force say so and go on."""
    if plan.fit is None or plan.fit.fits:
        return
    refusal = plan.fit.refusal()
    if not force:
        raise refusal
    say(f"warning: {refusal}")


def _sweep(args: argparse.Namespace) -> int:
    from launcher import submit, sweeps
    from launcher.errors import SpecError

    if args.wait or args.dry_run or args.output:
        raise SpecError(
            "--sweep goes neither with --wait nor --dry-run nor -o", hint="follow it with `report`"
        )
    points = sweeps.points(args.sweep)
    plans = [_plan(args, point, f"p{i}") for i, point in enumerate(points)]
    for plan in plans:
        _must_fit(plan, args.force)
    made = submit.sweep(plans, points)
    say(
        f"{made.id}: {len(points)} runs submitted as one array; see them with: python -m launcher report {made.id}"
    )
    print(made.id)
    return OK


def _write_output(folder: str, files: dict[str, str]) -> None:
    from pathlib import Path

    from launcher import runs
    from launcher.errors import SpecError

    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        runs.write_files(Path(folder), files)
    except OSError as error:
        raise SpecError(f"-o {folder}: {error.strerror}", hint="name a folder that can be written") from None
    for name in files:
        say(f"wrote {Path(folder) / name}")


def show_plan(args: argparse.Namespace) -> int:
    from launcher import show

    print(show.plan_json(_plan(args)) if args.json else show.plan(_plan(args)))
    return OK


def check(args: argparse.Namespace) -> int:
    from launcher import load, plan, schedulers, site

    here = site.here()
    worst = OK
    for path in args.jobs:
        try:
            made = plan.make(*load.load(path, args.cluster, args.settings), here)
        except LauncherError as error:
            worst = max(worst, _report(error, f"{path}: "))
            continue
        if made.fit and not made.fit.fits:
            worst = max(worst, _report(made.fit.refusal(), f"{path}: "))
            continue
        for name in schedulers.SCHEDULERS:
            try:
                schedulers.load(name).render(made)
            except LauncherError as error:
                _report(error, f"{path}: not on {name}: ")
            else:
                print(f"{path}: ok on {name}")
    return worst


def diff(args: argparse.Namespace) -> int:
    from launcher.schedulers import kubernetes

    changes = kubernetes.diff(_plan(args))
    print(changes, end="")
    return JOB_FAILED if changes else OK  # as diff and `kubectl diff` do


def hostfile(args: argparse.Namespace) -> int:
    from launcher import allocation
    from launcher import hostfile as hostfiles

    text = sys.stdin.read() if args.hostlist == "-" else args.hostlist
    hosts = hostfiles.expand(text) if text is not None else allocation.hosts()
    print(hostfiles.text(hosts, args.slots if args.slots is not None else allocation.slots()), end="")
    return OK


def fabric_env(args: argparse.Namespace) -> int:
    from launcher import nccl, show
    from launcher.errors import SpecError

    if args.fabric is None:
        print(show.fabrics(args.json))
        return OK
    if args.fabric not in nccl.FABRICS:
        raise SpecError(f"unknown fabric {args.fabric!r}", hint=did_you_mean(args.fabric, nccl.FABRICS))
    fabric = nccl.FABRICS[args.fabric]
    variables = nccl.environment(fabric, gpu=True, interface=None)
    print(show.variables_json(variables) if args.json else nccl.text(variables, fabric.script).rstrip("\n"))
    return OK


def status(args: argparse.Namespace) -> int:
    from launcher import show

    run = _find(args.run)
    now = _scheduler(run).status(run)
    print(show.status_json(run, now) if args.json else show.status(run, now))
    return OK


def logs(args: argparse.Namespace) -> int:
    from launcher.schedulers import Selection

    run = _find(args.run)
    for line in _scheduler(run).logs(run, Selection(args.rank, args.host, args.follow)):
        print(line, flush=args.follow)
    return OK


def cancel(args: argparse.Namespace) -> int:
    run = _find(args.run)
    _scheduler(run).cancel(run)
    say(f"{run.id}: {_scheduler(run).status(run).state}")
    return OK


def resume(args: argparse.Namespace) -> int:
    from launcher import placement, submit

    run = submit.resume(_find(args.run), placement.bad_hosts(say) if args.exclude_bad else ())
    say(f"{run.id}: goes on as {run.native_id.partition(':')[0]}; it was {run.former[-1].partition(':')[0]}")
    return OK


def report(args: argparse.Namespace) -> int:
    from launcher import show, site, sweeps

    print(show.sweep(sweeps.results(sweeps.find(site.runs(), args.sweep)), args.json))
    return OK


def list_runs(args: argparse.Namespace) -> int:
    from launcher import runs, schedulers, show, site

    found = list(runs.listed(site.runs()))
    pairs = list(zip(found, schedulers.statuses(found), strict=True))
    print(show.run_list([p for p in pairs if args.state in (None, p[1].state)], args.json))
    return OK


def schema(args: argparse.Namespace) -> int:
    import json

    from launcher import spec

    print(json.dumps(spec.schema(args.kind), indent=2))
    return OK


def doctor(args: argparse.Namespace) -> int:
    from launcher import doctor as checks

    print(checks.report_json() if args.json else checks.report())
    return OK


def _find(name: str) -> Run:
    from launcher import runs, site

    return runs.find(site.runs(), name)


def _scheduler(run: Run) -> Any:
    from launcher import schedulers

    return schedulers.load(run.scheduler)


def _report(error: LauncherError, prefix: str = "error: ") -> int:
    for problem in error.problems:
        say(f"{'' if problem.place else prefix}{problem}")
    return error.exit_code


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code; see errors.py for what each means."""
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
        return _report(error)
    except KeyboardInterrupt:
        say("interrupted")
        return INTERRUPTED
    except BrokenPipeError:  # the reader, such as `head`, has gone
        streams.drop_output()
        return OK
    except OSError as error:  # a full disk, a quota, a folder that may not be entered
        streams.drop_output()
        say(f"error: {error.filename or 'output'}: {error.strerror or error}")
        return USAGE
    except Exception:
        traceback.print_exc()
        say("this is a bug in the launcher: please report it with the lines above")
        return BUG
