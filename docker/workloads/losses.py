"""The loss of the next token, without the logits of all tokens in memory at once.

Owns how a causal model's last layer and cross-entropy are computed together; which tokens a rank has is said by
samples.py and ulysses.py.

`attach` gives a transformers model a `forward` that takes labels and returns a Loss. Hidden states [tokens, hidden]
pass through the last layer and the cross-entropy in chunks of rows. Of each chunk the logits [rows, vocabulary] are
turned into their own gradient, that into the gradients of hidden states and weight, and given up: nothing of the size
tokens x vocabulary is kept for the backward pass (the idea of Liger's fused linear cross-entropy, arXiv 2410.10989).
"""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn.functional import cross_entropy, linear

from workloads.samples import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CHUNK = 1 << 26  # logits at once: 256 MiB in fp32
ROWS = 1024  # of a chunk at least, so that its products keep a GPU busy
# keys of families that change the logits after the last layer: Gemma, xLSTM; Cohere, Granite, Falcon-H1, Muse Glimmer
CAPPED = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
RESCALED = (*CAPPED, "logit_scale", "logits_scaling", "lm_head_multiplier", "output_multiplier")


class Loss(NamedTuple):
    """Sums over the tokens that have a label."""

    total: torch.Tensor  # what is minimized: nats, with z-loss
    nats: torch.Tensor  # the cross-entropy alone, without gradient


def attach(model: PreTrainedModel, z_loss: float = 0.0, liger: bool = False) -> bool:
    """Have the model's forward take labels [samples, length] and return a Loss; returns whether it is chunked.

    `z_loss` is the weight of the squared log-sum of the logits (PaLM, arXiv 2204.02311, section 5). Families that
    change the logits after the last layer have them whole.
    """
    plain = type(model).forward
    head = model.get_output_embeddings()
    in_chunks = chunked(model)

    def forward(
        self: PreTrainedModel, input_ids: torch.Tensor, labels: torch.Tensor, **inputs: Any
    ) -> tuple[torch.Tensor, ...]:
        if not in_chunks:
            logits = plain(self, input_ids=input_ids, **inputs).logits
            return tuple(of_logits(logits.flatten(0, 1), labels.flatten(), z_loss))
        hidden = self.base_model(input_ids=input_ids, **inputs).last_hidden_state
        sums: tuple[torch.Tensor, ...] = head(hidden.flatten(0, 1), labels.flatten())
        return sums

    model.forward = types.MethodType(forward, model)
    if in_chunks:
        attach_last(head, z_loss, liger)
    return in_chunks


def chunked(model: PreTrainedModel) -> bool:
    """Whether the loss of this model can be computed from hidden states in chunks: the last layer gives its logits.

    Others, such as BERT's, have more layers between the two.
    """
    settings, head = model.config.get_text_config(), model.get_output_embeddings()
    rescaled = any(getattr(settings, key, None) for key in RESCALED)
    between = [one for one in model.children() if one not in (model.base_model, head)]
    return not rescaled and type(head) is torch.nn.Linear and head in model.children() and not between


def attach_last(head: torch.nn.Linear, z_loss: float = 0.0, liger: bool = False) -> None:
    """Have a model's last layer, where it is given labels, return a Loss, as a tuple.

    With `judged` it returns the cross-entropy, in nats, and how many labels are the likeliest: sums without gradient.
    """

    def last(
        self: torch.nn.Linear, hidden: torch.Tensor, labels: torch.Tensor | None = None, judged: bool = False
    ) -> Any:
        # the module's own forward, so that ZeRO-3 gathers its weight for it; a plain tuple, which its hooks can read
        if labels is None:
            return linear(hidden, self.weight, self.bias)
        if judged:
            return _judged(self, hidden, labels)
        function = _liger if liger else linear_cross_entropy
        return tuple(function(hidden, self.weight, self.bias, labels, z_loss=z_loss))

    head.forward = types.MethodType(last, head)


@torch.compiler.disable  # type: ignore[untyped-decorator]  # its loop and its in-place steps are what saves memory
def linear_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    labels: torch.Tensor,
    *,
    z_loss: float = 0.0,
    rows: int | None = None,
) -> Loss:
    """The Loss of hidden states [tokens, hidden] for weight [vocabulary, hidden] and labels [tokens].

    `rows` tokens at a time; by default `chunk_rows`.
    """
    rows = rows or chunk_rows(len(hidden), hidden.shape[1], len(weight))
    return Loss(*_Chunked.apply(hidden, weight, bias, _Aim(labels, z_loss, rows)))


