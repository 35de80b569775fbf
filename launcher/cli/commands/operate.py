"""Verbs for a run that there is: cancel, resume, shell, stacks, profile, rerun, checkpoints, fetch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.cli import arguments, options
from launcher.cli.arguments import filled
from launcher.cli.commands import shared
from launcher.cli.verbs import again, checkpoints, fetch, runs, shell

if TYPE_CHECKING:
    import argparse


def add_operate(verbs: arguments.Verbs) -> None:
    """Add the verbs."""
    verbs.group("operate")
    if verb := verbs.add("cancel", "cancel a run, a pipeline or a sweep", runs.cancel, options.Run):
        shared.run_option(verb)

    what = "resume a run in place from its latest checkpoint"
    if verb := verbs.add("resume", what, runs.resume, options.Run):
        shared.run_option(verb)
        shared.exclude_option(verb)
        shared.flag(verb, "--now", "do not wait for the runs that it was submitted after (Slurm)")

    what = "a shell with a rank's environment, inside the running job"
    if verb := verbs.add("shell", what, shell.shell, options.Shell):
        shared.run_option(verb)
        either = verb.add_mutually_exclusive_group()
        either.add_argument("--rank", type=int, metavar="N", help="beside this rank; default: 0")
        either.add_argument("--host", type=filled, metavar="H", help="on this host, beside its first rank")

    if verb := verbs.add(
        "stacks", "what each rank of a running run is in right now", shell.stacks, options.Run
    ):
        shared.run_option(verb)
        shared.json_option(verb)

    what = "traces by torch's profiler or nsys of ranks of a running run, into its folder"
    if verb := verbs.add("profile", what, shell.profile, options.Profile):
        _profile_options(verb)

    if verb := verbs.add("rerun", "run the same once more, as a new run", again.rerun, options.Rerun):
        shared.run_option(verb)
        shared.flag(verb, "--force", "also where code, data, image or packages have changed since")
        shared.flag(verb, "--wait", "follow the run until it ends; exit code 1 if it failed")

    what = "the checkpoints of a run: list, verify, export or delete them"
    if verb := verbs.add("checkpoints", what, checkpoints.checkpoints, options.Checkpoints):
        _checkpoint_options(verb)

    what = "copy files of a run's folder here, also from a claim of Kubernetes"
    if verb := verbs.add("fetch", what, fetch.fetch, options.Fetch):
        shared.run_option(verb)
        what = "a file or folder of the run folder, such as export/; . is all of it"
        verb.add_argument("path", type=filled, metavar="PATH", help=what)
        what = "the folder for the file, or for what is in the folder"
        verb.add_argument("dest", type=filled, metavar="DEST", help=what)
        shared.flag(verb, "--force", "overwrite files that are there and differ")


def _profile_options(verb: argparse.ArgumentParser) -> None:
    shared.run_option(verb)
    verb.add_argument("--steps", type=filled, default="10", metavar="N", help="how many steps; default: 10")
    what = "0,5 or 0-7 or all; default: 0"
    verb.add_argument("--ranks", type=filled, default="0", metavar="LIST", help=what)
    what = "default: torch, its profiler; nsys is for runs with `profile: {nsys: true}`, of which it takes GPU work"
    verb.add_argument("--tool", choices=("torch", "nsys"), default="torch", help=what)
    what = "give up when no rank of them has done a step for so long; default: 10m"
    verb.add_argument("--timeout", type=filled, default="10m", metavar="TIME", help=what)
    shared.json_option(verb)


def _checkpoint_options(verb: argparse.ArgumentParser) -> None:
    shared.run_option(verb)
    either = verb.add_mutually_exclusive_group()
    either.add_argument("--verify", action="store_true", help="read each byte, and compare the digests")
    what = "write the newest as a model for transformers to the new folder DIR; needs torch"
    either.add_argument("--export", type=filled, metavar="DIR", help=what)
    either.add_argument(
        "--keep", type=int, metavar="N", help="delete all but the newest N, once the run has ended"
    )
    verb.add_argument("--step", type=int, metavar="N", help="with --export: the checkpoint of this step")
    shared.json_option(verb)
