"""check: validate jobs and render them for every scheduler."""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.cli.verbs.shared import OK, must_suit, tell_of, warn
from launcher.errors import LauncherError

if TYPE_CHECKING:
    import argparse


def check(args: argparse.Namespace) -> int:
    from launcher import schedulers
    from launcher.files import load
    from launcher.planning import plan, workspace

    here = workspace.here()
    worst = OK
    for path in args.jobs:
        try:
            made = plan.make(*load.load(path, args.cluster, args.settings), here)
            warn(made, args.strict)
        except LauncherError as error:
            worst = max(worst, tell_of(path, error))
            continue
        if made.estimate and not made.estimate.fits:
            worst = max(worst, tell_of(path, made.estimate.refusal().at(made.places)))
            continue
        for name in schedulers.SCHEDULERS:
            try:
                must_suit(made, name, force=False, ask=False)
            except LauncherError as error:
                worst = max(worst, tell_of(f"{path}: not on {name}", error))
                continue
            try:
                schedulers.load(name).render(made)
            except LauncherError as error:
                tell_of(f"{path}: not on {name}", error)
            else:
                print(f"{path}: ok on {name}")
    return worst
