"""The loss of a causal model that a Trainer calls with labels, without the logits of all tokens in memory.

Owns the model's interface to Trainers; the last layer and the cross-entropy are computed together by losses.py. Only
hidden states that have a label pass through the last layer: not those of prompts and padding. TRL's trainers have a
loss of this kind of their own (trl.trainer.utils.add_fused_lm_head).
"""

from __future__ import annotations

import functools
import types
from typing import TYPE_CHECKING, Any, NamedTuple

from transformers.modeling_outputs import CausalLMOutput

from workloads import losses
from workloads.samples import IGNORED

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class Judged(NamedTuple):
    """Sums over the tokens that have a label."""

    nats: torch.Tensor
    right: torch.Tensor  # how many labels were held likeliest
    tokens: torch.Tensor


def attach(model: PreTrainedModel) -> None:
    """Have the model's forward, where it is given labels, return its loss alone; without labels it is as before.

    `labels` are those of input_ids, as transformers has them, or `shift_labels` those of the tokens that follow. The
    loss is a mean over labels, or their sum divided by `num_items_in_batch`. With `judged` it returns a Judged.
    """
    plain, chunked = model.forward, losses.chunked(model)
    if chunked:
        losses.attach_last(model.get_output_embeddings())

    @functools.wraps(type(model).forward)  # Trainers and `generate` look at its signature
    def forward(
        self: PreTrainedModel,
        *args: Any,
        labels: torch.Tensor | None = None,
        shift_labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        judged: bool = False,
        **inputs: Any,
    ) -> Any:
        if labels is None and shift_labels is None:
            return plain(*args, **inputs)
        last = self.get_output_embeddings() if chunked else _of_logits
        states = self.base_model(*args, **inputs)[0] if chunked else plain(*args, **inputs).logits
        if shift_labels is None:
            states, shift_labels = states[:, :-1], labels[:, 1:]  # type: ignore[index]
        learned = shift_labels != IGNORED
        sums = last(states[learned], shift_labels[learned], judged=judged)
        if judged:
            return tuple(Judged(sums[0], sums[1], learned.sum()))
        count = learned.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
        return CausalLMOutput(loss=sums[0] / count)

    model.forward = types.MethodType(forward, model)


def _of_logits(logits: torch.Tensor, labels: torch.Tensor, *, judged: bool) -> tuple[torch.Tensor, ...]:
    return losses.judge(logits, labels) if judged else tuple(losses.of_logits(logits, labels))
