"""Peak resident memory of fine-tuning and chat training on two CPU ranks, above a baseline, and the plan's forecast.

Owns the cases and their runs; test_memory_jobs.py holds some of them to limits, and

    python -m tests.docker.workloads.memory_jobs

prints all of them as the table of templates/deepspeed/README.md. The baseline of a case is its job with a model as
deep of half a million parameters, less what is planned of that: packages, and Python's objects of modules, hooks and
adapters. What is planned is what `plan` says of the job, without its margin; glibc gives freed memory back at once, so
that what is resident is what is in use. A step takes more here than reading the model does, whose file's pages count
as long as they are mapped, though Linux may take them back.
"""

from __future__ import annotations

import functools
import json
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from tests import samples
from tests.docker.workloads import ranks, tiny
from tests.docker.workloads.memory_resident import LLAMA, RETURNING

RANKS, SECONDS = 2, 900.0
MODEL = LLAMA
TINY = MODEL | {"vocab_size": 320, "hidden_size": 64, "intermediate_size": 128}
LORA: dict[str, Any] = {"lora-rank": 16}
SAMPLED: dict[str, Any] = {"max-new-tokens": 64, "reward": "brief"}


class Case(NamedTuple):
    """A job of some steps."""

    name: str
    workload: str
    stage: int
    micro: int = 1
    sequence: int = 128
    args: dict[str, Any] = {}  # noqa: RUF012  (never changed)
    accumulation: int = 1

    @property
    def options(self) -> dict[str, Any]:
        """The options of the workload that decide memory."""
        packs = {"packing": True} if self.workload in ("finetune", "chat_sft") else {}
        return {"seq-length": self.sequence, **packs, **self.args}


CASES = [
    Case("finetune, ZeRO-2", "finetune", 2),
    Case("finetune, ZeRO-2, 8 × 256 tokens", "finetune", 2, 8, 256),
    Case("finetune, LoRA, ZeRO-2, 4 × 256 tokens", "finetune", 2, 4, 256, LORA),
    Case("finetune, LoRA, ZeRO-3, 4 × 256 tokens", "finetune", 3, 4, 256, LORA),
    Case("chat_sft, LoRA, 4 × 256 tokens", "chat_sft", 2, 4, 256, LORA),
    Case("chat_sft, ZeRO-3", "chat_sft", 3),
    Case("chat_reward, ZeRO-2, 4 × 2 × 256 tokens", "chat_reward", 2, 4, 256),
    Case("chat_dpo, ZeRO-2, 4 × 2 × 256 tokens", "chat_dpo", 2, 4, 256),
    Case("chat_dpo, LoRA, 4 × 2 × 256 tokens", "chat_dpo", 2, 4, 256, LORA),
    Case("chat_dpo, ZeRO-3", "chat_dpo", 3),
    Case("chat_dpo, LoRA, ZeRO-3, 4 × 2 × 256 tokens", "chat_dpo", 3, 4, 256, LORA),
    Case("chat_rl, ZeRO-2", "chat_rl", 2, 4, 64, {**SAMPLED, "generations": 4}, 2),
    Case("chat_rl, ZeRO-3", "chat_rl", 3, 4, 64, {**SAMPLED, "generations": 4}, 2),
    Case("chat_ppo, ZeRO-2", "chat_ppo", 2, 4, 64, SAMPLED),
    Case("chat_ppo, ZeRO-3", "chat_ppo", 3, 4, 64, SAMPLED, 2),
    Case(
        "chat_ppo, ZeRO-3, layers gathered",
        "chat_ppo",
        3,
        4,
        64,
        {**SAMPLED, "gather-for-generation": False},
        2,
    ),
    Case("chat_ppo, LoRA, ZeRO-3", "chat_ppo", 3, 4, 64, {**SAMPLED, **LORA}, 2),
    Case("chat_ppo, LoRA, ZeRO-2", "chat_ppo", 2, 4, 64, {**SAMPLED, **LORA}),
]


