"""Peak resident memory of pretraining on two CPU ranks, above a baseline, and the planner's forecast of it.

Owns the cases and their runs; test_memory_resident.py holds some of them to limits, and

    python -m tests.docker.workloads.memory_resident

prints all of them as the table of templates/deepspeed/README.md. The baseline is the same program with a model of
83 thousand parameters: Python, torch, DeepSpeed and the data. Presets, options and program are a job's. `returned` runs
have glibc give freed memory back at once, so that what is resident is what is in use; the others are as jobs run.
"""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from launcher import ROOT
from launcher.sizing import architecture, memory, models, zero
from launcher.sizing import setup as sizing_setup
from tests.docker.workloads import memory_cases, ranks

if TYPE_CHECKING:
    from collections.abc import Iterator

RANKS = 2
PATIENCE = 3600.0  # seconds for a case of the table: the machine may be busy
RETURNING = "tests.docker.workloads.returning"
# large enough that what the C library holds and what a rank imports are small beside it
LLAMA = memory_cases.LLAMA | {
    "vocab_size": 8192,
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 10,
}
GPT2_124M = memory_cases.GPT2_124M
GPT2_355M = GPT2_124M | {"n_embd": 1024, "n_layer": 24, "n_head": 16}
NONE = GPT2_124M | {"vocab_size": 256, "n_embd": 64, "n_layer": 1, "n_head": 1, "n_positions": 256}


class Case(NamedTuple):
    """A run of some steps."""

    name: str
    model: dict[str, Any]
    stage: int
    micro: int = 1
    sequence: int = 128
    checkpointing: bool = False
    low: bool = True

    @property
    def deepspeed(self) -> dict[str, Any]:
        """The DeepSpeed config: the stage's preset and the batch."""
        preset = json.loads((ROOT / f"templates/deepspeed/zero{self.stage}.json").read_text(encoding="utf-8"))
        batch = ranks.deepspeed(RANKS, self.stage, self.micro, gradient_clipping=1.0)
        return batch | {"bf16": {"enabled": self.low}, "zero_optimization": preset["zero_optimization"]}


CASES = [
    Case("LLaMA, ZeRO-1", LLAMA, 1),
    Case("LLaMA, ZeRO-2", LLAMA, 2),
    Case("LLaMA, ZeRO-3", LLAMA, 3),
    Case("LLaMA, ZeRO-2, 8 × 256 tokens", LLAMA, 2, 8, 256),
    Case("the same, activation checkpointing", LLAMA, 2, 8, 256, checkpointing=True),
    Case("LLaMA, ZeRO-3, 8 × 256 tokens", LLAMA, 3, 8, 256),
    Case("LLaMA, ZeRO-1, fp32", LLAMA, 1, low=False),
    Case("GPT-2, ZeRO-1", GPT2_124M, 1),
    Case("GPT-2, ZeRO-2", GPT2_124M, 2),
    Case("GPT-2, ZeRO-3", GPT2_124M, 3),
    Case("GPT-2, ZeRO-2, 2 × 512 tokens", GPT2_124M, 2, 2, 512),
    Case("the same, activation checkpointing", GPT2_124M, 2, 2, 512, checkpointing=True),
    Case("GPT-2 medium, ZeRO-1", GPT2_355M, 1),
    Case("GPT-2 medium, ZeRO-3", GPT2_355M, 3),
]


def measured(case: Case, returned: bool, seconds: float = ranks.TIMEOUT) -> int:
    """Bytes of rank 0's peak resident memory in two steps of at most so many seconds in all, above the baseline."""
    return _resident(case, returned, seconds) - _baseline(case.low, returned)


@functools.cache
def _baseline(low: bool, returned: bool) -> int:
    return _resident(Case("baseline", NONE, 2, low=low), returned)


def _resident(case: Case, returned: bool, seconds: float = ranks.TIMEOUT) -> int:
    words = [f"--seq-length={case.sequence}", "--max-steps=2", "--log-every=1"]
    words += ["--activation-checkpointing"] if case.checkpointing else []
    words += ["workloads.pretrain"] if returned else []
    with tempfile.TemporaryDirectory() as folder:
        module = RETURNING if returned else ""
        run = ranks.start(Path(folder), RANKS, case.deepspeed, *words, model=case.model, module=module)
        codes = run.wait(seconds)
        if codes != [0] * RANKS:
            raise RuntimeError(run.output())
        return int(max(step["memory_bytes"] for step in run.steps()))


def planned(case: Case, margin: bool) -> int:
    """The planner's forecast of the same in bytes: with its margin, or the tensors alone."""
    model = models.from_config(case.model)
    assert isinstance(model, architecture.Architecture)
    setup = sizing_setup.Setup(
        RANKS,
        RANKS,
        case.micro,
        case.sequence,
        checkpointing=case.checkpointing,
        learning=sizing_setup.Learning(loss="chunks"),
        device="cpu",
    )
    found = memory.estimate(model, zero.read(case.deepspeed), setup)
    return found.slot.total if margin else max(slot.total - slot.margin for slot in found.moments.values())


def error(case: Case, returned: bool, seen: int) -> float:
    """By which share the forecast is above what was seen."""
    return planned(case, margin=not returned) / seen - 1


def table() -> Iterator[str]:
    """All cases, run one after the other, as lines of Markdown. Sizes are in MB of a million bytes."""
    yield (
        "| case | parameters | tensors: planned | resident, freed memory given back | error |"
        " with margin: planned | resident, as jobs run | error |"
    )
    yield "|---|---:|---:|---:|---:|---:|---:|---:|"
    for case in CASES:
        model = models.from_config(case.model)
        assert isinstance(model, architecture.Architecture)
        cells = [case.name, f"{model.parameters / 1e6:.1f} million"]
        for returned in (True, False):
            seen = measured(case, returned, PATIENCE)
            plan = planned(case, margin=not returned)
            cells += [f"{plan / 1e6:.0f}", f"{seen / 1e6:.0f}", f"{error(case, returned, seen):+.1%}"]
        yield f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    for row in table():
        print(row, flush=True)
