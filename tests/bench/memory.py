"""`python -m tests.bench.memory [FAMILY …]`: the peak of a training step, planned and measured, of every family.

Owns the cases: of each family whose activations are known, a small model by one CPU rank with DeepSpeed, in a stage, a
type and with or without activation checkpointing by turns; tests/docker/workloads/memory_rank.py trains them. Prints a
table and how far off the plan is, which templates/deepspeed/README.md tells. Sizes are in MB of a million bytes.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from launcher.reports import tables
from launcher.sizing import families, saved
from tests import model_families
from tests.docker.workloads import memory_cases
from tests.launcher.sizing import fitting

# Small models and many tokens, so that what layers save is most of it.
SIZES = {
    **{"hidden": 256, "layers": 4, "heads": 4, "kv": 2, "kvn": 2, "head": 64, "v": 64, "ffn": 704},
    **{"dense_ffn": 704, "experts": 4, "active": 2, "expert": 192, "shared": 1, "shared_ffn": 192},
    **{"q_rank": 96, "kv_rank": 64, "rope": 16, "nope": 48, "word": 128, "rotary": 32, "index_heads": 2},
    **{"index_head": 64, "linear_k_heads": 2, "linear_v_heads": 4, "linear_k": 32, "linear_v": 32},
    **{"linear_kernel": 4, "vocab": 512, "positions": 512, "window": 512},
}
GROUP = 6  # families that the same process trains one after the other


def cases(names: list[str]) -> list[dict[str, Any]]:
    """One case of each family."""
    return [
        memory_cases.case(
            name,
            fitting.configuration(name, SIZES),
            stage=1 + number % 3,
            micro=8,
            sequence=256,
            checkpointing=number % 4 == 0,
            low=number % 5 != 0,
            reduce_bucket_size=200_000,
        )
        for number, name in enumerate(names)
    ]


def known() -> list[str]:
    """Families whose activations are planned and whose classes transformers itself has."""
    return [f for f in families.known() if not saved.reason(f) and f not in model_families.HUBS_OWN]


def main() -> None:
    every = cases(known())
    chosen = [one for one in every if not sys.argv[1:] or one["name"] in sys.argv[1:]]
    rows, errors = [], {}
    for start in range(0, len(chosen), GROUP):
        group = chosen[start : start + GROUP]
        with tempfile.TemporaryDirectory() as folder:
            seen = memory_cases.run(Path(folder), group, ranks=1)
        for one in group:
            planned, measured = memory_cases.peak(one, ranks=1), max(seen[one["name"]]["peaks"].values())
            errors[one["name"]] = planned / measured - 1
            rows.append(
                (
                    one["name"],
                    described(one),
                    f"{planned / 1e6:.1f}",
                    f"{measured / 1e6:.1f}",
                    f"{errors[one['name']]:+.1%}",
                )
            )
            print(*rows[-1], file=sys.stderr, flush=True)
    print(tables.table(rows, ("FAMILY", "CASE", "PLANNED", "MEASURED", "ERROR")))
    over, under = max(errors, key=errors.__getitem__), min(errors, key=errors.__getitem__)
    within = sum(-0.02 <= error <= 0.05 for error in errors.values())
    print(f"{len(errors)} cases, {within} between 2% below and 5% above;", end=" ")
    print(f"worst {errors[over]:+.1%} ({over}) and {errors[under]:+.1%} ({under})")


def described(one: dict[str, Any]) -> str:
    """The case in words."""
    config = one["deepspeed"]
    words = [f"ZeRO-{config['zero_optimization']['stage']}", "bf16" if config["bf16"]["enabled"] else "fp32"]
    return ", ".join([*words, *(["checkpointing"] if one["checkpointing"] else [])])


if __name__ == "__main__":
    main()
