"""Training runs that are broken, and what is read of them afterwards: lost steps, the way back, losses, hours.

Every run takes STEPS steps of a small GPT with a checkpoint every EVERY steps. All that is told of a run is asserted
where it is read: a step that is missing, or a checkpoint that was complete and not used, is an error.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from launcher.runs import hours
from tests.faults.row import Row, Told, Way
from tests.real.slurm.site import ENDED

if TYPE_CHECKING:
    from tests.real.slurm.site import Site

STEPS, EVERY = 16, 4
GLOBAL = "batch={micro: 2, global: 8}"  # the same for 1, 2 and 4 ranks
TRAIN = (
    "args.step-delay=0.3",
    f"args.max-steps={STEPS}",
    f"checkpoint.every={EVERY}",
    GLOBAL,
    "walltime=50m",
)
LIMIT = 900.0  # seconds, of which a busy machine may need many
_undisturbed: dict[int, dict[int, float]] = {}  # by the number of ranks


def train(site: Site, name: str, *more: str, past: int = EVERY + 2) -> str:
    """A run that has just passed the step `past`, with a complete checkpoint before."""
    run = site.submit(*TRAIN, f"name={name}", *more)
    site.wait(run, lambda _: done(site, run) >= past, LIMIT)
    return run


def taken(site: Site, run: str) -> list[dict[str, Any]]:
    """The lines of all steps, in the order in which they were done."""
    return [r for r in site.metrics(run) if "loss" in r and "event" not in r]


def done(site: Site, run: str) -> int:
    return max((r["step"] for r in taken(site, run)), default=0)


def complete(site: Site, run: str) -> set[str]:
    """The tags of all complete checkpoints."""
    return {p.parent.name for p in (site.path(run) / "checkpoints").glob("*/complete.json")}


def pid(site: Site, run: str, rank: int) -> str:
    """The process of a rank in its host, of the newest attempt."""
    text = (site.path(run) / f"logs/rank-{rank}.log").read_text(errors="replace")
    return [line for line in text.splitlines() if line.startswith("--- attempt")][-1].rpartition(" ")[2]


class Fault(NamedTuple):
    """When a run was broken, and when its way back began where that is a command of the user's; Unix time."""

    at: float
    back: float | None = None


def over(site: Site, run: str, fault: Fault, what: str, seen: str) -> Row:
    """The row of a run that was broken, once it has ended as if nothing had been."""
    end = site.wait(run, lambda now: now["state"] in ENDED, LIMIT)
    assert end["state"] == "SUCCEEDED", f"{end}\n{site.all_logs(run)}"
    ranks = site.starts(run)[-1]["world_size"]
    assert {r["step"] for r in taken(site, run)} == set(range(1, STEPS + 1)), "a step is missing"
    return Row(what, seen, lost(site, run), way(site, run, fault), equal(site, run, ranks), told(site, run))


def lost(site: Site, run: str) -> str:
    """How many steps were done twice; every checkpoint that was complete must have been used."""
    records, twice = site.metrics(run), 0
    for start in site.starts(run)[1:]:
        before = records[: records.index(start)]
        passed = {r["tag"] for r in records if r.get("event") == "skipped"}
        saved = [r["tag"] for r in before if r.get("event") == "checkpoint" and r["tag"] not in passed]
        assert start["resumed_from"] == (saved[-1] if saved else None), "not the newest complete checkpoint"
        at = max((r["step"] for r in before if "loss" in r and "event" not in r), default=0)
        twice += max(0, at - start["step"])
    return f"{twice} steps done again" if twice else "nothing"


