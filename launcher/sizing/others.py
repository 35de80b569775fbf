"""Models beside the one that learns: references, judges and critics of chat training, each a DeepSpeed engine.

Owns what they add to a rank and a host; leaves one engine's states to states.py and which models there are to planning.

    others.held(settings, setup) -> Held

A model that stands still is partitioned where the policy is, or offloaded, and else whole on every rank
(docker/workloads/judges.py, frozen; trl/models/utils.py, prepare_deepspeed).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.namedtuple import NamedTuple
from launcher.sizing import states

if TYPE_CHECKING:
    from launcher.sizing.setup import Other, Setup
    from launcher.sizing.zero import Zero


class Held(NamedTuple):
    """Bytes of all of them on one rank; `host` is what one rank has in host memory of their parameters."""

    parameters: int = 0
    gradients: int = 0
    optimizer: int = 0
    buffers: int = 0
    gathered: int = 0  # weights, while one of them computes
    host: int = 0
    host_optimizer: int = 0


def held(settings: Zero, setup: Setup) -> Held:
    """The bytes of all models beside the one that learns."""
    each = [_held(other, settings, setup) for other in setup.learning.others]
    sums = [sum(part) for part in zip(*each, strict=True)] or [0] * len(Held._fields)
    return Held(*sums)._replace(gathered=max((one.gathered for one in each), default=0))


def _held(other: Other, settings: Zero, setup: Setup) -> Held:
    own = settings if other.trained else _still(settings, other.offloaded)
    away = own.offload_param != "none"
    width, part = own.weight_bytes, states.shard(other.model.stored(own.weight_bytes), setup.world)
    parameters = states.parameters(other.model, own, setup)
    live = states.live(other.model, own, setup, states.ahead(own)) if own.stage == 3 else 0
    if not other.trained:
        return Held(parameters, gathered=width * live, host=width * part if away else 0)
    kept = states.optimizer(other.model, own, setup)
    return Held(
        parameters=parameters,
        gradients=states.waiting(other.model, own, setup),
        optimizer=kept,
        buffers=states.buckets(other.model, own, setup) if own.stage == 3 else 0,
        gathered=width * live,
        host=width * part if away else 0,
        host_optimizer=states.optimizer_shard(other.model, own, setup) - kept,
    )


def _still(settings: Zero, offloaded: bool) -> Zero:
    """The configuration of a model that stands still."""
    return settings._replace(
        stage=3 if settings.stage == 3 or offloaded else 0,
        offload_optimizer="none",
        offload_param="cpu" if offloaded else "none",
        hpz=1,
    )
