"""What is measured of DeepSpeed's memory on CPU ranks, and the planner's forecast of the same.

Owns the cases and the run of their ranks (memory_rank.py); test_memory_measured.py holds them against each other, and

    python -m tests.docker.workloads.memory_cases

prints them as the table of templates/deepspeed/README.md.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher import ROOT
from launcher.sizing import adapters, architecture, memory, models, zero
from launcher.sizing import setup as sizing_setup

if TYPE_CHECKING:
    from collections.abc import Sequence

RANKS = 2
LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 4096,
    "hidden_size": 384,
    "intermediate_size": 1056,
    "num_hidden_layers": 5,
    "num_attention_heads": 8,
    "max_position_embeddings": 512,
}
SMALL = LLAMA | {"num_hidden_layers": 2, "hidden_size": 256, "intermediate_size": 704, "vocab_size": 2048}
GPT2: dict[str, Any] = {
    "model_type": "gpt2",
    "vocab_size": 2048,
    "n_embd": 256,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 256,
    "attn_pdrop": 0.0,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 1,
}
# Encoder-decoders, with the dropout that they are published with.
T5: dict[str, Any] = {"model_type": "t5", "vocab_size": 2048, "d_model": 256, "d_kv": 32, "d_ff": 1024}
T5 |= {"num_layers": 3, "num_heads": 8, "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
BART: dict[str, Any] = {
    "model_type": "bart",
    "vocab_size": 2048,
    "d_model": 256,
    "max_position_embeddings": 256,
}
BART |= {"encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 1024, "decoder_ffn_dim": 1024}
BART |= {"encoder_attention_heads": 8, "decoder_attention_heads": 8}
GPT2_124M: dict[str, Any] = GPT2 | {
    "vocab_size": 50257,
    "n_embd": 768,
    "n_layer": 12,
    "n_head": 12,
    "n_positions": 1024,
}


# torch's Adam one tensor at a time, whose temporary tensors are counted
ADAM: dict[str, Any] = {"lr": 1e-4, "torch_adam": True, "fused": False, "foreach": False}


def case(
    name: str,
    model: dict[str, Any],
    stage: int,
    micro: int = 1,
    sequence: int = 128,
    accumulation: int = 1,
    checkpointing: bool = False,
    save: bool = False,
    low: bool = True,
    lora: int = 0,
    **keys: Any,
) -> dict[str, Any]:
    # Buckets below the model's size, so that they are used and do not hide the states.
    section = {"stage": stage, "reduce_bucket_size": 2_000_000, **keys}
    return {
        "name": name,
        "model": model,
        "micro": micro,
        "sequence": sequence,
        "checkpointing": checkpointing,
        "save": save,
        "lora": lora,
        "deepspeed": {
            "train_micro_batch_size_per_gpu": micro,
            "gradient_accumulation_steps": accumulation,
            "gradient_clipping": 1.0,
            "bf16": {"enabled": low},
            "optimizer": {"type": "AdamW", "params": ADAM},
            "zero_optimization": section,
        },
    }


# Of the small GPT-2 as of a real one, the matrices of a layer are above the threshold and the norms below it.
SPLIT: dict[str, Any] = {
    "stage3_prefetch_bucket_size": 1_000_000,
    "stage3_param_persistence_threshold": 10_000,
}
STREAMED: dict[str, Any] = {
    "stage3_max_live_parameters": 0,
    "stage3_max_reuse_distance": 0,
    "stage3_prefetch_bucket_size": 0,
}
# All weights arrive together, and a large embedding with them; the optimizer's step needs little.
EMBEDDED = SMALL | {"vocab_size": 8192}
PREFETCHED: dict[str, Any] = {"stage3_prefetch_bucket_size": 50_000_000, "sub_group_size": 500_000}
ADAPTED: dict[str, Any] = {"reduce_bucket_size": 200_000}
CASES = [
    case("zero1", LLAMA, 1),
    case("zero2", LLAMA, 2),
    case("zero3", LLAMA, 3, stage3_prefetch_bucket_size=1_000_000),
    case("zero0-fp32", SMALL, 0, low=False),
    case("zero1-overlap", SMALL, 1, overlap_comm=True),
    case("zero1-accumulation", SMALL, 1, accumulation=2),
    case("zero2-accumulation", SMALL, 2, accumulation=2, save=True),
    case("zero2-reduce", SMALL, 2, use_multi_rank_bucket_allreduce=False),
    case("zero2-one-bucket", SMALL, 2, reduce_bucket_size=2_656_000),
    case("zero2-fp32-one-bucket", SMALL, 2, low=False, reduce_bucket_size=2_656_000),
    case("zero3-prefetched", EMBEDDED, 3, sequence=32, **PREFETCHED),
    case("zero3-streamed", SMALL, 3, accumulation=2, save=True, **STREAMED),
    case("zero2-activations", SMALL, 2, micro=4, sequence=256),
    case("zero2-checkpointing", SMALL, 2, micro=4, sequence=256, checkpointing=True),
    case("zero1-gpt2", GPT2, 1),
    case("zero2-gpt2", GPT2, 2, micro=2, sequence=256),
    case("zero3-gpt2", GPT2, 3, **SPLIT),
    case("zero2-fp32", SMALL, 2, micro=8, sequence=128, low=False),
    case("lora-zero1", LLAMA, 1, lora=16, **ADAPTED),
    case("lora-zero2", LLAMA, 2, lora=16, **ADAPTED),
    case("lora-zero3", LLAMA, 3, lora=16, stage3_prefetch_bucket_size=1_000_000, **ADAPTED),
    case("lora-zero2-activations", SMALL, 2, micro=4, sequence=256, lora=16, **ADAPTED),
    case("lora-zero2-checkpointing", SMALL, 2, micro=4, sequence=256, checkpointing=True, lora=16, **ADAPTED),
    case("lora-zero2-gpt2", GPT2, 2, micro=2, sequence=256, lora=8, **ADAPTED),
    case("lora-zero2-fp32", SMALL, 2, micro=4, low=False, lora=128, **ADAPTED),
    case("zero1-t5", T5, 1),
    case("zero2-t5", T5, 2, micro=2),
    case("zero2-t5-checkpointing", T5, 2, micro=2, checkpointing=True),
    case("zero3-t5", T5, 3, **SPLIT),
    case("zero2-t5-fp32", T5, 2, micro=2, low=False, reduce_bucket_size=200_000),
    case("zero2-bart", BART, 2, micro=2),
    case("zero3-bart", BART, 3, micro=2, **SPLIT),
    case("lora-zero2-t5", T5, 2, micro=2, lora=16, **ADAPTED),
    case("lora-zero2-bart", BART, 2, micro=2, lora=16, **ADAPTED),
]
# A model that people train. A test takes too long with it; the smaller GPT-2 has the same tensors.
LARGE = [
    case("gpt2-124m-zero1", GPT2_124M, 1),
    case("gpt2-124m-zero2", GPT2_124M, 2),
    case("gpt2-124m-zero3", GPT2_124M, 3, stage3_prefetch_bucket_size=1_000_000),
]


def run(
    folder: Path, cases: Sequence[dict[str, Any]] = CASES, ranks: int = RANKS
) -> dict[str, dict[str, Any]]:
    """Rank 0's results of `cases`, trained one after the other by the same processes; `peaks` are the fullest rank's.

    Files go to `folder`.
    """
    (folder / "cases.json").write_text(json.dumps(cases))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = Path(__file__).with_name("memory_rank.py")
    processes = []
    for rank in range(ranks):
        env = os.environ | {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(ranks),
            "LOCAL_SIZE": str(ranks),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "DS_ACCELERATOR": "cpu",
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": str(ROOT / "docker"),
        }
        with (folder / f"rank-{rank}.log").open("wb") as log:
            command = [sys.executable, str(program), str(folder / "cases.json"), str(folder / "out")]
            processes.append(subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT))
    try:
        codes = [process.wait(timeout=1800) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    if codes != [0] * ranks:
        raise RuntimeError((folder / "rank-0.log").read_text()[-3000:])
    found: dict[str, dict[str, Any]]
    found, *others = [json.loads((folder / f"out.{rank}").read_text()) for rank in range(ranks)]
    for name, result in found.items():
        every = [result["peaks"], *(other[name]["peaks"] for other in others)]
        result["peaks"] = {part: max(peaks[part] for peaks in every) for part in result["peaks"]}
    return found


def predicted(
    one: dict[str, Any],
    ranks: int = RANKS,
) -> tuple[architecture.Architecture, zero.Zero, sizing_setup.Setup, memory.Memory]:
    """The model, settings and set-up of a case, and the planner's forecast."""
    model = models.from_config(one["model"], encoders=True)
    assert isinstance(model, architecture.Architecture)
    if one["lora"]:
        model = adapters.attach(model, architecture.Adapters(one["lora"], ()))
    settings = zero.read(one["deepspeed"])
    setup = sizing_setup.Setup(
        ranks, ranks, one["micro"], one["sequence"], checkpointing=one["checkpointing"], device="cpu"
    )
    return model, settings, setup, memory.estimate(model, settings, setup)


