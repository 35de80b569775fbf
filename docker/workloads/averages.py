"""The moving average of a policy's weights while it learns, which often answers better than the last ones.

Owns each rank's share of it, in fp32: under ZeRO-3 of the partitions, else of the whole weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import distributed

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine


class MovingAverage:
    """average <- decay x average + (1 - decay) x weights, of the parameters that are trained."""

    def __init__(self, engine: DeepSpeedEngine, decay: float) -> None:
        self.decay = decay
        self.parameters = [p for p in engine.module.parameters() if p.requires_grad]
        self.shares = [_share(p).float().clone() for p in self.parameters]

    def update(self) -> None:
        """Take in the weights as they are now."""
        for average, parameter in zip(self.shares, self.parameters, strict=True):
            average.lerp_(_share(parameter).float(), 1 - self.decay)

    def state(self) -> list[torch.Tensor]:
        """What a checkpoint of this rank keeps."""
        return [share.cpu() for share in self.shares]

    def load(self, state: list[torch.Tensor]) -> None:
        """Continue from what a checkpoint kept."""
        for average, saved in zip(self.shares, state, strict=True):
            average.copy_(saved)

    def put(self) -> None:
        """Make it the weights. All ranks call it."""
        import deepspeed

        for average, parameter in zip(self.shares, self.parameters, strict=True):
            partitioned = hasattr(parameter, "ds_tensor")
            whole = _whole(average, parameter) if partitioned else average
            with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0, enabled=partitioned):
                parameter.data.copy_(whole)


def _share(parameter: Any) -> torch.Tensor:
    share: torch.Tensor = getattr(parameter, "ds_tensor", parameter.data)
    return share.detach()


def _whole(share: torch.Tensor, parameter: Any) -> torch.Tensor:
    parts = [torch.empty_like(share) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, share)
    return torch.cat([part.flatten() for part in parts])[: parameter.ds_numel].view(parameter.ds_shape)
