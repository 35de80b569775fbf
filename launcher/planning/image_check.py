"""Whether an image can run a job: its ops against DeepSpeed's configuration, its code against the cluster's hosts.

Owns which ops a configuration loads, and the words of each refusal; what an image holds is image.py's.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from launcher import workloads
from launcher.errors import PlanError, Problem
from launcher.images import facts as images_facts
from launcher.namedtuple import NamedTuple
from launcher.planning import accelerators, packages

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from launcher.images.facts import Capability, Facts
    from launcher.planning.plan import Plan
    from launcher.sizing.gpus import Gpu

# The psABI's levels, lowest first: https://gitlab.com/x86-psABIs/x86-64-ABI
LEVELS = ("x86-64", "x86-64-v2", "x86-64-v3", "x86-64-v4")
# CUDA 13 dropped what came before: https://docs.nvidia.com/cuda/archive/13.0.0/cuda-toolkit-release-notes/
_OLDEST = {13: (7, 5)}
_ADAM = ("adam", "adamw", "muon")  # Muon gives biases and embeddings to Adam


class Need(NamedTuple):
    """An op that a configuration loads, and why. One that is not `asked` for has a substitute in our workloads."""

    op: str
    why: str
    asked: bool = True


def needed(config: Mapping[str, Any]) -> list[Need]:
    """The ops that DeepSpeed 0.19.8 loads for a configuration on a GPU.

    Sources, below deepspeed/: runtime/engine.py (_configure_basic_optimizer), runtime/swap_tensor, ops/op_builder/
    async_io.py, runtime/zero/partition_parameters.py (CUDAQuantizer), runtime/comm/coalesced_collectives.py,
    compile/util.py, ops/random_ltd.
    """
    zero = config.get("zero_optimization") or {}
    places = [(zero.get(part) or {}).get("device") for part in ("offload_optimizer", "offload_param")]
    needs = list(_optimizer(config, places[0] in {"cpu", "nvme"}))
    if "nvme" in places:
        needs += [Need(op, "offload to NVMe") for op in ("PIN_MEMORY", "AIO")]
        if (config.get("aio") or {}).get("use_gds"):
            needs.append(Need("GDS", "aio.use_gds"))
    quantized = [key for key in zero if key.startswith("zero_quantized_") and zero[key]]
    if quantized:
        needs.append(Need("QUANTIZER", f"ZeRO++ ({', '.join(quantized)})"))
    if (config.get("compile") or {}).get("deepcompile"):
        needs.append(Need("DEEP_COMPILE", "compile.deepcompile"))
    routing = (config.get("data_efficiency") or {}).get("data_routing") or {}
    if (routing.get("random_ltd") or {}).get("enabled"):
        needs.append(Need("RANDOM_LTD", "random layerwise token dropping"))
    return needs


def _optimizer(config: Mapping[str, Any], offloaded: bool) -> Iterator[Need]:
    section = config.get("optimizer") or {}
    kind = str(section.get("type", "AdamW")).lower()
    if offloaded and not (kind in _ADAM and (section.get("params") or {}).get("torch_adam")):
        ops = {**dict.fromkeys(_ADAM, "CPU_ADAM"), "adagrad": "CPU_ADAGRAD", "lion": "CPU_LION"}
        if kind in ops:
            yield Need(ops[kind], "offload of the optimizer")
    elif not offloaded:
        ops = {**dict.fromkeys(_ADAM, "FUSED_ADAM"), "lion": "FUSED_LION", "lamb": "FUSED_LAMB"}
        if kind in ops and not (section.get("params") or {}).get("torch_adam"):
            yield Need(ops[kind], f"optimizer {section.get('type', 'AdamW')}", asked=bool(section))


def used(plan: Plan, scheduler: str) -> bool:
    """Whether ranks run in the image on `scheduler`: on Kubernetes always, elsewhere with a container runtime."""
    return plan.runtime(scheduler) != "none"


def refusal(plan: Plan, facts: Facts | None) -> PlanError | None:
    """Why the plan's image, with `facts` where they are known, cannot run it; None when nothing speaks against it."""
    problems = [
        *_processor(plan),
        *(_problems(plan, facts) if facts else ()),
        *packages.in_image(plan, facts),
    ]
    return PlanError(*problems).at(plan.places) if problems else None


def _processor(plan: Plan) -> Iterator[Problem]:
    """An image of this project's, which is for x86-64 and NVIDIA, on hosts with another processor or GPU."""
    card, gpu = plan.cluster.card, plan.cluster.gpu_name
    if card is None or plan.image == plan.cluster.image:
        return
    if card.vendor != "nvidia":
        what = f"image {plan.image} is for NVIDIA's GPUs, and hosts have {gpu}"
        own = f"an image of yours for {accelerators.VENDORS[card.vendor]}'s"
    elif card.processor == "arm64":
        what = f"hosts with {gpu} have arm64 processors, and image {plan.image} is for x86-64: "
        what, own = f"{what}docker/Dockerfile was never built for arm64", "an arm64 image of yours"
    else:
        return
    hint = f"name {own}, with its tag: `image: registry.example.com/NAME:TAG`"
    yield Problem(what, hint, about=_written(plan, ("cluster", "image"), ("cluster", "gpu")))


