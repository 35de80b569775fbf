"""What a training job holds beside its model: adapters, and in chat training references, judges, critics and answers.

Owns the way from a job's `args` to the words of sizing; the sizes are sizing's, and what a workload holds is declared
in docker/workloads/ (traits.py, Learning).
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from launcher import workloads
from launcher.errors import PlanError, SpecError, of_field
from launcher.sizing import adapters, model_files, models
from launcher.sizing.architecture import Adapters, Architecture, Weight
from launcher.sizing.setup import WHOLE, Learning, Other

if TYPE_CHECKING:
    from launcher.files.job import Job

# How programs of one's own call the tokens of a sample, and recomputation: first ours, then the usual ones.
LENGTHS = (
    "seq-length",
    "sequence-length",
    "max-seq-length",
    "max-length",
    "block-size",
    "seq_length",
    "max_seq_length",
    "max-source-length",
    "max_source_length",
)
NO_LENGTH = "no option of the program says how many tokens a sample has (seq-length)"
RECOMPUTING = ("activation-checkpointing", "gradient-checkpointing", "gradient_checkpointing")
ALL_LAYERS = "all-linear"  # docker/workloads/lora.py


def option(job: Job, name: str) -> Any:
    """The value of an option of the workload: the job's, else the workload's own; None for a user's program."""
    given = job.args.get(name)
    if given is not None or workloads.is_script(job.workload):
        return given
    return workloads.default(job.workload, name)  # of an option that is null too: it is left out


def adapts(job: Job) -> bool:
    """Whether the job trains adapters beside weights that stand still."""
    return bool(job.args.get("lora-rank")) and not workloads.is_script(job.workload)


def sequence(job: Job, positions: int = 0) -> int:
    """Tokens of a sample: in policy optimization of the prompt and its answer. 0: a user's program does not say.

    Workloads of examples cut them to the model's `positions`, where it has a limit.
    """
    if workloads.is_script(job.workload):
        given = (job.args.get(name) for name in LENGTHS)
        return next((n for n in given if isinstance(n, int) and not isinstance(n, bool) and n > 0), 0)
    length = int(option(job, "seq-length") or 1) + _answer(job)
    does = workloads.traits(job.workload).learning
    return min(length, positions) if does and does.padded and positions else length


def recomputes(job: Job) -> bool | None:
    """Whether the job asks for activation checkpointing; None: the plan may choose."""
    if workloads.is_script(job.workload):
        return any(job.args.get(name) is True for name in RECOMPUTING)
    asked: bool | None = job.args.get("activation-checkpointing")
    return asked


def model(found: Architecture, job: Job) -> Architecture:
    """The job's model as it is trained: a judge's head, adapters. Raises PlanError for a layer that it has not."""
    does = workloads.traits(job.workload).learning
    if workloads.is_script(job.workload):
        return found if sequence(job) else dataclasses.replace(found, unmeasured=NO_LENGTH)
    if found.adapters or does is None:
        return found
    judges = does.loss == "score"
    own = _as_judge(found) if judges else found
    if not adapts(job):
        return own
    adapted = _adapted(own, job)
    if judges:  # peft keeps the head that it was given beside the one that learns
        adapted = dataclasses.replace(adapted, head=(*adapted.head, *own.head))
    return adapted


def of(found: Architecture, job: Job) -> Learning:
    """What one rank does with a micro batch of the job, and which models it holds beside `model(found, job)`."""
    does = workloads.traits(job.workload).learning
    if does is None:
        return WHOLE
    return Learning(
        loss="whole" if found.halves else does.loss,
        texts=does.texts,
        masked=_masked(job) if does.padded else "",
        others=tuple(_others(found, job)),
        forward=int(does.reference and not does.sampled),  # also where adapters turned off are it
        sampled=does.sampled,
        answer=_answer(job),
        gathered=bool(option(job, "gather-for-generation")),
        passes=int(option(job, "epochs")) * (1 + bool(option(job, "ptx-data"))) if does.critic else 1,
    )


def _masked(job: Job) -> str:
    """Fused attention alone is given a mask; TRL puts packed samples into one row (padding_free)."""
    if option(job, "attention") not in (None, "auto", "sdpa"):
        return ""
    does = workloads.traits(job.workload).learning
    return "all" if does and does.flat and option(job, "packing") else "each"


def _others(found: Architecture, job: Job) -> list[Other]:
    does = workloads.traits(job.workload).learning
    reward, offloaded = option(job, "reward"), bool(option(job, "offload-frozen"))
    asked = does is not None and does.reference and not adapts(job)
    # without weight on the distance to it TRL makes none
    unused = does is not None and does.sampled == "step" and option(job, "beta") == 0
    others = [Other(found, trained=False, offloaded=offloaded)] if asked and not unused else []
    if does is None or not does.judge:
        return others
    rule = reward in workloads.reward_rules()
    judge = _as_judge(found if rule else _judge(str(reward), found))
    if does.critic:
        others.append(Other(_adapted(judge, job) if adapts(job) else judge, trained=True))
    return others if rule else [*others, Other(judge, trained=False, offloaded=offloaded)]


def judge_note(job: Job) -> str:
    """What to say of a reward model whose size is not known here; empty where it is, or there is none."""
    does = workloads.traits(job.workload).learning
    reward = option(job, "reward") if does and does.judge else None
    if reward is None or reward in workloads.reward_rules() or _local(str(reward)):
        return ""
    return f"args.reward: {reward} is not known here, so it is taken to be as large as the model"


def _judge(name: str, like: Architecture) -> Architecture:
    return _local(name) or like


def _local(name: str) -> Architecture | None:
    """The reward model of a folder that is here; None where it is not, or is of a family that is not counted."""
    try:
        file = model_files.local(name)
        if file is None:
            return None
        # it ends in another head than models.py takes
        found = models.from_config({**model_files.read(file), "architectures": None}, name, str(file))
    except SpecError:
        return None
    return found if isinstance(found, Architecture) else None


def _as_judge(found: Architecture) -> Architecture:
    """The model with a head that gives one number."""
    return dataclasses.replace(found, head=(Weight("score.weight", (1, found.hidden)),))


def _adapted(found: Architecture, job: Job) -> Architecture:
    targets = tuple(str(t) for t in option(job, "lora-targets") or ())
    asked = Adapters(
        rank=int(job.args["lora-rank"]),
        targets=() if ALL_LAYERS in targets else targets,
        dropout=bool(option(job, "lora-dropout")),
        packed=bool(option(job, "lora-4bit")),
    )
    try:
        return adapters.attach(found, asked)
    except ValueError as error:
        raise PlanError(
            of_field("job", "args.lora-targets", str(error), "name layers of the model")
        ) from None


def _answer(job: Job) -> int:
    does = workloads.traits(job.workload).learning
    return int(option(job, "max-new-tokens") or 0) if does and does.sampled else 0
