"""How long a job's ranks would tokenize their text before they train, and what GPUs that wait meanwhile cost.

Owns the estimate, its limit, and the command that prepares first; how much text there is, is texts.py's.
"""

from __future__ import annotations

import contextlib
import json
import math
import shlex
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from launcher import units, workloads
from launcher.errors import PlanError, Problem, SpecError
from launcher.planning import data_cache
from launcher.runs import locked_data, prepared
from launcher.sizing import models
from launcher.submission import texts

if TYPE_CHECKING:
    from collections.abc import Iterable

    from launcher.planning.plan import Plan

# Bytes of text a second of one process, as tests/bench/prepare.py measures: by a BPE of 32,000 tokens 1.9 to 2.3 MB,
# all of it the tokenizer; bytes as they are 68 MB, where disks come first.
RATE, RATE_OF_BYTES = 2e6, 6.8e7
# `bpe:SIZE` is trained first, by one process, on so many bytes at most (docker/workloads/tokenizer.py): 12 MB in 3.0
# processor seconds for 32,000 tokens, in 2.6 for 8,000.
TRAINING_RATE, TRAINED_ON = 4e6, 1e8
# Seconds that GPUs may wait for tokens before a job is refused; `args.data-wait`, in minutes, says otherwise.
LIMIT = 10 * 60.0
WITHOUT_GPUS = 60 * 60.0  # the default of that option, after which ranks give up
_SAID = 5.0  # seconds: a shorter wait is not worth a line
_SMALLEST = 2**20  # bytes of a shard: there is no work for more processes


class Wait(NamedTuple):
    """What is tokenized when the job starts. `unseen`: the sources that this machine does not have.

    `size` is in bytes of text, `seconds` of the wall's clock; `gpus` wait meanwhile, `limit` seconds at most.
    """

    size: int
    seconds: float
    processes: int
    gpus: int
    limit: float
    unseen: tuple[str, ...] = ()

    @property
    def gpu_hours(self) -> float:
        return self.seconds * self.gpus / 3600

    @property
    def refused(self) -> bool:
        return self.size > 0 and self.seconds > self.limit

    @property
    def text(self) -> str:
        """One line for a person; empty where there is nothing to say."""
        meanwhile = f", while {self.gpus} GPUs wait: {self.gpu_hours:,.1f} GPU hours" if self.gpus else ""
        if self.seconds > min(_SAID, self.limit):
            took = f"about {units.brief(max(1.0, self.seconds))} with {self.processes} process"
            took += f"{'es' if self.processes > 1 else ''}{meanwhile}"
            return f"args.data: {units.gigabytes(self.size)} of text are tokenized first, {took}"
        if self.unseen and self.gpus:
            named = ", ".join(self.unseen[:3]) + (", …" if len(self.unseen) > 3 else "")
            return (
                f"args.data: {named} cannot be seen from here, so how long {self.gpus} GPUs wait for its tokens is not "
                "known; jobs/prepare.yaml makes them without GPUs"
            )
        return ""


