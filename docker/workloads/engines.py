"""From a model and a DeepSpeed config to a DeepSpeed engine with optimizer and schedule.

Everything that the config says holds; this module only fills in what it leaves open, and sees to it that nothing is
compiled at start-up. What the numbers should be is decided by the launcher and the workload's options.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workloads.session import Stop, give_back_memory, prebuilt

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    import torch
    from deepspeed import DeepSpeedEngine
    from torch.optim.lr_scheduler import LambdaLR
    from transformers import PreTrainedModel

ADAM = ("adam", "adamw")
SETTINGS = ("initial_lr", "weight_decay", "betas", "eps")
BATCH = ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "train_batch_size")


@dataclass(frozen=True)
class BatchSize:
    """Samples of a micro batch of one rank, micro batches of a step, samples of a step over all ranks."""

    micro: int
    accumulation: int
    total: int


def read(path: str, world_size: int) -> tuple[dict[str, Any], BatchSize]:
    """The DeepSpeed config of a file, as it is, and its batch. Raises Stop when its three numbers do not agree."""
    try:
        config: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Stop(f"--deepspeed-config {path}: {error}") from error
    sizes = [config.get(key) for key in BATCH]
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        raise Stop(
            f"--deepspeed-config {path}: {', '.join(BATCH)} must be whole numbers above 0, not {sizes}"
        )
    size = BatchSize(*(int(number) for number in sizes if number))
    if size.micro * size.accumulation * world_size != size.total:
        raise Stop(
            f"--deepspeed-config {path}: train_batch_size {size.total} is not micro batch {size.micro} x "
            f"accumulation {size.accumulation} x {world_size} ranks"
        )
    if not _computes(precision(config)):
        raise Stop(f"--deepspeed-config {path}: this device does not compute in {precision(config)}")
    return config, size


def stage(config: dict[str, Any]) -> int:
    """The ZeRO stage of a DeepSpeed config, 0 if it has none."""
    return int(config.get("zero_optimization", {}).get("stage", 0))


def precision(config: dict[str, Any]) -> str:
    """bf16, fp16 or fp32: what the DeepSpeed config enables."""
    for name in ("bf16", "fp16"):
        if config.get(name, {}).get("enabled", False):
            return name
    return "fp32"


def dtype(config: dict[str, Any]) -> torch.dtype:
    """The type of the model's weights that goes with the config's precision."""
    return type_of(precision(config))


def type_of(precision: str) -> torch.dtype:
    """The type of weights in this precision."""
    import torch

    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]


def start(
    model: PreTrainedModel,
    config: dict[str, Any],
    args: argparse.Namespace,
    *,
    universal: bool = False,
    groups: Any = None,
    updates: int = 1,
) -> DeepSpeedEngine:
    """The engine: the config's optimizer, else AdamW by the options; its scheduler, else `schedule`.

    Set `universal` if it is to load a universal checkpoint; `groups` are those of ulysses.py. A step of the job makes
    `updates` of the engine's.
    """
    import deepspeed

    loading = {**config.get("checkpoint", {}), "load_universal": universal}
    complete = {**config, "optimizer": optimizer(config, args), "checkpoint": loading}
    engine, *_ = deepspeed.initialize(
        model=model,
        model_parameters=decay_groups(model, complete["optimizer"]["params"].get("weight_decay", 0.0)),
        config=complete,
        lr_scheduler=None if "scheduler" in config else lambda adam: schedule(adam, args, updates),
        mpu=groups,
        dist_init_required=False,
    )
    give_back_memory()
    return engine


def optimizer(config: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """The optimizer section of a DeepSpeed config, whole: its own values first, then those of the options.

    Adam comes from DeepSpeed's fused ops where they are prebuilt, and from torch elsewhere, which needs no compiler and
    has a fused one as well: without temporary tensors, and a sixth faster on the CPU.
    """
    given = config.get("optimizer", {"type": "AdamW"})
    params = {"lr": args.lr, "weight_decay": args.weight_decay, **given.get("params", {})}
    if given["type"].lower() in ADAM:
        params = {"betas": [args.beta1, args.beta2], "eps": 1e-8, **params}
        if not prebuilt("cpu_adam" if _offloads(config) else "fused_adam"):
            params = {"torch_adam": True, **params}
        if params.get("torch_adam"):
            params = {"fused": not params.get("foreach"), **params}
    return {**given, "params": params}


def compile(engine: DeepSpeedEngine, backend: str) -> None:
    """Have torch compile the model as it is first run. Raises Stop when there is no such backend, or no compiler."""
    import torch

    known = torch._dynamo.list_backends(exclude_tags=())
    if backend not in known:
        raise Stop(f"--compile {backend}: torch has no such backend, only {', '.join(known)}")
    # what inductor writes is C++ on the CPU, and on a GPU Triton builds the start of its kernels from C
    variable, usual = ("CXX", ["g++"]) if engine.device.type == "cpu" else ("CC", ["gcc", "clang"])
    wanted = [os.environ[variable]] if os.environ.get(variable) else usual
    if backend == "inductor" and not any(map(shutil.which, wanted)):
        raise Stop(
            f"--compile inductor needs the compiler {' or '.join(wanted)}, which is not here: install it, name another "
            f"in {variable}, or leave --compile out"
        )
    engine.compile(backend=backend)


def schedule(optimizer: torch.optim.Optimizer, args: argparse.Namespace, updates: int = 1) -> LambdaLR:
    """The job's schedule of rates, the same for all `updates` of a step."""
    from torch.optim.lr_scheduler import LambdaLR

    peak = optimizer.param_groups[0]["lr"]
    return LambdaLR(optimizer, lambda update: learning_rate(update // updates, peak, args) / peak)


def advance(engine: DeepSpeedEngine, update: int) -> float:
    """The rate of `update` (from 0), once the schedule has reached it.

    DeepSpeed does not advance it for an update that it leaves out because fp16 overflowed; the job counts that one.
    """
    scheduler = engine.lr_scheduler
    if hasattr(scheduler, "lr_lambdas") and scheduler.last_epoch < update:
        scheduler.last_epoch = update
        _set_rates(engine)
    return float(engine.get_lr()[0])


def _set_rates(engine: DeepSpeedEngine) -> None:
    scheduler, groups = engine.lr_scheduler, engine.optimizer.param_groups
    for group, base, factor in zip(groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True):
        group["lr"] = base * factor(scheduler.last_epoch)


def learning_rate(step: int, peak: float, args: argparse.Namespace) -> float:
    """The rate of update `step` (from 0): a line up to peak over warm-up, then by --schedule down to --min-lr."""
    warmup, last = int(args.warmup_steps), int(args.max_steps) - 1
    if step < warmup:
        return peak * (step + 1) / warmup
    floor: float = min(args.min_lr, peak)
    left = max(0, last - step)
    height: dict[str, float] = {
        "cosine": 0.5 * (1 - math.cos(math.pi * min(1.0, left / max(1, last - warmup)))),
        "linear": min(1.0, left / max(1, last - warmup)),
        "wsd": min(1.0, left / max(1, round(args.decay_share * args.max_steps))),
        "constant": 1.0,
    }
    rate: float = floor + (peak - floor) * height[args.schedule]
    return rate


@contextlib.contextmanager
def own_settings(engine: DeepSpeedEngine) -> Iterator[None]:
    """While a checkpoint is loaded: the job's optimizer settings and rates hold, not those in the checkpoint.

    So a restart can change them; and DeepSpeed 0.19.8 gives every parameter group of a universal ZeRO-3 checkpoint
    the weight decay of the first.
    """
    own = [{key: group[key] for key in SETTINGS if key in group} for group in engine.optimizer.param_groups]
    yield
    groups = engine.optimizer.param_groups
    for group, settings in zip(groups, own, strict=True):
        group.update(settings)
    schedule = engine.lr_scheduler
    if hasattr(schedule, "lr_lambdas"):
        schedule.base_lrs = [settings["initial_lr"] for settings in own]
        _set_rates(engine)


def part_steps(engine: DeepSpeedEngine) -> None:
    """Give each parameter of torch's Adam its own count of steps again, after loading a universal checkpoint.

    DeepSpeed 0.19.8 lets all of ZeRO-3's share one tensor, which each of them then advances.
    """
    import torch

    if isinstance(engine.basic_optimizer, torch.optim.Adam):
        fused = engine.basic_optimizer.defaults["fused"]
        for parameter, state in engine.basic_optimizer.state.items():
            if state:
                place = parameter.device if fused else "cpu"
                state["step"] = torch.tensor(float(state["step"]), device=place)


def unreported_norm(engine: DeepSpeedEngine) -> torch.Tensor | None:
    """The gradient's 2-norm, between backward and step, where DeepSpeed keeps none (fp32 without ZeRO)."""
    import torch

    if hasattr(engine.optimizer, "_global_grad_norm") or not engine.is_gradient_accumulation_boundary():
        return None
    return torch.nn.utils.get_total_norm(p.grad for p in engine.module.parameters() if p.grad is not None)


def _computes(name: str) -> bool:
    from deepspeed.accelerator import get_accelerator

    device = get_accelerator()
    supported = {"bf16": device.is_bf16_supported, "fp16": device.is_fp16_supported}
    return name not in supported or bool(supported[name]())


def _offloads(config: dict[str, Any]) -> bool:
    place = config.get("zero_optimization", {}).get("offload_optimizer", {}).get("device", "none")
    return bool(place != "none")


def decay_groups(model: PreTrainedModel, weight_decay: float) -> list[dict[str, Any]]:
    """The parameters that are trained, for the optimizer: weight decay is for matrices, not for norms and biases."""

    def is_matrix(parameter: torch.nn.Parameter) -> bool:
        return len(getattr(parameter, "ds_shape", parameter.shape)) > 1  # ZeRO-3 leaves an empty parameter

    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if is_matrix(p)], "weight_decay": weight_decay, "name": "matrices"},
        {"params": [p for p in trained if not is_matrix(p)], "weight_decay": 0.0, "name": "others"},
    ]
    return [group for group in groups if group["params"]]
