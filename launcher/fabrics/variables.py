"""The names that NCCL, PyTorch and gloo read from the environment, and what is known of some.

Owns the reading of variables.json, which says where each list is from; `launcher.fabrics.lint` applies them.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from launcher.namedtuple import NamedTuple

# Variables of plugins, which are too many to list.
_PLUGINS = (
    "NCCL_FASTRAK_",
    "NCCL_GPUDIRECTTCPX_",
    "NCCL_SHIMNET_",
    "NCCL_SHARP_",
    "NCCL_IBEXT_",
    "NCCL_UCX_",
)


class Harm(NamedTuple):
    """The values (in capitals) that do harm in production, why, and who says so."""

    values: tuple[str, ...]
    why: str
    source: str


@functools.cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
    return table


@functools.cache
def known() -> dict[str, frozenset[str]]:
    """Prefix → every name with it, complete enough for a name outside them to be a mistake.

    libfabric's FI_* are too many and too open.
    """
    return {
        prefix: frozenset(prefix + word for words in lists.values() for word in words)
        for prefix, lists in _table()["names"].items()
    }


@functools.cache
def experiments() -> frozenset[str]:
    """The guide's section "Debugging": fine for experiments, but NCCL then no longer chooses by itself."""
    return frozenset(f"NCCL_{word}" for word in _table()["names"]["NCCL_"]["experiments"])


def instead_of(name: str) -> str:
    """What to use instead of a name that is read no longer, or only for old scripts; empty for any other."""
    return str(_table()["renamed"].get(name, ""))


def deprecated(name: str, value: str) -> str:
    """What to use instead of a variable, or a value of it, that NCCL's guide calls deprecated; empty for any other."""
    table = _table()["deprecated"]
    return str(table.get(name, table.get(f"{name}={value}", "")))


def harm(name: str) -> Harm | None:
    """The values of the variable that do harm, None where none is known to."""
    row = _table()["harmful"].get(name)
    return Harm(tuple(row["values"]), row["why"], row["source"]) if row else None


def is_known(name: str) -> bool:
    """Whether something reads `name`. True too for names of families that are not listed here."""
    if instead_of(name) or name.startswith(_PLUGINS):
        return True
    family = next((prefix for prefix in known() if name.startswith(prefix)), None)
    return family is None or name in known()[family]


_RANK = "the node entry gives each rank its own"
_HOST = "the scheduler numbers the hosts with it"
# No job can give these a value, and why. DeepSpeed's per-node launcher sets the first for each rank:
# https://github.com/deepspeedai/DeepSpeed/blob/v0.19.8/deepspeed/launcher/launch.py#L174-L215
RESERVED = {
    **dict.fromkeys(("RANK", "LOCAL_RANK", "CROSS_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"), _RANK),
    **dict.fromkeys(("LOCAL_SIZE", "CROSS_SIZE", "MASTER_ADDR", "MASTER_PORT"), _RANK),
    **dict.fromkeys(("SLURM_NODEID", "JOB_COMPLETION_INDEX", "LWS_WORKER_INDEX"), _HOST),
    **dict.fromkeys(("PET_NODE_RANK", "NODE_RANK"), _HOST),
    "CUDA_VISIBLE_DEVICES": "the scheduler chooses a host's GPUs",
    "RUN_DIR": "it is the run's folder",
    "DEEPSPEED_CONFIG": "it is the configuration that `deepspeed:` makes",
}
