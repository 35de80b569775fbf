"""Which configurations of a job a tuning run may try: the ladder's presets, crossed with what a step depends on.

Owns the keys of `--space`, what each is without it, and what of a job a candidate changes; which candidates fit is
tuning.py's. Buckets and overlap are the preset's own unless they are asked for: they change a step by little, and would
take the places of configurations that change it by much.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING, Any

from launcher import workloads
from launcher.deepspeed import config
from launcher.errors import Problem, SpecError, did_you_mean, shown
from launcher.files.job import Batch
from launcher.namedtuple import NamedTuple
from launcher.planning import fit
from launcher.sizing import ladder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from launcher.files.cluster import Cluster
    from launcher.files.job import Job

    Space = Mapping[str, tuple[Any, ...]]  # a key and the values that are tried
    Changes = dict[tuple[str, ...], Any]  # key path of a job file → its value

RECOMPUTING = "activation-checkpointing"
KEYS = {
    "preset": "names of templates/deepspeed/: stage, offload and ZeRO++",
    "micro": "samples that a rank processes at a time, such as 1,2,4",
    "checkpointing": "true, false: activation checkpointing",
    "overlap": "true, false: overlap_comm",
    "buckets": "elements of DeepSpeed's buckets, such as 5e7",
    "hpz": "true, false: ZeRO++'s second copy of the weights in each host, under stage 3",
}
# preset → those that do the same without offload, or with less of it
_LESS = {
    "zero2-offload": ("zero2",),
    "zero3-offload-optimizer": ("zero3",),
    "zero3-offload": ("zero3", "zero3-offload-optimizer"),
    "zero3-nvme": ("zero3", "zero3-offload-optimizer", "zero3-offload"),
}
_BOOLEANS = {"true": True, "false": False}
_MOST = 1000  # candidates


class Candidate(NamedTuple):
    """A configuration. None: as the preset or the job has it."""

    preset: str
    micro: int
    checkpointing: bool | None = None
    overlap: bool | None = None
    bucket: int | None = None
    hpz: bool | None = None

    @property
    def group(self) -> str:
        """All but the micro batch, in words."""
        parts = [
            self.preset,
            "recomputation" if self.checkpointing else "",
            "" if self.overlap is None else f"overlap {'on' if self.overlap else 'off'}",
            f"buckets {self.bucket:.3g}" if self.bucket else "",
            "hpZ" if self.hpz else "",
        ]
        return ", ".join(filter(None, parts))

    @property
    def name(self) -> str:
        return f"{self.group}, micro {self.micro}"

    @property
    def less(self) -> set[Candidate]:
        """Those that do the same with less work: no recomputation, no offload."""
        presets = (self.preset, *_LESS.get(self.preset, ()))
        checkpointing = dict.fromkeys((self.checkpointing, self.checkpointing and False))
        every = itertools.product(presets, checkpointing)
        return {self._replace(preset=p, checkpointing=c) for p, c in every} - {self}


def parse(words: Sequence[str]) -> Space:
    """The words of `--space`, KEY=VALUE,VALUE. Raises SpecError with all that is wrong with them."""
    space, problems = dict[str, tuple[Any, ...]](), list[Problem]()
    for word in words:
        key, equals, values = word.partition("=")
        if key not in KEYS:
            problems.append(Problem(f"--space {shown(word)}: unknown key {key!r}", did_you_mean(key, KEYS)))
            continue
        if key in space:
            problems.append(Problem(f"--space {key} is given twice", "give its values in one --space"))
        try:
            space[key] = tuple(dict.fromkeys(_value(key, text) for text in values.split(",")))
        except ValueError as error:
            wrong = str(error) if equals else "no values"
            problems.append(Problem(f"--space {shown(word)}: {wrong}", f"{key} takes {KEYS[key]}"))
    if problems:
        raise SpecError(*problems)
    return space


def _value(key: str, text: str) -> Any:
    """Raises ValueError with what is wrong."""
    text = text.strip()
    if key == "preset":
        if text not in config.presets():
            hint = did_you_mean(text, config.presets())
            raise ValueError(f"there is no preset {text!r}" + (f"; {hint}" if hint else ""))
        return text
    if key in ("micro", "buckets"):
        try:
            number = float(text)
        except ValueError:
            number = 0.0
        if not 1 <= number < 2**53 or number != int(number):
            raise ValueError(f"{text!r} is no whole number of at least 1")
        return int(number)
    if text not in _BOOLEANS:
        raise ValueError(f"{text!r} is neither true nor false")
    return _BOOLEANS[text]


def candidates(job: Job, cluster: Cluster, asked: Space) -> list[Candidate]:
    """Every candidate of the space, in the ladder's order. Raises PlanError for a batch that does not divide.

    Raises SpecError where there are too many.
    """
    space = {**_defaults(job, cluster), **asked}
    found = [Candidate(*values) for values in itertools.product(*(space[key] for key in KEYS))]
    found = [c for c in found if c.hpz is None or (c.preset.startswith("zero3") and cluster.slots > 1)]
    if len(found) > _MOST:
        raise SpecError(f"--space: {len(found)} candidates are more than {_MOST}", hint="name fewer values")
    return found


def train_size(job: Job, cluster: Cluster) -> int:
    """Samples of a step. Raises PlanError where no micro batch at all divides them."""
    if job.batch.global_ is None or job.batch.accumulation is not None:
        return fit.batch(job, cluster).train
    return config.batch(1, None, job.batch.global_, fit.data_parallel_size(job, cluster)).train


def _defaults(job: Job, cluster: Cluster) -> dict[str, tuple[Any, ...]]:
    per_rank = train_size(job, cluster) // fit.data_parallel_size(job, cluster)
    micros = sorted({job.batch.micro * four // 4 for four in (1, 2, 4, 8, 16)} - {0})
    recomputes = workloads.takes(job.workload, RECOMPUTING)
    return {
        "preset": tuple(_presets(job, cluster)),
        "micro": tuple(micro for micro in micros if per_rank % micro == 0) or (1,),
        "checkpointing": (False, True) if recomputes else (None,),
        "overlap": (None,),
        "buckets": (None,),
        "hpz": (None,),
    }


def _presets(job: Job, cluster: Cluster) -> Iterator[str]:
    """Those of the ladder that the hosts can have; a stage that the job writes itself lies over every one."""
    own = fit.requested_preset(job) if job.deepspeed.preset == "auto" else None
    if own:
        yield own
        return
    nvme = cluster.nvme.size if cluster.nvme else 0
    machine = ladder.Machine(job.nodes.max, cluster.slots, slot_memory=None, nvme=nvme, gpu=cluster.card)
    for preset in dict.fromkeys(candidate.preset for candidate in ladder.CANDIDATES):
        # ranks without a GPU are in the host's memory already
        if ladder.possible(preset, machine) and (cluster.card or "offload" not in preset):
            yield preset


def changes(candidate: Candidate, job: Job, train: int, world: int) -> Changes:
    """What a job file says of the candidate. `train`: samples of a step; `world`: micro batches at once."""
    found: Changes = {
        ("batch", "micro"): candidate.micro,
        ("deepspeed", "preset"): candidate.preset,
    }
    if job.batch.accumulation is not None:
        found["batch", "accumulation"] = max(1, train // (candidate.micro * world))
    else:
        found["batch", "global"] = train
    if candidate.checkpointing is not None and (
        candidate.checkpointing or RECOMPUTING in job.args
    ):  # false is what it is anyway
        found["args", RECOMPUTING] = candidate.checkpointing
    for key, value in zero(candidate).items():
        found["deepspeed", "zero_optimization", key] = value
    return found


def zero(candidate: Candidate) -> dict[str, Any]:
    """DeepSpeed's keys of the candidate beside its preset's."""
    found: dict[str, Any] = {} if candidate.overlap is None else {"overlap_comm": candidate.overlap}
    if candidate.bucket:
        third = candidate.preset.startswith(("zero3", "zeropp"))
        gathered = "stage3_prefetch_bucket_size" if third else "allgather_bucket_size"
        found |= {"reduce_bucket_size": candidate.bucket, gathered: candidate.bucket}
    if candidate.hpz is not None:
        found["zero_hpz_partition_size"] = "slots" if candidate.hpz else 1
    return found


def applied(candidate: Candidate, job: Job, train: int) -> Job:
    """The job with the candidate's configuration, and the global batch kept."""
    given = {"zero_optimization": zero(candidate)} if zero(candidate) else {}
    overrides = config.merge(job.deepspeed.overrides, given)
    args = dict(job.args)
    if candidate.checkpointing is not None:
        args[RECOMPUTING] = candidate.checkpointing
    return dataclasses.replace(
        job,
        batch=Batch(micro=candidate.micro, global_=train),
        deepspeed=dataclasses.replace(job.deepspeed, preset=candidate.preset, overrides=overrides),
        args=args,
    )
