"""One rank that trains with DeepSpeed and writes what its memory held and what it sent: `memory_rank.py CASES OUT`.

CASES is a JSON list of {name, model, deepspeed, micro, sequence, checkpointing, save}; OUT.<rank> is a JSON object
of results by name. Bytes are those of live tensors (`after`, `rest`) and of torch's allocator (`peaks`, from the
profiler's memory events). It stands alone, so that the tests can run it as real processes.
"""

from __future__ import annotations

import bisect
import gc
import itertools
import json
import logging
import os
import shutil
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)

import torch  # noqa: E402
import torch.distributed  # noqa: E402

PATIENCE = 5.0  # seconds for gloo's threads to let go of what they sent
FEW = 32  # tokens of a step that is not measured
SENT: dict[str, int] = {}
WHOLE = {"all_reduce": 0, "reduce": 0, "all_gather_into_tensor": 0, "reduce_scatter_tensor": 1}


class Ended:
    """The handle of a collective that is over."""

    def wait(self) -> bool:
        return True

    def is_completed(self) -> bool:
        return True


def count(name: str, position: int) -> None:
    """Let torch.distributed's `name` add the bytes of its argument at `position`, the whole message, to SENT.

    It returns when gloo's threads have let go of all tensors: what they free later is freed unseen by the profiler, and
    counts as held. A handle would hold them too, so each collective is a blocking one.
    """
    original = getattr(torch.distributed, name)

    def counted(*args: Any, async_op: bool = False, **kwargs: Any) -> Any:
        names = {"all_gather_into_tensor": "output_tensor", "reduce_scatter_tensor": "input"}
        tensor = args[position] if len(args) > position else kwargs[names.get(name, "tensor")]
        SENT[name] = SENT.get(name, 0) + tensor.nbytes
        tensors = [given for given in (*args, *kwargs.values()) if isinstance(given, torch.Tensor)]
        before = [uses(given) for given in tensors]
        original(*args, **kwargs)
        end = time.monotonic() + PATIENCE
        while any(uses(given) > so_far for given, so_far in zip(tensors, before, strict=True)):
            if time.monotonic() > end:
                raise RuntimeError(f"{name}: gloo holds what it has sent")
            time.sleep(0.0002)
        return Ended() if async_op else None

    setattr(torch.distributed, name, counted)


def uses(tensor: torch.Tensor) -> int:
    """How many hold the tensor's storage."""
    return torch._C._storage_Use_Count(tensor.untyped_storage()._cdata)  # type: ignore[no-any-return]


# Before DeepSpeed is imported, which keeps references to these functions.
for collective, place in WHOLE.items():
    count(collective, place)

from workloads import imports  # noqa: E402

imports.deepspeed()
import deepspeed  # noqa: E402
from torch.profiler import ProfilerActivity, profile  # noqa: E402
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM  # noqa: E402
from transformers.integrations import HfDeepSpeedConfig  # noqa: E402
from transformers.pytorch_utils import Conv1D  # noqa: E402


class Mark(NamedTuple):
    """The end of a part of the step, and the bytes alive then where only Python holds tensors."""

    name: str
    nanoseconds: int
    alive: int | None


def live() -> int:
    """Bytes of all tensors that Python can reach and that were made since `gc.freeze()`, each storage once.

    Looked at until it stays the same: gloo's threads let go of what they sent a moment after the collective has ended.
    """
    gc.collect()
    seen = [-1]
    while len(seen) < 3 or len(set(seen[-3:])) > 1:
        if len(seen) > 1:
            time.sleep(0.03)
        seen.append(_reachable())
    return seen[-1]


