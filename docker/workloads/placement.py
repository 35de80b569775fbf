"""How vLLM's parallel sizes follow from the ranks, and what a model allows. Torch is never imported here."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workloads.session import Stop

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True)
class Place:
    """This rank among the ranks, as the node entry tells it."""

    rank: int
    host: int
    hosts: int
    slots: int  # ranks of a host
    master: str
    port: int  # of the master

    @property
    def first(self) -> bool:
        """Whether this is its host's first rank, the one that runs a server."""
        return self.rank == self.host * self.slots


@dataclass(frozen=True)
class Layout:
    """How the ranks share a model: ranks a layer, groups of layers, copies. Their product is the world size."""

    tensor: int
    pipeline: int
    replicas: int


def here(env: Mapping[str, str]) -> Place:
    """This rank's Place; alone where nothing tells."""
    slots = int(env.get("LOCAL_SIZE", "1"))
    rank = int(env.get("RANK", "0"))
    hosts = int(env.get("WORLD_SIZE", "1")) // slots
    return Place(
        rank=rank,
        host=rank // slots,
        hosts=hosts,
        slots=slots,
        master=env.get("MASTER_ADDR", "127.0.0.1"),
        port=int(env.get("MASTER_PORT", "0")),
    )


def layout(args: argparse.Namespace, place: Place) -> Layout:
    """How the options divide the ranks. Raises Stop when they cannot."""
    world = place.hosts * place.slots
    tensor = args.tensor_parallel or place.slots
    pipeline = args.pipeline_parallel or (1 if args.tensor_parallel else place.hosts)
    size = tensor * pipeline
    sizes = f"--tensor-parallel {tensor} x --pipeline-parallel {pipeline}"
    if world % size:
        raise Stop(f"{sizes} does not divide the {world} ranks")
    if size < world and place.slots % size:
        raise Stop(
            f"{sizes} leaves ranks for {world // size} replicas, which do not fit on hosts of {place.slots} ranks: "
            "let their product divide the ranks of a host, or be that of all ranks"
        )
    return Layout(tensor, pipeline, world // size)


def check_model(config: Path, shares: Layout) -> None:
    """Raise Stop when the model of a config.json cannot be shared so; one elsewhere, or none, is vLLM's to judge."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        keys = json.loads(config.read_text(encoding="utf-8"))
        heads, layers = (
            _number(keys, name) for name in ("num_attention_heads n_head", "num_hidden_layers n_layer")
        )
        if heads and heads % shares.tensor:
            raise Stop(f"{heads} attention heads cannot be split over --tensor-parallel {shares.tensor}")
        if layers and layers < shares.pipeline:
            raise Stop(f"{layers} layers cannot be cut into --pipeline-parallel {shares.pipeline} groups")


def _number(config: object, names: str) -> int:
    """The whole number above 0 that the text's model has by the first of `names` that is there, else 0."""
    keys = config.get("text_config", config) if isinstance(config, dict) else None
    found = next((keys[name] for name in names.split() if name in keys), 0) if isinstance(keys, dict) else 0
    return found if isinstance(found, int) and not isinstance(found, bool) and found > 0 else 0


def meeting_options(shares: Layout, place: Place) -> list[str]:
    """How the servers of several hosts are one; which part is a host's follows from its number."""
    words = [f"--data-parallel-size={shares.replicas}"] if shares.replicas > 1 else []
    if place.hosts > 1:
        port = "data-parallel-rpc-port" if shares.replicas > 1 else "master-port"
        words += [f"--nnodes={place.hosts}", f"--node-rank={place.host}", f"--master-addr={place.master}"]
        words += [f"--{port}={place.port}"]
    return words
