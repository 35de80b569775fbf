"""Checkpoints that are torn, damaged, without room, or of another number of ranks."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tests.faults import runs
from tests.faults.row import Row
from tests.faults.runs import EVERY, Fault
from tests.real.slurm.site import ENDED

if TYPE_CHECKING:
    from tests.real.slurm.site import Site

ROOT = Path(__file__).resolve().parents[2]
KILLS = "FAULTS_KILLS"  # a variable: how often, if not 200 times
CLOSE = 1e-3  # of a loss, between numbers of ranks: sums are taken in another order


def rank_dies_while_saving(site: Site) -> Row:
    run = site.submit(*runs.TRAIN, "name=torn")
    site.wait(run, lambda _: runs.done(site, run) > 0, runs.LIMIT)
    host = site.status(run)["hosts"][1]
    torn = site.path(run) / "checkpoints" / f"step-{2 * EVERY:08d}"
    # inside the host, so that the signal comes within a millisecond of the folder
    script = 'until [ -e "$0" ]; do :; done; kill -9 "$1"'
    site.cluster.node_exec(host, "bash", "-c", script, str(torn), runs.pid(site, run, 1))
    began = time.time()
    site.wait(run, lambda now: now["state"] == "FAILED", runs.LIMIT)
    assert torn.name not in runs.complete(site, run), "it was whole already: the fault came too late"
    said = site.launcher("status", run).stdout
    assert "rank 1 on" in said
    fault = Fault(began, time.time())
    site.launcher("resume", run)
    first = next(line for line in said.splitlines() if line.startswith("first failure"))
    seen = f"{' '.join(first.split())}; `resume` continues"
    return runs.over(site, run, fault, "kill -9 of a rank during a checkpoint", seen)


def disk_is_full(site: Site, *more: str) -> Row:
    run = runs.train(site, "full", *more)
    filler = site.folder / "filler"
    began = time.time()
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(2**20))
    os.truncate(filler, filler.stat().st_size - 2**18)  # room for the last words, not for a checkpoint
    code = site.wait(run, lambda now: now["state"] == "FAILED", runs.LIMIT)["exit_code"]
    said = site.launcher("status", run).stdout
    assert "likely cause   a disk is full" in said, f"{said}\n{site.all_logs(run)}"
    assert runs.complete(site, run), "the complete checkpoints must stay"
    filler.unlink()
    fault = Fault(began, time.time())
    site.launcher("resume", run)
    seen = f"FAILED, exit code {code}, likely cause: a disk is full; `resume` continues"
    return runs.over(site, run, fault, "the run folder's disk fills up", seen)


def disk_is_full_behind_training(site: Site) -> Row:
    row = disk_is_full(site, "checkpoint.async=true")
    return replace(row, fault=f"{row.fault} while training goes on (`checkpoint.async`)")


def flipped_bytes(site: Site) -> Row:
    """One in a file of each kind, each kind in a newer checkpoint; the newest one that has none is resumed."""
    last = 8
    dies = (f"args.fail-at-step={last + 1}", "args.fail-rank=1", "args.fail-code=3", "restarts=0")
    run = site.submit(*runs.TRAIN, "name=flipped", f"checkpoint={{every: 1, keep: {last}}}", *dies)
    site.wait(run, lambda now: now["state"] == "FAILED", runs.LIMIT)
    began, folder, chance = time.time(), site.path(run) / "checkpoints", random.Random(runs.STEPS)
    kinds: dict[str, Path] = {}
    for path in sorted((folder / f"step-{last:08d}").rglob("*")):
        if path.is_file():
            kinds.setdefault(re.sub(r"\d+", "N", path.name), path)
    assert 3 <= len(kinds) < last, kinds
    for number, path in enumerate(kinds.values()):
        file = folder / f"step-{last - number:08d}" / path.relative_to(folder / f"step-{last:08d}")
        content = bytearray(file.read_bytes())
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        file.write_bytes(content)
    fault = Fault(began, time.time())
    site.launcher("resume", run)
    seen = (
        f"one of {', '.join(kinds)} in each of {len(kinds)} checkpoints; every one is named and passed over"
    )
    row = runs.over(site, run, fault, "a byte is flipped in each kind of file in turn", seen)
    skipped = {r["tag"]: r["reason"] for r in site.metrics(run) if r.get("event") == "skipped"}
    for number, path in enumerate(kinds.values()):
        assert path.name in skipped[f"step-{last - number:08d}"], skipped
    assert site.starts(run)[1]["resumed_from"] == f"step-{last - len(kinds):08d}"
    return replace(row, way=replace(row.way, noticed=None))


def kills_while_saving(site: Site) -> Row:
    """Of both ranks or one, at random moments of saving behind training; after each the run goes on."""
    number, seed = int(os.environ.get(KILLS, "200")), random.SystemRandom().randrange(2**32)
    words = [
        "python",
        "-m",
        "tests.docker.workloads.kills",
        str(site.folder / "kills"),
        str(number),
        str(seed),
    ]
    job = {"name": "kills", "cluster": "./site.yaml", "nodes": 1, "walltime": "59m", "batch": {"micro": 1}}
    job |= {"command": words, "processes": "host", "env": {"PYTHONPATH": f"{ROOT}/docker:{ROOT}"}}
    (site.folder / "kills").mkdir()
    (site.folder / "kills.yaml").write_text(json.dumps(job | {"watch": {"stall": "off"}, "preflight": False}))
    run = site.launcher("slurm", "kills.yaml").stdout.strip()
    end = site.wait(run, lambda now: now["state"] in ENDED, 3600)
    assert end["state"] == "SUCCEEDED", site.all_logs(run)
    found = json.loads((site.path(run) / "logs/rank-0.log").read_text().strip().splitlines()[-1])
    assert (found["kills"], found["lies"]) == (number, []), found
    what = f"{number} SIGKILLs at random moments of saving (seed {seed})"
    seen = f"{found['torn']} checkpoints were unfinished, and not one `complete.json` lied"
    return Row(what, seen, "what was not complete", told=runs.told(site, run))


def other_numbers_of_ranks(site: Site) -> Row:
    """2 → 1 → 4 → 2, each a job of its own that goes on from the one before."""
    way, before, steps, last = [2, 1, 4, 2], "", dict[int, float](), 0
    parts, of = list[tuple[str, float]](), list[str]()
    for number, ranks in enumerate(way):
        again = [f"checkpoint.resume={before}"] if before else []
        dies = [f"args.fail-at-step={last + EVERY + 1}", "restarts=0"] if number < len(way) - 1 else []
        began = time.time()
        run = site.submit(*runs.TRAIN, f"name=ranks-{number}-{ranks}", f"nodes={ranks}", *again, *dies)
        end = site.wait(run, lambda now: now["state"] in ENDED, runs.LIMIT)
        assert end["state"] == ("FAILED" if dies else "SUCCEEDED"), site.all_logs(run)
        (start,) = site.starts(run)
        assert (start["step"], start["world_size"]) == (last, ranks)
        steps |= site.losses(run)
        first = min(r["time"] for r in runs.taken(site, run))
        if before:
            parts.append((f"{way[number - 1]} → {ranks}", first - began))
        before, last = run, last + EVERY
        of.append(run)
    whole = runs.undisturbed(site, 2)
    assert set(steps) == set(whole)
    most = max(abs(steps[step] - loss) / loss for step, loss in whole.items())
    assert most < CLOSE, f"{most:.1e}"
    seen = "`checkpoint.resume=RUN` in a job of another size; its checkpoint is converted first"
    words = ", ".join(f"{name}: {seconds:.1f} s" for name, seconds in parts)
    return Row(
        "2 → 1 → 4 → 2 ranks",
        f"{seen}. From the command to the first step: {words}",
        "nothing",
        losses=f"within {most:.0e} of the undisturbed run's",
        told=runs.told(site, *of),
    )