def stale(plan: Plan, facts: Facts) -> str:
    """A note that facts are of another build than the plan's image, empty where they are not or say nothing of it."""
    tag = plan.image.rpartition(":")[2] if plan.image != plan.cluster.image else ""
    if not tag or not facts.revision or tag.startswith(facts.revision):
        return ""
    return f"{facts.source} is of revision {facts.revision}, the image is {plan.image}; `make image-facts` prints its"


def _problems(plan: Plan, facts: Facts) -> Iterator[Problem]:
    wanted = "cuda" if plan.gpu else "cpu"
    if plan.cluster.card and plan.cluster.card.vendor != "nvidia":
        return  # an image's facts are of CUDA; what ROCm's or oneAPI's hold is not known here
    if facts.flavour != wanted:
        hosts = f"hosts with {plan.cluster.gpu_name}" if plan.gpu else "hosts without a GPU"
        yield Problem(
            f"image {plan.image} is of the {facts.flavour} flavour ({facts.source}), which {hosts} cannot use",
            f"make image FLAVOUR={wanted}",
            about=_written(plan, ("cluster", "image"), ("cluster", "gpu"), ("cluster", "slots")),
        )
        return
    yield from _level(plan, facts)
    needs = needed(plan.config) if workloads.steps(plan.job.workload) else []
    if card := plan.cluster.card:
        yield from _gpu_problems(plan, card, facts, needs)
    yield from _missing(plan, facts, needs)
    yield from _compiler(plan, facts)


def _level(plan: Plan, facts: Facts) -> Iterator[Problem]:
    level = plan.cluster.cpu_level
    if level and facts.level in LEVELS and LEVELS.index(facts.level) > LEVELS.index(level):
        yield Problem(
            f"image {plan.image} is compiled for {facts.level} ({facts.source}), hosts have {level}: "
            "ranks would die with SIGILL",
            f"make image CPU_MARCH={level} CPU_SIMD={'AVX256' if level == 'x86-64-v3' else 'SCALAR'}",
            about=("cluster", "cpu_level"),
        )


def _gpu_problems(plan: Plan, card: Gpu, facts: Facts, needs: list[Need]) -> Iterator[Problem]:
    """Code that the GPU cannot run; first of all that of torch, which follows CUDA's own support."""
    gpu, major = card.capability, facts.cuda.partition(".")[0]
    here = f"{plan.cluster.gpu_name} (compute capability {_dotted(gpu)})"
    oldest = _OLDEST.get(int(major)) if re.fullmatch("[0-9]{1,4}", major) else None
    lost = [n.op for n in needs if n.op in facts.ops and not facts.ops[n.op].runs_on(gpu)]
    about = ("cluster", "gpu")
    if oldest and gpu < oldest:
        what = f"image {plan.image} is of CUDA {facts.cuda} ({facts.source}), which cannot run on {here}"
        yield Problem(what, "use an image of CUDA 12", about=about)
    elif lost:
        op = facts.ops[lost[0]]
        has = ", ".join([*map(_dotted, op.sass), *(f"PTX of {_dotted(p)}" for p in op.ptx)])
        listed = ";".join(sorted({*map(_dotted, op.sass), _dotted(gpu)}, key=float)) + "+PTX"
        what = f"{', '.join(lost)} of image {plan.image} cannot run on {here}: compiled for {has} ({facts.source})"
        yield Problem(what, f"make image TORCH_CUDA_ARCH_LIST='{listed}'", about=about)


def _missing(plan: Plan, facts: Facts, needs: list[Need]) -> Iterator[Problem]:
    """Ops that are not there. A compiler in the image makes those of host code on first use, and has no nvcc."""
    lost = [n for n in needs if n.asked and n.op not in facts.ops]
    lost = [n for n in lost if not (facts.compiler and not images_facts.catalogue()[n.op].get("gpu"))]
    if not lost:
        return
    names = " and ".join(n.op for n in lost)
    reasons = ", ".join(dict.fromkeys(n.why for n in lost))
    where = {n.op for n in lost if facts.flavour not in images_facts.catalogue()[n.op]["flavours"]}
    yield Problem(
        f"image {plan.image} lacks DeepSpeed's {names} ({facts.source}), needed for {reasons}",
        f"it exists on GPU hosts only: use another `deepspeed:` than {plan.preset}"
        if where
        else f"make image DS_OPS='{' '.join([*facts.ops, *(n.op for n in lost)])}', or another `deepspeed:`",
        about=_written(plan, ("job", "deepspeed"), ("cluster", "image"), ("job", "name")),
    )


# Options that end in Triton, which builds a small C library at run time (triton/runtime/build.py).
_TRITON = {"compile": "inductor", "liger": True}


def _compiler(plan: Plan, facts: Facts) -> Iterator[Problem]:
    for name, value in _TRITON.items():
        if plan.args.get(name) == value and not facts.compiler:
            yield Problem(
                f"args.{name} needs a C compiler, and image {plan.image} has none ({facts.source})",
                "make image COMPILER=yes",
                about=("job", "args", name),
            )


def _dotted(capability: Capability) -> str:
    return f"{capability[0]}.{capability[1]}"


def _written(plan: Plan, *fields: tuple[str, ...]) -> tuple[str, ...]:
    """The first of these fields that a file has; the last when none has any."""
    return next((f for f in fields if f[1:] in plan.places[f[0]]), fields[-1])
