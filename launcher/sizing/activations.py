"""What the backward pass needs of the forward pass: bytes of saved tensors, of the logits and of the loss.

Owns the accounting of transformers' own modelling code, run eagerly; leaves model states and buffers to memory.py.

    activations.per_layer(architecture, bytes) -> bytes that one layer saves for one token
    activations.moments(architecture, ...) -> Activations: what a whole micro batch holds, and when

Each term is a tensor that autograd saves; tests/launcher/sizing/test_activations.py counts the same tensors in a
real forward pass. Attention is fused (torch's scaled_dot_product_attention): it saves queries, keys,
values, its output and one float per head, not the scores. Korthikanti et al., arXiv 2205.05198, section 4, give the
model for a fused Megatron layer (34 x hidden, and 5 x heads x sequence for the scores).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.namedtuple import NamedTuple

if TYPE_CHECKING:
    from launcher.sizing.architecture import Architecture
    from launcher.sizing.setup import Setup

FLOAT = 4
# Of a loss in chunks: logits at once, and the tokens that a chunk has at least (docker/workloads/losses.py).
CHUNK, ROWS = 1 << 26, 1024
LAYER_NORM = ("gpt2", "gpt_neox")  # families whose norms subtract the mean; the others scale in fp32


class Activations(NamedTuple):
    """Bytes on one slot for one micro batch."""

    saved: int  # when the forward pass has ended
    loss: int  # logits and what the loss makes of them, on top of `saved`, at the start of the backward pass
    first: int  # in the backward pass of the last layer, the first to go
    last: int  # in that of the first layer, when all others are done


def per_layer(model: Architecture, width: int, attention: str = "sdpa", sequence: int = 0) -> int:
    """Bytes that one layer saves for one token; `width` is the bytes of one element (2 for bf16).

    `attention` is "sdpa" (fused) or "eager", which also saves the scores: then `sequence` is needed.
    """
    inner = model.heads * model.head_dim
    kv = model.kv_heads * model.head_dim
    core = 2 * width * (inner + kv) + FLOAT * model.heads  # q, output, k, v and one log-sum per head
    if attention == "eager":
        # softmax in fp32, its copy in the working type, and the dropped-out copy where there is dropout
        core += model.heads * sequence * (FLOAT + width) - FLOAT * model.heads
    if model.family == "gpt2":
        return core + _norm(model, width) * 2 + _mlp(model, width) + 2 * _mask(model)
    if model.family == "gpt_neox":
        # One input for both norms; queries and keys are new tensors after the rotation, values hold all of qkv;
        # the output is copied on the way to the projection.
        return core + 3 * width * model.hidden + 3 * width * model.hidden + 16 + _mlp(model, width)
    extra = _rms(inner, width, model.heads) + _rms(kv, width, model.kv_heads) if _normed(model) else 0
    # q_norm and k_norm write new tensors, which the rotation does not keep.
    extra -= width * (inner + kv) if _normed(model) else 0
    return core + 2 * _rms(model.hidden, width, 1) + _mlp(model, width) + extra


def _normed(model: Architecture) -> bool:
    return any(w.name.endswith("q_norm.weight") for w in model.layer)


def _norm(model: Architecture, width: int) -> int:
    return 2 * width * model.hidden + 2 * FLOAT  # input, output, mean and deviation


def _rms(size: int, width: int, rows: int) -> int:
    # The fp32 copy of the input, the inverse deviation, the normalized value, the output.
    return FLOAT * size + FLOAT * rows + 2 * width * size


def _mask(model: Architecture) -> int:
    return model.hidden if model.dropout else 0  # one byte an element


def _mlp(model: Architecture, width: int) -> int:
    if not model.experts:
        return model.mlp_tensors * width * model.ffn
    routed = model.active_experts
    router = FLOAT * model.experts + (5 * FLOAT + 8 + 24) * routed
    return routed * width * (model.mlp_tensors * model.ffn + 2 * model.hidden) + router


def tail(model: Architecture, width: int) -> int:
    """Bytes saved for one token outside the layers: token ids, the last norm, the head's input, the labels."""
    norm = _norm(model, width) if model.family in LAYER_NORM else _rms(model.hidden, width, 1)
    return norm + 16 + _mask(model)


def loss(model: Architecture, setup: Setup, width: int) -> int:
    """Bytes of a micro batch at the start of the backward pass, in fp32 whatever the precision.

    The log-softmax of the logits, and two gradients of the cross-entropy: of the log-softmax and of the logits.
    transformers' ForCausalLMLoss casts the logits to fp32 first, and lets go of the logits themselves before the
    backward pass. A loss in chunks has the logits of some tokens at a time, and keeps the gradients of the head's
    input and weight from the forward pass to the backward pass.
    """
    if not setup.chunked_loss:
        return setup.tokens * 3 * FLOAT * model.vocab
    rows = loss_rows(model, setup.tokens)
    several = rows < setup.tokens
    passing = rows * model.vocab * (FLOAT + (width if width < FLOAT else 0))
    weight = model.vocab * model.hidden * (FLOAT if several else width)  # chunks add up in fp32
    cast = model.vocab * model.hidden * width if several and width < FLOAT else 0
    return passing + setup.tokens * model.hidden * width + weight + cast


def loss_rows(model: Architecture, tokens: int) -> int:
    """How many tokens have their logits in memory at once, as docker/workloads/losses.py decides it."""
    return tokens if tokens <= model.hidden else min(tokens, max(ROWS, CHUNK // model.vocab))


def working(model: Architecture, width: int) -> int:
    """Bytes for one token that one layer's backward pass holds, besides what that layer saved.

    At its fullest, in the MLP: the gradients of the layer's output and of the MLP's wide tensors.
    """
    wide = 3 if model.gated else 2
    return width * (model.hidden + wide * max(model.active_experts, 1) * model.ffn)


def moments(model: Architecture, setup: Setup, width: int, mixed: bool = False) -> Activations:
    """The bytes of a micro batch.

    With checkpointing each layer keeps its input alone, and one layer at a time is computed again. `mixed` is
    torch's autocast: the stream between the layers and both norms of each stay in fp32.
    """
    tokens = setup.tokens
    layer = per_layer(model, width, setup.attention, setup.sequence)
    layer += 2 * FLOAT * model.hidden if mixed else 0
    stream = FLOAT if mixed else width
    kept = stream * model.hidden if setup.checkpointing else layer
    again = layer if setup.checkpointing else 0
    top = tail(model, width)
    # The last norm goes backward while its own tensors are still there; a root mean square norm does so in fp32.
    norm = top + (4 * FLOAT * model.hidden if model.family not in LAYER_NORM else width * model.hidden)
    first = max(again + working(model, width), norm)
    return Activations(
        saved=tokens * (model.layers * kept + top),
        loss=loss(model, setup, width),
        first=tokens * (model.layers * kept + first),
        last=tokens * (kept + again + working(model, width)),
    )
