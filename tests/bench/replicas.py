"""What it costs a rank to compare itself with the others (--verify-every), and to digest what it has (--digests).

PYTHONPATH=docker python -m tests.bench.replicas [--json] [--millions 40]
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from typing import TYPE_CHECKING

import torch
from workloads import evidence, replicas

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 5
SIZE = 1 << 20  # elements of one parameter


def main() -> None:
    parser = argparse.ArgumentParser(description="Milliseconds on one thread for so many million parameters.")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--millions", type=int, default=40)
    args = parser.parse_args()
    torch.set_num_threads(1)
    figures = {}
    for name in ("float32", "bfloat16"):
        held = [torch.randn(SIZE).to(getattr(torch, name)) for _ in range(round(args.millions * 1e6 / SIZE))]
        figures[f"bits_{name}_ms"] = fastest(functools.partial(_bits, held))
        figures[f"digest_{name}_ms"] = fastest(functools.partial(evidence.digest, held))
    if args.json:
        print(json.dumps(figures))
        return
    for name, milliseconds in figures.items():
        print(f"{name:24} {milliseconds:8.1f}")


def _bits(held: list[torch.Tensor]) -> list[torch.Tensor]:
    return [replicas.bits(one) for one in held]


def fastest(work: Callable[[], object]) -> float:
    """Milliseconds."""
    took = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        work()
        took.append(time.perf_counter() - began)
    return 1000 * min(took)


if __name__ == "__main__":
    main()
