"""Verbs that start runs: local, slurm, kubernetes, prove, tune."""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.cli import arguments, completion, options
from launcher.cli.arguments import filled, whole
from launcher.cli.commands import shared
from launcher.cli.verbs import launch, prove, tune

if TYPE_CHECKING:
    import argparse


def add_run(verbs: arguments.Verbs) -> None:
    """Add the verbs."""
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


def _launch_options(verb: argparse.ArgumentParser, scheduler: str) -> None:
    shared.job_options(verb)
    shared.flag(verb, "--dry-run", "print what would be submitted; submit nothing")
    verb.add_argument(
        "-o", dest="output", type=filled, metavar="DIR", help="write what would be submitted to DIR"
    )
    shared.flag(verb, "--force", "submit even if the plan does not fit or the image lacks something")
    shared.flag(verb, "--wait", "follow the run until it ends; exit code 1 if it failed")
    what = "start when this run has succeeded" + (", with --wait" if scheduler == "kubernetes" else "")
    shared.repeated(verb, "--after", dest="after", metavar="RUN", what=what)
    if scheduler == "local":
        shared.flag(verb, "--debug", "rank 0 in the foreground, with this terminal: breakpoint() works")
    if scheduler != "local":
        shared.exclude_option(verb)
        what = "a run for each combination" + (", as one job array" if scheduler == "slurm" else "")
        shared.repeated(verb, "--sweep", dest="sweep", metavar="KEY=V,V…", what=what)
    if scheduler == "kubernetes":
        shared.flag(verb, "--server-dry-run", "validate by the API server's dry run; submit nothing")
        what = "with --dry-run: also the claims that the job names, of this size: 1Ti, or 1Ti:CLASS"
        verb.add_argument("--with-claims", type=filled, metavar="SIZE[:CLASS]", help=what)
    verb.set_defaults(scheduler=scheduler)


def _prove_options(verb: argparse.ArgumentParser) -> None:
    shared.job_options(verb)
    what = "where its runs are made: local (default) or slurm"
    verb.add_argument(
        "--on", dest="scheduler", choices=shared.SCHEDULERS, default="local", metavar="SCHEDULER", help=what
    )
    verb.add_argument("--kills", type=whole, default=1, metavar="N", help="kill a rank so often; default: 1")
    what = "optimizer steps of each run; default: 16, or more with more kills"
    verb.add_argument("--steps", type=whole, metavar="N", help=what)
    shared.flag(verb, "--force", "also if the plan does not fit or the image lacks something")
    shared.json_option(verb)


def _tune_options(verb: argparse.ArgumentParser) -> None:
    what = "a job file; or the id of a tuning run, whose results are shown"
    verb.add_argument("job", type=filled, metavar="JOB|RUN", help=what).completer = completion.jobs  # type: ignore[attr-defined]
    shared.file_options(verb)
    shared.name_option(verb)
    what = "where it runs: local (default), slurm or kubernetes"
    verb.add_argument("--on", choices=shared.SCHEDULERS, default="local", metavar="SCHEDULER", help=what)
    what = "values to try instead of the usual ones: preset, micro, checkpointing, overlap, buckets, hpz"
    shared.repeated(verb, "--space", dest="space", metavar="KEY=V,V…", what=what)
    what = "steps of each trial at first; four times as many for the best quarter, and so on (default: 5)"
    verb.add_argument("--steps", type=int, default=5, metavar="N", help=what)
    what = "time of a trial at first, its start included (default: 10m)"
    verb.add_argument("--limit", default="10m", metavar="TIME", help=what)
    what = "candidates that are tried, the fastest by the plan (default: 24)"
    verb.add_argument("--most", type=int, default=24, metavar="N", help=what)
    shared.flag(verb, "--dry-run", "print the candidates with what the plan says of each; submit nothing")
    shared.flag(verb, "--wait", "follow the run until it ends, and show what it found")
    what = "write the job file with the best configuration to the new FILE"
    verb.add_argument("-o", dest="output", type=filled, metavar="FILE", help=what)
    shared.json_option(verb)
    shared.picture_options(verb, "step times")
