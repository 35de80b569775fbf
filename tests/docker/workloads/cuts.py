"""A rank that trains several workloads one after the other, so that its start is paid once: `python -m …cuts CASES`.

CASES is a JSON file: a list of {"workload", "run_dir", "config", "words", "stop_before"}. Each is what its own process
would do, with the process group and imports kept; one with `stop_before` ends before it takes that step, as if it had
been killed. What each ended with is printed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workloads import options, session

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from contextlib import AbstractContextManager

PROGRAMS = {
    "finetune": "finetune",
    "chat_sft": "sft",
    "chat_reward": "reward",
    "chat_dpo": "dpo",
    "chat_rl": "rl",
    "chat_ppo": "ppo",
}


class Interrupted(Exception):
    """The run ends here."""


@dataclasses.dataclass(frozen=True)
class Interruptible(session.Session):
    """A session that ends before it takes a step."""

    stop_before: int = 0

    def rehearse(self, args: argparse.Namespace, step: int, attempt: int) -> None:
        del args, attempt
        if step == self.stop_before:
            raise Interrupted


def nothing(_case: dict[str, Any]) -> AbstractContextManager[None]:
    return contextlib.nullcontext()


def main(
    kind: type[Interruptible] = Interruptible,
    around: Callable[[dict[str, Any]], AbstractContextManager[None]] = nothing,
) -> None:
    """`kind` takes further keys of a case; each case runs inside `around` it."""
    cases: list[dict[str, Any]] = json.loads(Path(sys.argv[1]).read_text())
    rank = session._start(Path(cases[0]["run_dir"]))
    for case in cases:
        with around(case):
            print(f"{case['run_dir']} ended with {run(case, rank, kind)}", flush=True)
        forget()
    session._leave(os.EX_OK, orderly=True)


def run(case: dict[str, Any], rank: session.Session, kind: type[Interruptible] = Interruptible) -> int | str:
    """The exit code of a case, or what stopped it."""
    run_dir = Path(case["run_dir"])
    module = importlib.import_module(f"workloads.{case['workload']}")
    config = run_dir / "deepspeed.json"
    words = [f"--deepspeed-config={config}", f"--run-dir={run_dir}", *case["words"]]
    faults = {field.name: case[field.name] for field in dataclasses.fields(kind) if field.name in case}
    this = kind(**{**vars(rank), **faults, "run_dir": run_dir})

    def write() -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        config.write_text(json.dumps(case["config"]))

    this.first(write)
    try:
        code: int = getattr(module, PROGRAMS[case["workload"]])(options.parse(module.parser(), words), this)
    except session.Stop as stop:
        return f"{stop.code}: {stop.message}"
    except Interrupted:
        return "an interruption"
    return code


def forget() -> None:
    """What accelerate and transformers keep of a run for the whole process."""
    from accelerate.state import AcceleratorState, GradientState
    from transformers.integrations import deepspeed

    AcceleratorState._reset_state()
    GradientState._reset_state()
    deepspeed.unset_hf_deepspeed_config()


if __name__ == "__main__":
    main()
