"""The parameters of optimizers and of schedules of the learning rate: which each type takes and needs, and their kinds.

Owns what `optimizer.params` and `scheduler.params` may hold beyond the signatures in keys.json, which
tests/deepspeed_keys.py reads from the classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from launcher.deepspeed import spellings, versions
from launcher.errors import Problem, did_you_mean, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    KeyPath = tuple[str, ...]

SECTIONS = ("optimizer", "scheduler")
# What constructors check or compute with and defaults do not say (runtime/lr_schedules.py, torch.optim).
_KINDS: dict[str, dict[str, Any]] = {
    "optimizer": {
        "betas": "pair >=0 <1",
        "ns_method": ["gram", "standard"],
        **dict.fromkeys(("adam_lr", "eps", "lr", "momentum", "muon_lr", "weight_decay"), "number >=0"),
    },
    "scheduler": {
        **dict.fromkeys(("cycle_min_lr", "cycle_max_lr", "warmup_max_lr"), "numbers"),
        **dict.fromkeys(("lr_range_test_step_size", "warmup_num_steps"), "int >0"),
        "cycle_first_step_size": "number >0",
        "cycle_second_step_size": "number >=0",
        "total_num_steps": "number",
        "warmup_type": ["linear", "log"],  # any other word becomes log
    },
}
# What the engine takes out before the optimizer's class gets the rest.
POPPED = ("adam_w_mode", "fp32_optimizer_states", "torch_adam")
# Types that no configuration can make work, and why.
IMPOSSIBLE = {
    "ChainedScheduler": "takes other schedules, which a configuration cannot hold",
    "LBFGS": "computes a loss several times a step, which DeepSpeed does not",
    "LambdaLR": "takes a function, which a configuration cannot hold",
    "MultiplicativeLR": "takes a function, which a configuration cannot hold",
    "ReduceLROnPlateau": "is given a loss at each step, which DeepSpeed does not",
    "SequentialLR": "takes other schedules, which a configuration cannot hold",
    "SparseAdam": "takes sparse gradients alone, and DeepSpeed's are dense",
}


def types(section: str) -> dict[str, Any]:
    """What `type` can name: DeepSpeed's own optimizers in lower case, its schedules, and torch's classes."""
    known: dict[str, Any] = spellings.table()["parameters"][section]
    return known


def own(section: str, named: Any) -> str | None:
    """The type that is `named`; DeepSpeed takes the names of its own optimizers in any case, and first."""
    spelled = str(named).lower() if section == "optimizer" else str(named)
    return next((name for name in (spelled, str(named)) if name in types(section)), None)


def kind(section: str, name: str, signature: Any) -> Any:
    """The kind of the parameter `name`, of which the signature says `signature`."""
    may_be_other = name == "eps" and signature == "numbers"  # Adafactor's pair
    return signature if may_be_other else _KINDS[section].get(name, signature)


def is_unset(section: str, name: str, value: Any) -> bool:
    """Whether a null leaves a parameter to its default."""
    return value is None and section == "scheduler" and name in ("cycle_second_step_size", "warmup_max_lr")


def lacking(overrides: Mapping[str, Any]) -> Iterator[tuple[KeyPath, Problem]]:
    """Parameters that must be given and are not: DeepSpeed hands on what there is (runtime/engine.py)."""
    for section in SECTIONS:
        given = overrides.get(section)
        named = own(section, given.get("type")) if isinstance(given, dict) else None
        if named is None or named in IMPOSSIBLE or not isinstance(given, dict):
            continue
        required = spellings.table()["required"][section].get(named, [])
        params = given.get("params", {})
        missing = [name for name in required if isinstance(params, dict) and name not in params]
        if missing:
            what = f"deepspeed.{section}: {named} needs params: {{{', '.join(f'{name}: …' for name in missing)}}}"
            yield (section,), Problem(what)
        elif section == "scheduler" and "params" not in given:
            yield (section,), Problem("deepspeed.scheduler: DeepSpeed fails without params", "add params: {}")


def misplaced(name: str, params: Mapping[str, Any], offloaded: bool) -> Iterator[str]:
    """Those of `params` that the class does not take which DeepSpeed makes of the optimizer `name`.

    It takes torch's where `torch_adam` says so, else one for host memory or one for GPUs
    (runtime/engine.py, _configure_basic_optimizer).
    """
    known = classes(name)
    made = "torch" if params.get("torch_adam") and "torch" in known else "host" if offloaded else "gpu"
    taken = known.get(made)
    yield from (key for key in params if taken is not None and key not in taken and key in types_of(name))
    if made != "torch" and "torch" in known and params.get("amsgrad"):
        yield "amsgrad"  # FusedAdam refuses it, and DeepSpeedCPUAdam does without


def classes(name: str) -> Mapping[str, list[str]]:
    """Where the optimizer `name` is made (gpu, host, torch) → the parameters that it takes there."""
    known: Mapping[str, list[str]] = spellings.table()["classes"].get(name, {})
    return known


def types_of(name: str) -> Mapping[str, Any]:
    """The parameters of all classes that the optimizer `name` can stand for."""
    known: Mapping[str, Any] = types("optimizer").get(name) or {}
    return known


def problem_of_type(section: str, named: Any) -> Problem | None:
    """Why nothing works by the name `named`; None where something does."""
    name, key = own(section, named), f"deepspeed.{section}.type: {shown(named)}"
    if section == "optimizer" and str(named).lower() in versions.gone():
        return Problem(f"{key} was removed from DeepSpeed", "use AdamW")
    if name is None:
        return Problem(
            f"{key} is not known", did_you_mean(named if isinstance(named, str) else "", types(section))
        )
    reason = IMPOSSIBLE.get(name)
    return Problem(f"{key} {reason}", "use another, or leave it out") if reason else None