def chunk_rows(tokens: int, hidden: int, vocabulary: int) -> int:
    """How many tokens have their logits in memory at once.

    All of them where that takes less than the fp32 gradient of the weight in which several chunks add up.
    """
    return max(1, tokens) if tokens <= hidden else min(tokens, max(ROWS, CHUNK // vocabulary))


def of_logits(logits: torch.Tensor, labels: torch.Tensor, z_loss: float = 0.0) -> Loss:
    """The Loss of whole logits [tokens, vocabulary]."""
    logits = logits.float()
    nats = cross_entropy(logits, labels, reduction="sum", ignore_index=IGNORED)
    squares = logits.logsumexp(-1).square()[labels != IGNORED].sum() if z_loss else 0.0
    return Loss(nats + z_loss * squares, nats.detach())


class _Aim(NamedTuple):
    """What the loss of hidden states is taken against, and how."""

    labels: torch.Tensor  # [tokens]
    z_loss: float
    rows: int  # of a chunk


class _Chunked(torch.autograd.Function):  # type: ignore[misc]
    """Computes the gradients in the forward pass, of the sum over tokens; the backward pass scales them.

    They are of the sum and not the mean so that fp16 holds them without the loss scale, which is not known yet.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        aim: _Aim,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        labels, z_loss, rows = aim
        summed = torch.float32 if rows < len(hidden) else weight.dtype
        gradients = (
            torch.empty_like(hidden) if ctx.needs_input_grad[0] else None,
            torch.zeros_like(weight, dtype=summed) if ctx.needs_input_grad[1] else None,
            torch.zeros_like(bias, dtype=torch.float32)
            if bias is not None and ctx.needs_input_grad[2]
            else None,
        )
        total, nats = torch.zeros(2, dtype=torch.float32, device=hidden.device)
        for first in range(0, len(hidden), rows):
            part = slice(first, first + rows)
            logits = linear(hidden[part], weight, bias).float()
            more, of_these = _turn_into_slope(logits, labels[part], z_loss)
            total, nats = total + more, nats + of_these
            _accumulate(gradients, slope=logits, hidden=hidden[part], weight=weight, part=part)
        ctx.save_for_backward(*gradients)
        ctx.weight_type = weight.dtype
        ctx.mark_non_differentiable(nats)
        return total, nats

    @staticmethod
    def backward(ctx: Any, slope: torch.Tensor, _nats: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        of_hidden, *others = (None if one is None else one.mul_(slope) for one in ctx.saved_tensors)
        return (
            of_hidden,
            *(None if one is None else one.to(ctx.weight_type) for one in others),
            None,
        )


def _turn_into_slope(
    logits: torch.Tensor, labels: torch.Tensor, z_loss: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Overwrite fp32 logits [rows, vocabulary] by the gradient of their Loss, which is returned."""
    counted = (labels != IGNORED)[:, None]
    places = labels[:, None].masked_fill(~counted, 0)
    highest = logits.amax(-1, keepdim=True)
    aim = logits.sub_(highest).gather(1, places)
    shares = logits.exp_()
    below = shares.sum(-1, keepdim=True)
    logsum = highest + below.log()
    nats = (below.log() - aim)[counted].sum()
    squares = logsum[counted].square().sum()
    shares.mul_(((1 + 2 * z_loss * logsum) / below).masked_fill(~counted, 0.0))
    shares.scatter_add_(1, places, -counted.float())
    return nats + z_loss * squares, nats


def _accumulate(
    gradients: tuple[torch.Tensor | None, ...],
    *,
    slope: torch.Tensor,
    hidden: torch.Tensor,
    weight: torch.Tensor,
    part: slice,
) -> None:
    """Add a chunk's share to the gradients of hidden states, weight and bias; `slope` is that of its logits."""
    of_hidden, of_weight, of_bias = gradients
    if of_bias is not None:
        of_bias += slope.sum(0)
    slope = slope.to(weight.dtype)
    if of_hidden is not None:
        of_hidden[part] = slope @ weight
    if of_weight is not None and of_weight.dtype == weight.dtype:
        of_weight.addmm_(slope.T, hidden.to(weight.dtype))
    elif of_weight is not None:
        of_weight += slope.T @ hidden


def judge(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The cross-entropy of logits [tokens, vocabulary], nats, and how many labels are the likeliest: sums."""
    nats = cross_entropy(logits.float(), labels, reduction="sum", ignore_index=IGNORED)
    return nats, (logits.argmax(-1) == labels).sum()


def _judged(head: torch.nn.Linear, hidden: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, ...]:
    rows = chunk_rows(len(hidden), hidden.shape[1], len(head.weight))
    with torch.no_grad():
        parts = [
            torch.stack([sums.double() for sums in judge(linear(states, head.weight, head.bias), aims)])
            for states, aims in zip(hidden.split(rows), labels.split(rows), strict=True)
        ]
    return tuple(torch.stack(parts).sum(0))


def _liger(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    labels: torch.Tensor,
    *,
    z_loss: float = 0.0,
) -> Loss:
    """The Loss by Liger's kernels, whose own sum includes z-loss."""
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    sums = liger_fused_linear_cross_entropy(
        hidden,
        weight,
        labels,
        bias,
        ignore_index=IGNORED,
        lse_square_scale=z_loss,
        reduction="sum",
        return_z_loss=True,
        accum_dtype=torch.float32,
    )
    return Loss(sums.loss, sums.loss.detach() - sums.z_loss.detach())
