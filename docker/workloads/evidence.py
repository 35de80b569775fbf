"""Digests of what a run computes, by which `launcher prove` compares it with another: samples, parameters, optimizer.

Owns what is hashed. A step's samples are one number whatever ranks and micro batches they were cut into: the sum of
their rows' digests. Parameters and optimizer states are hashed as each rank has them, so their digests are equal only
for the same number of ranks; between others their 2-norms are compared, which are of the whole.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import heartbeat

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import torch
    from deepspeed import DeepSpeedEngine

    from workloads import metrics
    from workloads.session import Session

MOMENTS = ("exp_avg", "exp_avg_sq")  # of Adam, by torch's names and DeepSpeed's


class Evidence:
    """Digests of one attempt; `copies`: how many ranks read each sample. All ranks have one and call it alike."""

    def __init__(self, session: Session, log: metrics.Log, copies: int = 1) -> None:
        self._session, self._log, self._copies = session, log, copies
        self._seen = 0

    def see(self, rows: Iterable[torch.Tensor]) -> None:
        """Count the samples of a micro batch in, each of which is a row of numbers."""
        import torch
        import xxhash

        for row in rows:
            self._seen += xxhash.xxh3_64_intdigest(row.cpu().to(torch.int64).contiguous().numpy().tobytes())

    def samples(self) -> str:
        """The digest of the samples since the last call, of all ranks."""
        import torch
        from torch import distributed

        halves = torch.tensor(
            [self._seen & 0xFFFFFFFF, self._seen >> 32 & 0xFFFFFFFF], device=self._session.device
        )
        distributed.all_reduce(halves)
        self._seen = 0
        low, high = (part // self._copies for part in halves.tolist())
        return f"{(low + (high << 32)) % 2**64:016x}"

    @heartbeat.told(heartbeat.CHECKPOINT)
    def state(self, engine: DeepSpeedEngine, step: int) -> None:
        """Log what the parameters and the optimizer's states are after `step`."""
        import xxhash
        from torch import distributed

        masters = [master for master, _ in _states(engine)]
        states = [tensor for _, state in _states(engine) for _, tensor in state]
        held = {"parameters": list(_parameters(engine)), "optimizer": [*masters, *states]}
        mine = {what: digest(tensors) for what, tensors in held.items()}
        norms = {"parameters_norm": _square(masters)}
        for name in MOMENTS:
            norms[f"{name}_norm"] = _square(
                [t for _, state in _states(engine) for key, t in state if key == name]
            )
        ranks: list[Any] = [None] * self._session.world_size
        distributed.all_gather_object(ranks, (mine, norms, sum(tensor.numel() for tensor in masters)))
        if not any(
            elements for *_, elements in ranks
        ):  # they are on NVMe, or of an optimizer of its own kind
            held.pop("optimizer")
        digests = {
            what: xxhash.xxh3_128_hexdigest("".join(mine[what] for mine, *_ in ranks).encode())
            for what in held
        }
        parted = len({mine["optimizer"] for mine, *_ in ranks}) > 1  # else each rank has all
        totals = {
            name: math.sqrt(sum(norms[name] for _, norms, _ in (ranks if parted else ranks[:1])))
            for name in norms
        }
        self._log.event("state", step, **digests, **(totals if "optimizer" in held else {}))


def _parameters(engine: DeepSpeedEngine) -> Iterator[torch.Tensor]:
    """What this rank has of the model's parameters: under ZeRO-3 its part of each."""
    for parameter in engine.module.parameters():
        yield getattr(parameter, "ds_tensor", parameter)


def _states(engine: DeepSpeedEngine) -> Iterator[tuple[torch.Tensor, list[tuple[str, torch.Tensor]]]]:
    """What the optimizer updates on this rank, each with its states by name."""
    import torch

    for master, state in engine.basic_optimizer.state.items():
        if isinstance(master, torch.Tensor) and isinstance(state, dict):
            yield master, sorted((str(k), v) for k, v in state.items() if isinstance(v, torch.Tensor))


def digest(tensors: list[torch.Tensor]) -> str:
    """The XXH3 of their bytes, one after the other."""
    import torch
    import xxhash

    whole = xxhash.xxh3_128()
    for tensor in tensors:
        whole.update(tensor.detach().reshape(-1).cpu().contiguous().view(torch.uint8).numpy())
    return str(whole.hexdigest())


def _square(tensors: list[torch.Tensor]) -> float:
    """The squared 2-norm of all together."""
    import torch

    return sum(
        float(torch.linalg.vector_norm(tensor.detach(), dtype=torch.float64)) ** 2 for tensor in tensors
    )
