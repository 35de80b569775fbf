"""What training holds on one GPU at its peak, against the planner's forecast.

    python -m tests.docker.workloads.memory_gpu          every case, as a table in Markdown
    python -m tests.docker.workloads.memory_gpu CASE     one case (JSON), in this process: its peak in bytes

Each case trains three steps in a process of its own on random tokens; the peak is torch's max_memory_allocated, which
counts tensors alone, as the forecast without its margin does.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from launcher.sizing import architecture, memory, models, zero
from launcher.sizing import setup as sizing_setup
from tests.docker.workloads.memory_cases import ADAM

STEPS = 3


@dataclass(frozen=True)
class Case:
    model: str  # a named architecture
    stage: int
    micro: int
    checkpointing: bool
    sequence: int = 1024

    @property
    def deepspeed(self) -> dict[str, Any]:
        return {
            "train_micro_batch_size_per_gpu": self.micro,
            "gradient_clipping": 1.0,
            "bf16": {"enabled": True},
            "optimizer": {"type": "AdamW", "params": ADAM},
            "zero_optimization": {"stage": self.stage, "reduce_bucket_size": 50_000_000},
        }

    @property
    def forecast(self) -> memory.Memory:
        model = models.load(self.model)
        assert isinstance(model, architecture.Architecture)
        setup = sizing_setup.Setup(1, 1, self.micro, self.sequence, checkpointing=self.checkpointing)
        return memory.estimate(model, zero.read(self.deepspeed), setup)

    @property
    def peak(self) -> int:
        """Forecast of the most bytes at once, without the margin."""
        return max(slot.total - slot.margin for slot in self.forecast.moments.values())


MODELS = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "llama-1b", "llama-3b")
CASES = [
    Case(model, stage, micro, checkpointing)
    for model, stage, micro, checkpointing in itertools.product(MODELS, (1, 2, 3), (1, 4, 16), (False, True))
]


def measure(case: Case) -> int:
    """Train a few steps; the peak in bytes."""
    import deepspeed
    import torch
    from deepspeed.accelerator import get_accelerator
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.integrations import HfDeepSpeedConfig

    one = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    os.environ.update({**one, "MASTER_PORT": os.environ.get("MASTER_PORT", "29511")})
    device = get_accelerator()
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # nothing is compiled for this
    deepspeed.init_distributed(device.communication_backend_name(), auto_mpi_discovery=False, verbose=False)
    options: dict[str, Any] = {
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
    }  # as the workloads train it
    options |= models.named()[case.model]
    settings = AutoConfig.for_model(str(options.pop("model_type")), use_cache=False, **options)
    held = HfDeepSpeedConfig(case.deepspeed) if case.stage == 3 else None
    model = AutoModelForCausalLM.from_config(settings, dtype=torch.bfloat16).train()
    if case.checkpointing:
        model.activation_checkpointing_enable()
    engine, *_ = deepspeed.initialize(model=model, config=case.deepspeed, model_parameters=model.parameters())
    for step in range(STEPS):
        if step == STEPS - 1:
            device.reset_peak_memory_stats()  # the first steps fill the optimizer's state
        ids = torch.randint(0, settings.vocab_size, (case.micro, case.sequence), device=engine.device)
        engine.backward(engine(input_ids=ids, labels=ids).loss)
        engine.step()
    del held
    return int(device.max_memory_allocated())


def table(cases: list[Case], capacity: int) -> str:
    """Forecast and measurement of the cases that should fit `capacity` bytes, as Markdown. Sizes are in GB."""
    lines = ["| model | stage | micro | checkpointing | planned | measured | error |", "|---|" + "---:|" * 6]
    for case in cases:
        cells = [case.model, str(case.stage), str(case.micro), "yes" if case.checkpointing else "no"]
        if case.forecast.slot.total > capacity:
            lines.append(f"| {' | '.join([*cells, f'{case.peak / 1e9:.2f}', 'does not fit', ''])} |")
            continue
        words = [
            sys.executable,
            "-m",
            "tests.docker.workloads.memory_gpu",
            json.dumps(dataclasses.asdict(case)),
        ]
        done = subprocess.run(words, capture_output=True, text=True)
        said = done.stdout.split()[-1] if done.returncode == 0 else ""
        seen = [f"{int(said) / 1e9:.2f}", f"{case.peak / int(said) - 1:+.1%}"] if said else ["failed", ""]
        lines.append(f"| {' | '.join([*cells, f'{case.peak / 1e9:.2f}', *seen])} |")
    return "\n".join(lines)


def main() -> None:
    import torch

    if len(sys.argv) > 1:
        print(measure(Case(**json.loads(sys.argv[1]))), flush=True)
        os._exit(0)  # gloo's and NCCL's threads may abort a regular exit
    if not torch.cuda.is_available():
        sys.exit("there is no GPU here")
    print(table(CASES, torch.cuda.get_device_properties(0).total_memory))


if __name__ == "__main__":
    main()