def states(one: dict[str, Any]) -> int:
    """Forecast: bytes of weights, gradients and optimizer after the backward pass, with stage 3's bucket."""
    _, settings, _, found = predicted(one)
    bucket = settings.weight_bytes * settings.reduce_bucket if settings.stage == 3 else 0
    return found.moments["step"].states + bucket


def peak(one: dict[str, Any], ranks: int = RANKS) -> int:
    """Forecast: the most bytes at once in a step, without the margin."""
    model, settings, setup, _ = predicted(one, ranks)
    return max(slot.total - slot.margin for slot in memory._moments(model, settings, setup))


def table(results: dict[str, dict[str, Any]]) -> str:
    """Forecast and measurement side by side, of the cases that were measured. Sizes are in MB of a million bytes."""
    lines = [
        "| case | parameters | states: planned | measured | error | peak: planned | measured | error |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for one in (each for each in (*CASES, *LARGE) if each["name"] in results):
        seen = results[one["name"]]
        cells = [one["name"], f"{predicted(one)[0].parameters / 1e6:.1f} million"]
        whole = one["deepspeed"]["gradient_accumulation_steps"] == 1  # else what is measured is in between
        cells += _compared(states(one), seen["after"]) if whole else ["", "", ""]
        cells += _compared(peak(one), max(seen["peaks"].values()))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _compared(planned: int, measured: int) -> list[str]:
    error = planned / measured - 1
    return [
        f"{planned / 1e6:.1f}",
        f"{measured / 1e6:.1f}",
        f"{error:+.1%}".replace("-0.0%", "0.0%").replace("+0.0%", "0.0%"),
    ]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        print(table(run(Path(made), [*CASES, *LARGE])))
