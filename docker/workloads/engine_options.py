"""The server's own options that a job gives by --engine-options, without dashes: their names, and what is refused.

named(["max-num-seqs=64", "enable_prefix_caching"]) -> {"max-num-seqs": "64", "enable-prefix-caching": ""}
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from workloads import options
from workloads.session import Stop

if TYPE_CHECKING:
    from collections.abc import Sequence

# The server's name for what an option of serve.py says, which the launcher counts and plans with.
OWNED = {
    "max-model-len": "max-length",
    "tensor-parallel-size": "tensor-parallel",
    "pipeline-parallel-size": "pipeline-parallel",
}
# https://docs.vllm.ai/en/latest/configuration/engine_args.html
LIMITS = {"gpu-memory-utilization": options.share, "max-num-seqs": options.positive}


def named(words: Sequence[str]) -> dict[str, str]:
    """Each option, spelled with dashes between its words alone, and its value; '' where none is joined to it."""
    parts = (str(word).partition("=") for word in words)
    return {name.lstrip("-").replace("_", "-"): value for name, _, value in parts}


def check(words: Sequence[str]) -> None:
    """Raise Stop for an option that serve.py has itself, and for a value that the server cannot have."""
    for name, value in named(words).items():
        if owner := OWNED.get(name):
            raise Stop(f"--engine-options {name}: use --{owner}, which the other options are made from")
        try:
            LIMITS.get(name, str)(value)
        except argparse.ArgumentTypeError as error:
            raise Stop(f"--engine-options {name}: {error}") from None