def measured(case: Case) -> int:
    """Bytes of rank 0's peak resident memory in two steps, above the baseline."""
    return _resident(case, MODEL) - _baseline(case.workload, case.stage, "lora-rank" in case.args)


@functools.cache
def _baseline(workload: str, stage: int, adapted: bool) -> int:
    samples_answers = workload in ("chat_rl", "chat_ppo")
    args = (SAMPLED if samples_answers else {}) | (LORA if adapted else {})
    case = Case("baseline", workload, stage, sequence=64, args=args, accumulation=1 + samples_answers)
    return _resident(case, TINY) - planned(case, TINY)


def _resident(case: Case, model: dict[str, Any]) -> int:
    config = job(case, model)[1]
    batch = ranks.deepspeed(RANKS, case.stage, case.micro, case.accumulation)
    batch.pop("zero_optimization")  # it is the plan's
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        data = folder / "data.jsonl"
        data.write_text("".join(f"{json.dumps(row)}\n" for row in _rows(case)))
        words = [f"--data={data}", "--max-steps=2", "--log-every=1"]
        words += [_word(key, value) for key, value in case.options.items()]
        named = str(tiny.save(folder / "model", model))
        words.append(f"workloads.{case.workload}")
        run = ranks.start(folder, RANKS, config | batch, *words, model=named, module=RETURNING)
        codes = run.wait(SECONDS)
        if codes != [0] * RANKS:
            raise RuntimeError(run.output())
        return int(max(step["memory_bytes"] for step in run.steps()))


def _word(key: str, value: Any) -> str:
    return f"--{key}={value}" if not isinstance(value, bool) else f"--{key}" if value else f"--no-{key}"


def _rows(case: Case) -> list[dict[str, str]]:
    """Examples as long as the job's samples are at most; its tokenizer's tokens are bytes."""
    long = "0123456789abcdef" * (case.sequence // 8)
    if case.workload in ("finetune", "chat_sft"):
        return [{"text": f"{number:06}{long[:24]}"} for number in range(4096)]  # with begin and end 32 tokens
    if case.workload in ("chat_reward", "chat_dpo"):
        # with a prompt of 6 tokens, begin and end as long as a sample may be
        answer = long[: case.sequence - 8]
        return [{"prompt": f"{n:06}", "chosen": answer, "rejected": answer[::-1]} for n in range(256)]
    return [{"prompt": f"{n:06}{long}"[: case.sequence - 1]} for n in range(256)]


def job(case: Case, model: dict[str, Any] = MODEL) -> tuple[Any, dict[str, Any]]:
    """What is planned of the case, and its DeepSpeed config."""
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "config.json").write_text(json.dumps(model))
        batch = {"micro": case.micro, "accumulation": case.accumulation}
        fields = {
            "model": place,
            "workload": case.workload,
            "batch": batch,
            "deepspeed": f"zero{case.stage}",
            "precision": "bf16",
            "args": {"data": "/data/rows.jsonl", "activation-checkpointing": False, **case.options},
        }
        plan = samples.decided(fields, slots=RANKS, memory="64GB")
    assert plan.estimate is not None
    return plan.estimate, plan.config


def planned(case: Case, model: dict[str, Any] = MODEL) -> int:
    """The plan's forecast in bytes, the tensors alone."""
    found = job(case, model)[0].evaluation.memory.moments.values()
    return int(max(slot.total - slot.margin for slot in found))


def row(case: Case) -> str:
    """A line of the table, in MB of a million bytes."""
    plan, seen = planned(case), measured(case)
    return f"| {case.name} | {plan / 1e6:.0f} | {seen / 1e6:.0f} | {plan / seen - 1:+.1%} |"


if __name__ == "__main__":
    print("| job | planned | resident | error |\n|---|---:|---:|---:|")
    for each in CASES:
        if each.name.startswith(tuple(sys.argv[1:])) or not sys.argv[1:]:
            print(row(each), flush=True)
