"""Whether Slurm could start a job as it is: partition, limits, account, QOS, GRES, hosts, secrets.

Nothing is submitted: `sbatch --test-only` validates and estimates the start. A partition's limits are compared here
too: without EnforcePartLimits Slurm takes a job beyond them, which then waits for ever.
https://slurm.schedmd.com/slurm.conf.html#OPT_EnforcePartLimits
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from launcher import units
from launcher.discovery import slurm, slurm_limits
from launcher.discovery import slurm_output as output
from launcher.discovery.asking import ask
from launcher.errors import Problem, SubmitError, of_field
from launcher.images import registry
from launcher.planning import on_this_machine
from launcher.schedulers.slurm import exported, query

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.discovery.facts import Partition
    from launcher.planning.plan import Plan

# sinfo's short states (%t) of hosts on which jobs start, now or when others have ended; `*` behind one: no answer
_USABLE = re.compile(r"(?:idle|alloc|mix|comp|resv|plnd)[^*]?")


def check(plan: Plan, script: str) -> str:
    """When and where it would start, in words. Raises SubmitError with everything that keeps it from starting."""
    query.need("sbatch")
    listed = ask(["scontrol", "show", "partition", "--oneliner"])
    if listed.refusal and shutil.which("scontrol"):
        raise slurm.silent(listed.refusal)
    partitions = output.partitions(listed.text)
    name = plan.cluster.slurm.partition
    own = next((p for p in partitions if (p.name == name if name else p.default)), None)
    hidden = exported.kept_back(script, os.environ)
    tested = ask(["sbatch", "--test-only"], given=script, without=hidden)
    problems = [*(_beyond(plan, own) if own else ()), *slurm_limits.beyond(plan, own), *_hosts(plan, own)]
    problems += on_this_machine.secrets(plan, "slurm")
    # with Pyxis the hosts pull it; other runtimes have a file or folder
    if plan.runtime("slurm") == "pyxis" and (said := registry.absent(plan.image)):
        problems.append(
            of_field("cluster", "image", f"cannot be pulled: {said}", "push it, or correct its name")
        )
    if tested.refusal:
        problems.insert(0, _refusal(tested.said or tested.refusal))
    if problems:
        raise SubmitError(*problems).at(plan.places)
    return _start(tested.text + tested.said)


def _start(said: str) -> str:
    """`sbatch: Job 7 to start at 2026-01-01T00:00:00 using 4 processors on nodes n1 in partition debug`, shorter."""
    found = re.search(r"to start at (\S+).* on nodes? (\S+)(?: in partition (\S+))?", said)
    if not found:
        return "Slurm takes it, and does not say when it would start"
    return f"would start at {found[1]} on {found[2]}" + (f", partition {found[3]}" if found[3] else "")


# The last line is Slurm's; a site's own plugins (job_submit, cli_filter) say before it what they want.
_LINES = 6
_BEFORE = re.compile(r"(?:sbatch: )?(?:error: )?(?:Batch job submission failed: |allocation failure: )?")


def _refusal(words: str) -> Problem:
    table = json.loads(Path(__file__).with_name("refusals.json").read_text(encoding="utf-8"))["words"]
    lines = [_BEFORE.sub("", line, count=1).strip() for line in words.splitlines()]
    said = "; ".join(dict.fromkeys(filter(None, lines[-_LINES:])))
    hint = next((hint for part, hint in table.items() if part.lower() in said.lower()), "")
    return Problem(f"sbatch would refuse it: {said}", hint)


def _beyond(plan: Plan, own: Partition) -> Iterator[Problem]:
    """What the partition does not allow, or allows nobody."""
    if own.state not in {"", "UP"}:
        hint = "wait for it, or use another: `sinfo -s`"
        yield of_field("cluster", "slurm.partition", f"{own.name} is {own.state}: no job starts there", hint)
    limit = _seconds(own.max_time)
    if limit is not None and plan.job.walltime > limit:
        what = f"walltime {units.clock(plan.job.walltime)} is more than the {own.max_time} of partition {own.name}"
        yield Problem(what, "shorten it: a checkpoint resumes", about=("job", "walltime"))
    if own.max_nodes.isdecimal() and plan.fewest > int(own.max_nodes):
        what = f"{_wanted(plan)} is more than the {own.max_nodes} of partition {own.name}"
        yield Problem(what, "use fewer, or another partition", about=("job", "nodes"))
    accounts = own.accounts.split(",") if own.accounts else []
    account = plan.cluster.slurm.account
    if accounts and account and account not in accounts:
        what = f"{account} may not use partition {own.name}, only {', '.join(accounts)} may"
        yield of_field("cluster", "slurm.account", what)


def _wanted(plan: Plan) -> str:
    return f"nodes {plan.numbers[0]}" + (f" and spares {plan.spares}" if plan.spares else "")


def _seconds(clock: str) -> int | None:
    """Slurm's `1-00:00:00`, `30:00` or `UNLIMITED`."""
    found = re.fullmatch(r"(?:([0-9]+)-)?(?:([0-9]+):)?([0-9]+):([0-9]+)", clock)
    if not found:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def _hosts(plan: Plan, own: Partition | None) -> Iterator[Problem]:
    """Hosts that are up, against those that it wants."""
    if own is None:
        return
    up = ask(["sinfo", "-h", "-N", "-p", own.name, "-o", "%N %t"])
    rows = [line.split() for line in up.text.splitlines()]
    names = {row[0] for row in rows if len(row) == 2 and _USABLE.fullmatch(row[1])}
    if not up.refusal and len(names) < plan.fewest:
        why = ask(["sinfo", "-h", "-R", "-p", own.name, "-o", "%N: %E"]).text.strip().splitlines()
        told = f" ({'; '.join(why[:3])})" if why else ""
        what = f"{len(names)} hosts of partition {own.name} are up, and the job wants {plan.fewest}{told}"
        yield Problem(what, "wait for them, or use fewer", about=("job", "nodes"))