def way(site: Site, run: str, fault: Fault) -> Way:
    """How the run came back to training after the fault.

    new steps: until the ranks were started again, on whichever hosts, or by another start of the job; start: until the
    checkpoint is loaded, imports and the meeting of the ranks included; load; first step: until that is done.
    """
    again = next((s for s in site.starts(run) if s["time"] > fault.at), None)
    if again is None:
        return Way()
    noticed = min(_noticed(site, run, fault.at), again["time"])
    since = fault.back or noticed
    ranks = max(_told(site, run, "started", fault.at, again["time"]))
    first = min(r["time"] for r in taken(site, run) if r["time"] > again["time"])
    load = again["spent"].get("load", 0.0)
    parts = {"new steps": ranks - since, "start": again["time"] - ranks - load}
    parts |= {"load": load, "first step": first - again["time"]}
    return Way(max(0.0, noticed - fault.at), tuple((name, max(0.0, part)) for name, part in parts.items()))


def _noticed(site: Site, run: str, at: float) -> float:
    """When the run itself knew: a node entry has written down a failure, or else its ranks were told to end."""
    words = [path.read_text().split() for path in site.path(run).glob("outcome-*")]
    times = [float(line[3]) for line in words if len(line) == 4]
    times += [r["time"] for r in site.metrics(run) if r.get("event") == "saved"]
    ended = [*_told(site, run, "failed", at), *_told(site, run, "ended", at)]
    return min((moment for moment in (*times, *ended) if moment >= at - 1), default=at)


def _told(site: Site, run: str, event: str, since: float, until: float = 1e12) -> list[float]:
    lines = map(json.loads, (site.path(run) / "events.jsonl").read_text().splitlines())
    return [line["time"] for line in lines if line["event"] == event and since <= line["time"] <= until]


def equal(site: Site, run: str, ranks: int) -> str:
    """That each step that was done, also those done twice, has the loss of the undisturbed run with as many ranks."""
    steps, whole = taken(site, run), undisturbed(site, ranks)
    other = {r["step"]: r["loss"] - whole[r["step"]] for r in steps if r["loss"] != whole[r["step"]]}
    assert not other, f"losses differ from the undisturbed run's, by step: {other}"
    return "equal"


def undisturbed(site: Site, ranks: int) -> dict[int, float]:
    """Step → loss of a run to which nothing happened."""
    if ranks not in _undisturbed:
        run = site.submit(*TRAIN, f"nodes={ranks}", "args.step-delay=0.0", f"name=undisturbed-{ranks}")
        end = site.wait(run, lambda now: now["state"] in ENDED, LIMIT)
        assert end["state"] == "SUCCEEDED", site.all_logs(run)
        _undisturbed[ranks] = site.losses(run)
    return _undisturbed[ranks]


def told(site: Site, *of: str) -> Told:
    """The hours that runs have told, and sacct's of all their jobs; asserts that the shares add up to them."""
    own = slurm = 0.0
    attempts = 0
    for run in of:
        reported = json.loads(site.launcher("report", run, "--json").stdout)[0]["hours"]
        shares = sum(reported[share] for share in hours.SHARES)
        assert abs(shares - reported["allocated"]) < 1e-9, f"shares of {shares} h, {reported}"
        own += sum((a.end - a.start) / 1000 for a in hours.attempts(*hours.read(site.path(run))))
        record = json.loads((site.path(run) / "run.json").read_text())
        for job in (*record.get("former", ()), record["native_id"]):
            elapsed = _elapsed(site, job)
            attempts += len(elapsed)
            slurm += sum(elapsed)
    found = Told(own, slurm, attempts)
    assert found.holds, f"the run tells {found.own:.1f} s, sacct {found.slurm:.0f} s of {attempts} attempts"
    return found


def _elapsed(site: Site, job: str) -> list[int]:
    """Seconds of all attempts of a job that has ended."""
    end = time.monotonic() + LIMIT
    while True:
        lines = site.cluster.sh(f"sacct -X -n -P -D -j {job} -o End,ElapsedRaw").splitlines()
        if lines and all(not line.startswith("Unknown") for line in lines):
            return [int(line.split("|")[1]) for line in lines]
        assert time.monotonic() < end, lines
        time.sleep(0.3)