def look(plan: Plan, earlier: Iterable[Plan] = ()) -> Wait | None:
    """What the plan's ranks tokenize; None where they read no text, or find its tokens in the cache.

    `earlier`: the plans of the stages that the job waits for, of which one may prepare the text.
    """
    if workloads.is_script(plan.job.workload) or not workloads.mixes(plan.job.workload):
        return None
    if any(_prepares(other, plan) for other in earlier):
        return None
    files, unseen = texts.seen(plan)
    if _is_ready(plan, files):
        return None
    size = int(sum(texts.size(path, status) for path, status in files.items()))
    cores = plan.cluster.cpus or plan.slots
    processes = max(1, min(plan.nodes * int(plan.args.get("processes") or cores), -(-size // _SMALLEST)))
    gpus = plan.world_size if plan.gpu else 0
    return Wait(
        size=size,
        seconds=_training(plan, size) + size / (_rate(plan) * processes),
        processes=processes,
        gpus=gpus,
        limit=_limit(plan),
        unseen=tuple(unseen),
    )


def refusal(plan: Plan, wait: Wait, scheduler: str, cluster: str | None = None) -> PlanError:
    """Why the job should not start so, and the command that prepares its text first. `cluster`: the one asked for."""
    limit = units.brief(wait.limit)
    place = "" if _cache(plan) else "DIR is a folder that all hosts share, which this job needs too; "
    hint = (
        f"prepare it without GPUs, then submit this again: `{command(plan, scheduler, cluster)}`; {place}"
        f"or let them wait: --set args.data-wait={math.ceil(wait.seconds / 60)} (minutes)"
    )
    what = f"{wait.text.removesuffix('.')}; the limit is {limit}"
    return PlanError(Problem(what, hint, about=("job", "args", "data")))


def command(plan: Plan, scheduler: str, cluster: str | None = None) -> str:
    """The command that tokenizes the plan's text into the cache where its ranks look."""
    settings = {
        "model": plan.job.model,
        "args.data": json.dumps(texts.words(plan), ensure_ascii=False),
        # said even where it is the default: the file has one of its own
        "args.tokenizer": plan.args.get("tokenizer") or "auto",
        "args.data-cache": plan.args.get("data-cache") or ("" if _cache(plan) else "DIR"),
        "cluster.data_cache": plan.cluster.data_cache,
    }
    words = ["python", "-m", "launcher", scheduler, "jobs/prepare.yaml"]
    words += ["--cluster", named] if (named := cluster or plan.job.cluster) else []
    words += [word for key, value in settings.items() if value for word in ("--set", f"{key}={value}")]
    return shlex.join(words)


def _prepares(other: Plan, plan: Plan) -> bool:
    """Whether `other` makes the tokens that `plan` reads, where it looks for them."""
    name = other.job.workload
    if workloads.is_script(name) or workloads.traits(name).needs_accelerator or not workloads.mixes(name):
        return False
    cache = plan.args.get("data-cache")
    # in a pod the folder of a run is below another one
    left = isinstance(cache, str) and cache.rstrip("/").endswith(f"/{other.id}/data")
    shared, theirs = _cache(plan), _cache(other)
    same = bool(shared and theirs) and texts.place(plan, str(shared)) == texts.place(other, str(theirs))
    return _asked(plan) == _asked(other) and (left or same)


def _asked(plan: Plan) -> tuple[list[tuple[str, str]], str]:
    tokenizer = plan.args.get("tokenizer", "auto")
    by = str(plan.job.model if tokenizer == "auto" else tokenizer)
    return _sources(plan, texts.words(plan)), texts.place(plan, by)


def _cache(plan: Plan) -> str | None:
    """Where ranks look for tokens before they make them; None where that is their own run's folder."""
    variable = next((v.value for v in plan.environment if v.name == data_cache.VARIABLE), None)
    return str(plan.args.get("data-cache") or variable or "") or None


def _is_ready(plan: Plan, files: dict[Path, Any]) -> bool:
    """Whether the cache has the tokens of these sources, made after the last change of their files."""
    cache = _cache(plan)
    if cache is None:
        return False
    sources = _sources(plan, texts.words(plan))
    wanted = plan.args.get("tokenizer", "auto")
    named = wanted != "auto" or plan.job.model in models.named()
    tokenizers = {"bytes" if wanted == "auto" else wanted} if named else {"bytes", plan.job.model}
    newest = max((status.st_mtime for status in files.values()), default=0.0)
    try:
        known = prepared.listed([Path(locked_data.on_host(plan, cache))])
    except SpecError:  # a cache that only the ranks may read
        return False
    return any(
        text.facts is not None  # whole, whoever reads it
        and text.state != "half removed"
        and _sources(plan, text.sources) == sources
        and texts.place(plan, text.tokenizer) in {texts.place(plan, name) for name in tokenizers if name}
        and _created(text) >= newest
        for text in known
    )


def _sources(plan: Plan, words: Iterable[Any]) -> list[tuple[str, str]]:
    """The place and the column of each source: its tokens are the same whatever its weight and its spelling."""
    return [(texts.place(plan, source["path"]), source["column"]) for source in map(_source, words)]


def _source(word: Any) -> dict[str, str]:
    """A source as the job or corpus.json has it: a path, a mapping, or that as JSON."""
    given = word if isinstance(word, dict) else {"path": str(word)}
    if isinstance(word, str) and word.startswith("{"):
        with contextlib.suppress(ValueError, RecursionError):
            given = json.loads(word)
    return {"path": str(given.get("path")), "column": str(given.get("column", "text"))}


def _created(text: prepared.Prepared) -> float:
    try:
        made = datetime.strptime(str((text.facts or {}).get("created")), "%Y-%m-%dT%H:%M:%SZ")
    except ValueError:
        return 0.0
    return made.replace(tzinfo=timezone.utc).timestamp()


def _rate(plan: Plan) -> float:
    tokenizer = plan.args.get("tokenizer", "auto")
    named = plan.job.model in models.named()  # an architecture brings no tokenizer of its own
    return RATE_OF_BYTES if tokenizer == "bytes" or (tokenizer == "auto" and named) else RATE


def _training(plan: Plan, size: int) -> float:
    """Seconds until the tokenizer is trained."""
    trains = str(plan.args.get("tokenizer", "auto")).startswith("bpe:")
    return min(size, TRAINED_ON) / TRAINING_RATE if trains else 0.0


def _limit(plan: Plan) -> float:
    if not workloads.traits(plan.job.workload).needs_accelerator:
        return math.inf  # it is what the job is for
    minutes = plan.args.get("data-wait")
    if isinstance(minutes, (int, float)):
        return 60.0 * minutes
    return LIMIT if plan.gpu else WITHOUT_GPUS
