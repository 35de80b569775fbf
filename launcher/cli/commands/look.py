"""Verbs that show and change nothing: plan, check, diff, list, status, logs, report, compare."""

from __future__ import annotations

from launcher.cli import arguments, completion, options
from launcher.cli.arguments import filled
from launcher.cli.commands import shared
from launcher.cli.verbs import again, check, look, plan, report, runs

_STATES = ("PENDING", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED", "UNKNOWN")


def add_look(verbs: arguments.Verbs) -> None:
    """Add the verbs."""
    verbs.group("look")
    _add_of_jobs(verbs)
    _add_of_runs(verbs)


def _add_of_jobs(verbs: arguments.Verbs) -> None:
    what = "batch arithmetic, memory, DeepSpeed configuration, environment"
    if verb := verbs.add("plan", what, plan.show_plan, options.Plan):
        shared.job_options(verb)
        shared.json_option(verb)
        either = verb.add_mutually_exclusive_group()
        what = "the largest model of a family (llama, gpt …) that would fit"
        either.add_argument("--max-model", type=filled, metavar="FAMILY", help=what)
        either.add_argument("--min-nodes", action="store_true", help="the fewest hosts on which the job fits")
        shared.picture_options(verb, "bars of memory")

    what = "validate jobs and render them for every scheduler; submit nothing"
    if verb := verbs.add("check", what, check.check, options.Check):
        verb.add_argument("jobs", nargs="+", type=filled, metavar="JOB", help="job and pipeline files")
        what = "only for this scheduler, on which it then must be possible: local, slurm or kubernetes"
        shared.repeated(verb, "--on", dest="on", metavar="SCHEDULER", what=what, choices=shared.SCHEDULERS)
        what = "ask the scheduler too whether it could start as it is: limits, rights, quota; submit nothing"
        shared.flag(verb, "--live", what)
        shared.file_options(verb)

    what = "what a job would change: in its live Kubernetes objects, or against its last run on Slurm or here"
    if verb := verbs.add("diff", what, look.diff, options.Diff):
        shared.job_options(verb)
        what = "where it would run: kubernetes (default), slurm or local"
        verb.add_argument(
            "--on", choices=shared.SCHEDULERS, default="kubernetes", metavar="SCHEDULER", help=what
        )


def _add_of_runs(verbs: arguments.Verbs) -> None:
    if verb := verbs.add("list", "all runs, newest first", runs.list_runs, options.List):
        shared.flag(verb, "--all", "also the runs of this user in other folders")
        verb.add_argument("--state", choices=_STATES, type=str.upper, help="only runs in this state")
        shared.json_option(verb)

    if verb := verbs.add("status", "show a run's status", runs.status, options.Run):
        shared.run_option(verb)
        shared.json_option(verb)

    if verb := verbs.add("logs", "show a run's logs", runs.logs, options.Run):
        shared.run_option(verb)
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
        shared.json_option(verb)
        shared.picture_options(verb, "curves")

    what = "what differs between two runs, and the step at which their losses part"
    if verb := verbs.add("compare", what, again.compare, options.Compare):
        what = "a run, by its id or the start of it, or its folder"
        for name in ("one", "other"):
            verb.add_argument(name, metavar="RUN", help=what).completer = completion.runs  # type: ignore[attr-defined]
        shared.json_option(verb)
