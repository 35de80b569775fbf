"""What runs where: the figures of a job that memory and traffic follow from."""

from __future__ import annotations

from launcher.namedtuple import NamedTuple


class Setup(NamedTuple):
    """What runs where. `world` ranks, `slots` of them on each host; one micro batch of `micro` sequences."""

    world: int
    slots: int
    micro: int
    sequence: int
    checkpointing: bool = False  # activation checkpointing of every layer
    attention: str = "sdpa"  # or "eager"
    chunked_loss: bool = False  # the logits of some tokens at a time (docker/workloads/losses.py)
    workers: int = 2  # data loader processes of each rank
    device: str = "cuda"  # or "cpu": ranks without a GPU
    pinned_round: int | None = (
        None  # bytes above which torch does not round pinned memory up; None: it always does
    )

    @property
    def tokens(self) -> int:
        """Tokens of one micro batch."""
        return self.micro * self.sequence
