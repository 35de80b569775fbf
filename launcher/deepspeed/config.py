"""DeepSpeed's configuration: presets, and the one that a plan decides on.

Owns what lands in `ds_config.json`; whether DeepSpeed knows its keys is keys.py's, whether they go together rules.py's,
and whether it fits in memory sizing's.
"""

from __future__ import annotations

import functools
import json
import math
from typing import TYPE_CHECKING, Any, NamedTuple

from launcher import ROOT
from launcher.errors import PlanError, Problem

if TYPE_CHECKING:
    from collections.abc import Mapping

# Elements of a buffer for NVMe, by DeepSpeed's default (deepspeed/runtime/zero/offload_config.py), and what they are
# rounded up to here, so that reads and writes end at whole blocks of aio.
BUFFER = 100_000_000
_BLOCK = 2**20


class Batch(NamedTuple):
    """micro × accumulation × world size = train: samples per rank and pass, passes, samples per optimizer step.

    DeepSpeed asserts it only after all ranks are up:
    https://github.com/deepspeedai/DeepSpeed/blob/v0.19.8/deepspeed/runtime/config.py (_batch_assertion)
    """

    micro: int
    accumulation: int
    train: int


def batch(micro: int, accumulation: int | None, train: int | None, world_size: int) -> Batch:
    """The three numbers of a step from one or two of them (no accumulation and no train: one pass).

    Raises PlanError, naming the nearest valid values, when they do not divide.
    """
    one_pass = micro * world_size
    if accumulation is not None and train is not None and accumulation * one_pass != train:
        raise PlanError(
            Problem(
                f"batch.global {train} is not micro {micro} × accumulation {accumulation} × world size {world_size}"
                f" = {accumulation * one_pass}",
                "leave one of them out",
                about=("job", "batch", "global"),
            )
        )
    train = train or one_pass * (accumulation or 1)
    if train % one_pass:
        below, above = train // one_pass * one_pass, (train // one_pass + 1) * one_pass
        nearest = f"{below} or {above}" if below else str(above)
        best = min(_divisors(train, world_size), key=lambda m: (abs(m - micro), m), default=None)
        raise PlanError(
            Problem(
                f"batch.global {train} does not divide by micro {micro} × world size {world_size} = {one_pass}",
                f"use batch.global {nearest}" + (f", or batch.micro {best}" if best else ""),
                about=("job", "batch", "global"),
            )
        )
    return Batch(micro, train // one_pass, train)


def _divisors(train: int, world_size: int) -> set[int]:
    """The micro batches that divide `train` over `world_size` ranks; none when the ranks alone do not."""
    per_rank, left = divmod(train, world_size)
    low = [] if left else [m for m in range(1, math.isqrt(per_rank) + 1) if per_rank % m == 0]
    return {*low, *(per_rank // m for m in low)}


@functools.cache
def presets() -> tuple[str, ...]:
    """The names of templates/deepspeed/*.json."""
    return tuple(sorted(p.stem for p in (ROOT / "templates" / "deepspeed").glob("*.json")))


def preset(name: str) -> dict[str, Any]:
    """A preset's keys, DeepSpeed's own. `name` is one of `presets()`."""
    made: dict[str, Any] = json.loads((ROOT / "templates" / "deepspeed" / f"{name}.json").read_text("utf-8"))
    return made


def config(
    base: Mapping[str, Any],
    overrides: Mapping[str, Any],
    numbers: Batch,
    precision: str,
    slots: int,
    nodes: int,
    nvme: str | None = None,
    part: int | None = None,
) -> dict[str, Any]:
    """What DeepSpeed is given: `base`, the job's numbers and precision, then the user's `overrides` on top.

    `nvme` is a folder on each host's own disk, `part` as in `laid_over`. In `overrides` keys.problems finds nothing.
    """
    ours: dict[str, Any] = {
        "train_batch_size": numbers.train,
        "train_micro_batch_size_per_gpu": numbers.micro,
        "gradient_accumulation_steps": numbers.accumulation,
        "gradient_clipping": 1.0,
        "steps_per_print": 1_000_000_000,  # the workload's own metrics line says more
    }
    if precision in {"bf16", "fp16"}:
        ours[precision] = {"enabled": True}
    merged = merge(ours, laid_over(base, resolved(overrides, precision), part))
    zero = dict(merged.get("zero_optimization", {}))
    # ZeRO++ keeps a second copy of the weights inside each host, so the group is the host's slots:
    # https://github.com/deepspeedai/DeepSpeed/blob/v0.19.8/docs/_tutorials/zeropp.md
    if zero.get("zero_hpz_partition_size") == "slots":
        zero["zero_hpz_partition_size"] = slots if nodes > 1 else 1
    for key in ("offload_optimizer", "offload_param"):
        section = zero.get(key)
        if isinstance(section, dict) and section.get("device") == "nvme" and nvme is not None:
            zero[key] = {"nvme_path": nvme, **section}
    return {**merged, "zero_optimization": zero}


def resolved(overrides: Mapping[str, Any], precision: str) -> dict[str, Any]:
    """`overrides` without the `auto` of what the launcher sets itself (keys.OURS)."""
    made = {key: value for key, value in overrides.items() if value != "auto"}
    for name in ("bf16", "fp16"):
        section = made.get(name)
        if isinstance(section, dict) and section.get("enabled") == "auto":
            made[name] = {**section, "enabled": precision == name}
    return made


def by_trainer(overrides: Mapping[str, Any], hidden: int) -> dict[str, Any]:
    """`overrides` with the sizes that Hugging Face's Trainer puts in place of `auto` for a model of width `hidden`.

    transformers/integrations/deepspeed.py (trainer_config_finalize), 5.23.
    """
    sizes = {
        "reduce_bucket_size": hidden * hidden,
        "stage3_prefetch_bucket_size": int(0.9 * hidden * hidden),
        "stage3_param_persistence_threshold": 10 * hidden,
    }
    section = overrides.get("zero_optimization")
    if not isinstance(section, dict):
        return dict(overrides)
    filled = {key: sizes.get(key) if value == "auto" else value for key, value in section.items()}
    return {**overrides, "zero_optimization": filled}


def laid_over(base: Mapping[str, Any], overrides: Mapping[str, Any], part: int | None) -> dict[str, Any]:
    """`overrides` over the preset `base`; buffers for NVMe that nobody sized hold `part` elements.

    `part` is a rank's part of the model's largest tensor, None where the model is not known. DeepSpeed 0.19.8 asserts
    that a buffer holds it, on all ranks (deepspeed/runtime/swap_tensor/partitioned_param_swapper.py, get_buffer).
    """
    merged = merge(base, overrides)
    section = (merged.get("zero_optimization") or {}).get("offload_param") or {}
    written = (overrides.get("zero_optimization") or {}).get("offload_param") or {}
    if part is None or "buffer_size" in written or section.get("device") != "nvme":
        return merged
    size = max(section.get("buffer_size", BUFFER), math.ceil(part / _BLOCK) * _BLOCK)
    return merge(merged, {"zero_optimization": {"offload_param": {"buffer_size": size}}})


def below(path: str, folder: str) -> bool:
    """Whether `path` is `folder` or in it."""
    return f"{path}/".startswith(folder.rstrip("/") + "/") and ".." not in path.split("/")


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` laid over `below`, mapping by mapping; neither is changed."""
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        merged[key] = merge(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
    return merged
