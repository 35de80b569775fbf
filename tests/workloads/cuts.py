"""A rank that trains several workloads one after the other, so that its start is paid once: `python -m …cuts CASES`.

CASES is a JSON file: a list of {"workload", "run_dir", "config", "words"}. Each is what its own process would do, with
the process group and imports kept. The last line printed of each is its exit code.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from workloads import options, session

PROGRAMS = {
    "finetune": "finetune",
    "chat_sft": "sft",
    "chat_reward": "reward",
    "chat_dpo": "dpo",
    "chat_rl": "rl",
    "chat_ppo": "ppo",
}


def main() -> None:
    cases: list[dict[str, Any]] = json.loads(Path(sys.argv[1]).read_text())
    rank = session._start(Path(cases[0]["run_dir"]))
    for case in cases:
        run_dir = Path(case["run_dir"])
        run_dir.mkdir(parents=True, exist_ok=True)
        config = run_dir / "deepspeed.json"
        if rank.rank == 0:
            config.write_text(json.dumps(case["config"]))
        module = importlib.import_module(f"workloads.{case['workload']}")
        words = [f"--deepspeed-config={config}", f"--run-dir={run_dir}", *case["words"]]
        this = dataclasses.replace(rank, run_dir=run_dir)
        this.first(lambda: None)
        try:
            code = getattr(module, PROGRAMS[case["workload"]])(options.parse(module.parser(), words), this)
        except session.Stop as stop:
            print(stop.message, flush=True)
            code = stop.code
        print(f"{case['run_dir']} ended with {code}", flush=True)
        forget()
    session._leave(os.EX_OK, orderly=True)


def forget() -> None:
    """What accelerate and transformers keep of a run for the whole process."""
    from accelerate.state import AcceleratorState, GradientState
    from transformers.integrations import deepspeed

    AcceleratorState._reset_state()
    GradientState._reset_state()
    deepspeed.unset_hf_deepspeed_config()


if __name__ == "__main__":
    main()
