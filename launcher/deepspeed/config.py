"""DeepSpeed's configuration: presets, and the one that a plan decides on.

Owns what lands in `ds_config.json`; whether DeepSpeed knows its keys is keys.py's, whether they go together rules.py's,
and whether it fits in memory sizing's.
"""

from __future__ import annotations

import functools
import json
import math
from typing import TYPE_CHECKING, Any

from launcher import ROOT
from launcher.deepspeed import spellings
from launcher.errors import PlanError, Problem
from launcher.namedtuple import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

# Elements of a buffer for NVMe, by DeepSpeed's default (deepspeed/runtime/zero/offload_config.py), and what they are
# rounded up to here, so that reads and writes end at whole blocks of aio.
BUFFER = 100_000_000
_BLOCK = 2**20
OFFLOADS = ("offload_optimizer", "offload_param")


class BatchSizes(NamedTuple):
    """micro × accumulation × world size = train: samples per rank and pass, passes, samples per optimizer step.

    DeepSpeed asserts it only after all ranks are up:
    https://github.com/deepspeedai/DeepSpeed/blob/v0.19.8/deepspeed/runtime/config.py (_batch_assertion)
    """

    micro: int
    accumulation: int
    train: int


def batch(micro: int, accumulation: int | None, train: int | None, world_size: int) -> BatchSizes:
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
    return BatchSizes(micro, train // one_pass, train)


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
    keys: dict[str, Any] = json.loads(_preset_text(name))
    return keys


@functools.cache
def _preset_text(name: str) -> str:
    return (ROOT / "templates" / "deepspeed" / f"{name}.json").read_text("utf-8")


class Inputs(NamedTuple):
    """What decides the configuration beside the preset, the hosts and the batch.

    `overrides` are DeepSpeed's keys of a job, in which keys.problems finds nothing. `nvme` is a folder on each host's
    own disk. `largest_parameter` counts the elements of the model's largest tensor; None where it is not known.
    """

    overrides: Mapping[str, Any]
    precision: str
    slots: int
    nvme: str | None = None
    largest_parameter: int | None = None
    shared: bool = False  # by ranks, samples or a copy of the model: a program of one's own


def make(inputs: Inputs, preset_name: str, hosts: int, batch: BatchSizes) -> dict[str, Any]:
    """What ds_config.json holds: the launcher's numbers, the preset over them, the job's own keys on top.

    The only maker: memory and traffic are estimated from what it returns, and the same is written.
    """
    # whether DeepSpeed divides by ranks that share is up to what the program gives it (runtime/config.py, mpu)
    whole = {} if inputs.shared else {"train_batch_size": batch.train}
    ours: dict[str, Any] = {
        **whole,
        "train_micro_batch_size_per_gpu": batch.micro,
        "gradient_accumulation_steps": batch.accumulation,
        "gradient_clipping": 1.0,
        "steps_per_print": 1_000_000_000,  # the workload's own metrics line says more
    }
    if inputs.precision in {"bf16", "fp16"}:
        ours[inputs.precision] = {"enabled": True}
    overrides = with_precision(inputs.overrides, inputs.precision)
    config = merge(merge(ours, preset(preset_name)), overrides)
    zero = config["zero_optimization"]
    # ZeRO++ keeps a second copy of the weights inside each host, so the group is the host's slots:
    # https://github.com/deepspeedai/DeepSpeed/blob/v0.19.8/docs/_tutorials/zeropp.md
    if zero.get("zero_hpz_partition_size") == "slots":
        zero["zero_hpz_partition_size"] = inputs.slots if hosts > 1 else 1
    for section in filter(_is_on_nvme, map(zero.get, OFFLOADS)):
        if inputs.nvme is not None:
            section.setdefault("nvme_path", inputs.nvme)
    written = (overrides.get("zero_optimization") or {}).get("offload_param") or {}
    if _is_on_nvme(zero.get("offload_param")) and "buffer_size" not in written:
        _size_buffers(zero["offload_param"], inputs.largest_parameter, inputs.slots * hosts)
    return config


def _size_buffers(section: dict[str, Any], largest_parameter: int | None, world: int) -> None:
    """Make buffers for NVMe hold a rank's part of the model's largest tensor.

    DeepSpeed 0.19.8 asserts it on all ranks (deepspeed/runtime/swap_tensor/partitioned_param_swapper.py, get_buffer).
    """
    if largest_parameter is not None:
        part = math.ceil(largest_parameter / world)
        section["buffer_size"] = max(section.get("buffer_size", BUFFER), math.ceil(part / _BLOCK) * _BLOCK)


def _is_on_nvme(section: Any) -> bool:
    return isinstance(section, dict) and section.get("device") == "nvme"


def with_precision(overrides: Mapping[str, Any], precision: str) -> dict[str, Any]:
    """`overrides` without the `auto` of what the launcher sets itself (keys.OURS)."""
    given = {key: value for key, value in spellings.canonical(overrides).items() if value != "auto"}
    for name in ("bf16", "fp16"):
        section = given.get(name)
        if isinstance(section, dict) and section.get("enabled") == "auto":
            given[name] = {**section, "enabled": precision == name}
    return given


def below(path: str, folder: str) -> bool:
    """Whether `path` is `folder` or in it."""
    return f"{path}/".startswith(folder.rstrip("/") + "/") and ".." not in path.split("/")


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` laid over `below`, mapping by mapping; neither is changed, nor shares a mapping with what is returned."""
    merged = {key: merge(value, {}) if isinstance(value, dict) else value for key, value in below.items()}
    for key, value in above.items():
        under = merged.get(key)
        mapping = isinstance(value, dict)
        merged[key] = merge(under if isinstance(under, dict) else {}, value) if mapping else value
    return merged