def _reachable() -> int:
    storages: dict[int, int] = {}
    for item in gc.get_objects():
        if not issubclass(type(item), torch.Tensor) or item.is_meta:
            continue
        for tensor in (item, getattr(item, "ds_tensor", None), item.grad if item.is_leaf else None):
            if tensor is not None:
                storage = tensor.untyped_storage()
                storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def measure(case: dict[str, Any]) -> dict[str, Any]:
    """Train a few steps of one case, and describe the last."""
    gc.collect()
    gc.freeze()  # modules, and what earlier cases left: a million objects that need not be searched for tensors
    config, options = case["deepspeed"], dict(case["model"])
    settings = AutoConfig.for_model(options.pop("model_type"), use_cache=False, **options)
    dtype = torch.bfloat16 if config.get("bf16", {}).get("enabled") else torch.float32
    stage = config["zero_optimization"]["stage"]
    held = (
        HfDeepSpeedConfig(config) if stage == 3 else None
    )  # tells transformers to partition while it builds
    torch.manual_seed(0)
    kind = AutoModelForSeq2SeqLM if settings.is_encoder_decoder else AutoModelForCausalLM
    model = kind.from_config(settings, dtype=dtype).train()
    fill(model)
    if case.get("checkpointing"):
        how = {"use_reentrant": True} if case.get("lora") and stage == 3 else None
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=how)
    if case.get("lora"):
        model = adapted(model, case["lora"], case.get("checkpointing", False), stage)
    trained = [p for p in model.parameters() if p.requires_grad]
    engine, *_ = deepspeed.initialize(model=model, config=config, model_parameters=trained)
    marks: list[Mark] = []

    def forward(rows: int, tokens: int) -> torch.Tensor:
        ids = torch.randint(0, settings.vocab_size, (rows, tokens))
        loss: torch.Tensor = engine(input_ids=ids, labels=ids, **padding(ids, settings)).loss
        return loss

    def step(rows: int = case["micro"], tokens: int = case["sequence"]) -> None:
        for _ in range(config["gradient_accumulation_steps"]):
            loss = forward(rows, tokens)
            marks.append(Mark("forward", time.time_ns(), None))
            engine.backward(loss)
            del loss
            marks.append(Mark("backward", time.time_ns(), live()))
            engine.step()
            marks.append(Mark("step", time.time_ns(), live()))

    # The first step fills the optimizer's state. One rank gathers and sends nothing; of several the first step fills
    # stage 3's trace, and a busy machine may hold gloo's threads back for longer: of each moment the least counts.
    alone = torch.distributed.get_world_size() == 1
    if alone:
        step(1, FEW)
    else:
        step()
        step()
    rest, seen = live(), []
    for _ in range(1 if alone else 3):
        SENT.clear()
        marks[:] = [Mark("start", time.time_ns(), live())]
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            step()
        seen.append(peaks(profiler, marks))
    least = {moment: min(one[moment] for one in seen) for moment in seen[0]}
    if engine.skipped_steps:
        raise RuntimeError(f"{case['name']}: DeepSpeed left out a step whose gradients are not finite")
    result: dict[str, Any] = {"rest": rest, "sent": dict(SENT), "peaks": least}
    result["after"] = next(mark.alive for mark in reversed(marks) if mark.name == "backward")
    result["parameters"] = sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters())
    if case.get("save"):
        result["checkpoint"] = saved(engine)
    engine.destroy()
    del held
    return result


def fill(model: Any) -> None:
    """Numbers for weights that transformers (5.24) leaves as it finds them where DeepSpeed partitions: GPT's."""
    for module in model.modules():
        if isinstance(module, Conv1D):
            weight = getattr(module.weight, "ds_tensor", module.weight)
            torch.nn.init.normal_(weight, std=model.config.initializer_range)


def padding(ids: torch.Tensor, settings: Any) -> dict[str, torch.Tensor]:
    """Of an encoder-decoder a mask of what is read, as a batch of examples has it."""
    if not settings.is_encoder_decoder:
        return {}
    mask = torch.ones_like(ids)
    mask[0, -1] = 0
    return {"attention_mask": mask}


def adapted(model: Any, rank: int, checkpointing: bool, stage: int) -> Any:
    """The model with adapters, as docker/workloads/lora.py attaches them."""
    from peft import LoraConfig, get_peft_model

    if checkpointing:
        model.enable_input_require_grads()
    task = "SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM"
    how = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type=task)
    return get_peft_model(model, how, autocast_adapter_dtype=stage != 3)


def peaks(profiler: Any, marks: list[Mark]) -> dict[str, int]:
    """The most bytes at once in forward, backward and step.

    Counting starts anew from what is alive at each mark: gloo's threads free some of what they sent, which the
    profiler does not see.
    """
    events = sorted(
        (event.start_ns(), event.nbytes())
        for event in profiler.profiler.kineto_results.events()
        if event.name() == "[memory]"
    )
    found: dict[str, int] = {}
    now = 0
    for last, mark in itertools.pairwise(marks):
        now = now if last.alive is None else last.alive
        begin, end = (bisect.bisect_left(events, (m.nanoseconds,)) for m in (last, mark))
        for _, size in events[begin:end]:
            now += size
            found[mark.name] = max(found.get(mark.name, now), now)
    return found


def saved(engine: Any) -> int:
    """Bytes of a checkpoint, by all ranks."""
    folder = [tempfile.mkdtemp() if torch.distributed.get_rank() == 0 else ""]
    torch.distributed.broadcast_object_list(folder)
    engine.save_checkpoint(folder[0])
    torch.distributed.barrier()
    size = sum(f.stat().st_size for f in Path(folder[0]).rglob("*") if f.is_file())
    torch.distributed.barrier()
    if torch.distributed.get_rank() == 0:
        shutil.rmtree(folder[0])
    return size


def main() -> None:
    torch.set_num_threads(1)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # nothing is compiled for this test
    deepspeed.init_distributed("gloo", auto_mpi_discovery=False, verbose=False)
    cases = json.loads(Path(sys.argv[1]).read_text())
    for name in {case["model"]["model_type"] for case in cases}:
        kind = type(AutoConfig.for_model(name))
        for auto in (AutoModelForCausalLM, AutoModelForSeq2SeqLM):
            if kind in auto._model_mapping:
                auto._model_mapping[kind]  # reads its modules
    results = {case["name"]: measure(case) for case in cases}
    Path(f"{sys.argv[2]}.{torch.distributed.get_rank()}").write_text(json.dumps(results))
    torch.distributed.barrier()
    os._exit(0)  # gloo's threads may abort a regular exit


if __name__ == "__main__":
    main()
