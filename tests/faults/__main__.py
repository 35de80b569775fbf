"""Break a cluster and print the table: `python -m tests.faults [--only NAME …]`."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.faults import hosts, mirrors, row, saving, scheduler
from tests.real.slurm import cluster, config, requirements
from tests.real.slurm.site import Site

if TYPE_CHECKING:
    from collections.abc import Callable

# fmt: off
FAULTS: tuple[Callable[[Site], row.Row], ...] = (
    hosts.spare_of_two, hosts.spare_takes_over, hosts.spare_for_a_cut_host, hosts.spare_for_a_hang,
    hosts.rank_killed_three_times, hosts.host_crashes, hosts.first_host_is_cut, hosts.slurmd_is_killed,
    saving.rank_dies_while_saving, saving.kills_while_saving, saving.flipped_bytes, saving.disk_is_full,
    saving.disk_is_full_behind_training, saving.other_numbers_of_ranks, mirrors.mirror_fails, mirrors.folder_is_gone,
    scheduler.requeued, scheduler.walltime_is_over, scheduler.preempted, scheduler.ten_at_once,
    scheduler.array_of_a_hundred, scheduler.held_by_admin, scheduler.refused,
)
# fmt: on
# a machine that is busy lets slurmd answer late, and its host is not to be down for that
SETTINGS = config.Settings(nodes=5, slurmd_timeout=30, extra="AccountingStorageEnforce=associations")
WHOLE = 0.01  # how far the time that all runs have told may be from sacct's


def main() -> int:
    names = {fault.__name__: fault for fault in FAULTS}
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument(
        "--only", nargs="+", choices=names, default=[*names], metavar="NAME", help="these rows"
    )
    parser.add_argument("--list", action="store_true", help="the names of all rows")
    parser.add_argument("--kills", type=int, help="SIGKILLs of kills_while_saving (200)")
    args = parser.parse_args()
    if args.list:
        print("\n".join(names))
        return 0
    why = requirements.obstacle()
    if why:
        parser.exit(1, f"no Slurm cluster here: {why}\n")
    if args.kills:
        os.environ[saving.KILLS] = str(args.kills)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # what is mounted goes, too
    rows: list[row.Row] = []
    bad = 0
    with tempfile.TemporaryDirectory(prefix="faults-") as made:
        # a disk of its own, mounted before the hosts start, so that they see it and it can be filled
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1g", "tmpfs", made], check=True)
        try:
            with cluster.Cluster(SETTINGS) as running:
                for name in args.only:
                    folder = Path(made) / str(len(rows))
                    rows.append(broken(names[name], folder, running))
                    bad += not rows[-1].lost
                    running.reset()
                    shutil.rmtree(folder)  # the disk is small
        finally:
            subprocess.run(["umount", "-l", made], check=False)
    print(row.table(rows))
    return 1 if bad or not accounted(rows) else 0


def broken(fault: Callable[[Site], row.Row], folder: Path, running: cluster.Cluster) -> row.Row:
    """What a fault shows; one that goes wrong must not hide the others, and has lost ''."""
    began, name = time.monotonic(), fault.__name__
    folder.mkdir()
    try:
        found = fault(Site(folder, running))
    except Exception as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        found = row.Row(name, f"NOT AS IT SHOULD BE: {said[0][:200]}", "")
        print(error, file=sys.stderr)
    print(
        f"{name}: {time.monotonic() - began:.0f} s, load {os.getloadavg()[0]:.1f}",
        file=sys.stderr,
        flush=True,
    )
    print(" | ".join(found.cells), file=sys.stderr, flush=True)
    return found


def accounted(rows: list[row.Row]) -> bool:
    """Whether the time that all runs together have told is sacct's."""
    told = [one.told for one in rows if one.told]
    own, slurm = sum(one.own for one in told), sum(one.slurm for one in told)
    if slurm:
        print(f"\nAll runs: {own:.1f} s told, {slurm:.0f} s by sacct: {own / slurm - 1:+.2%}")
    return abs(own - slurm) <= WHOLE * slurm


if __name__ == "__main__":
    sys.exit(main())
