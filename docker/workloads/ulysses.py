"""Ulysses sequence parallelism: several ranks share each sample, every one with a part of its tokens.

Owns the groups of ranks and what each of them gets; attention, which needs all tokens, is DeepSpeed's: it gives every
rank all tokens of some heads and back (https://www.deepspeed.ai/tutorials/ulysses-alst-sequence-parallelism/). Weights,
gradients and optimizer are partitioned over all ranks as before.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workloads.session import Session, Stop

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from workloads.samples import Batch


@dataclass(frozen=True)
class Group:
    """The ranks that share a sample. `size` 1 is a rank alone, with the whole of it."""

    size: int
    rank: int  # in the group
    reader: Session  # the session as the data sees it: groups instead of ranks

    def part(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
        """This rank's tokens of a batch: inputs, the tokens that follow, and what else the model is given."""
        import torch

        inputs, labels, _ = batch
        if self.size == 1:
            return inputs, labels, {}
        length = inputs.shape[1] // self.size
        mine = slice(self.rank * length, (self.rank + 1) * length)
        positions = torch.arange(mine.start, mine.stop).repeat(len(inputs), 1)
        return inputs[:, mine], labels[:, mine], {"position_ids": positions}

    def scale(self, config: dict[str, Any]) -> int:
        """What a rank's loss, which is that of its tokens alone, is divided by so that gradients come out right.

        DeepSpeed 0.19.8 adds up the gradients of a group, except for ZeRO-3's reduce-scatter, which takes their mean
        (runtime/zero/stage3.py, __avg_scatter_grads).
        """
        zero = config.get("zero_optimization", {})
        means = zero.get("stage") == 3 and zero.get("reduce_scatter", True)
        return 1 if means else self.size

    def settings(self) -> dict[str, Any]:
        """What a DeepSpeed config needs, so that ZeRO-3 reckons with groups while it builds the model."""
        return {"sequence_parallel_size": self.size} if self.size > 1 else {}

    def attach(self, model: PreTrainedModel, micro: int, length: int) -> Any:
        """Have the model's attention exchange tokens for heads. Returns the groups as DeepSpeed's engine takes them.

        Raises Stop when the model's heads cannot be shared so, or its attention is of another kind.
        """
        if self.size == 1:
            return None
        from deepspeed.runtime.sequence_parallel.ulysses_sp import UlyssesSPAttentionHF

        if not hasattr(model.config, "num_key_value_heads"):
            raise Stop(
                f"--sequence-parallel: DeepSpeed's Ulysses knows no {model.config.model_type}; "
                "use a model of LLaMA's kind"
            )
        if (
            getattr(model.config, "head_dim", 0) is None
        ):  # Mixtral's; DeepSpeed 0.19.8 reckons it where it is missing
            model.config.head_dim = model.config.hidden_size // model.config.num_attention_heads
        try:
            return UlyssesSPAttentionHF.register_with_transformers(
                model_name_or_path=model,
                core_attn_implementation=model.config._attn_implementation,
                sequence_parallel_size=self.size,
                micro_batch_size=micro,
                seq_length=length,
                seq_length_is_variable=False,
            )
        except ValueError as error:
            raise Stop(f"--sequence-parallel {self.size}: {' '.join(str(error).split())}") from error


def group(size: int, length: int, session: Session) -> Group:
    """The group of this rank among groups of `size`. Raises Stop when ranks or tokens cannot be divided so."""
    if session.world_size % size:
        raise Stop(f"--sequence-parallel {size} does not divide the {session.world_size} ranks")
    if length % size:
        raise Stop(f"--sequence-parallel {size} does not divide --seq-length {length}")
    number, rank = divmod(session.rank, size)
    groups = session.world_size // size
    return Group(size, rank, dataclasses.replace(session, rank=number, world_size=groups))
