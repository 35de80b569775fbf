"""What the backward pass of an encoder-decoder needs of its forward pass: bytes of saved tensors, logits and loss.

Owns the accounting of transformers' T5 and BART (5.24) and the families like them; their tensors are seq2seq.py's.

    halves.moments(architecture, setup, width) -> activations.Activations of a micro batch

A sample is taken to be `setup.sequence` tokens to read and as many to write: each is cut there. Where attention has a
bias that learns, or dropout, torch has no fused kernel of it on a CPU: queries, keys, values and scores are saved in
fp32. On CUDA the fused one takes them, and saves the bias of each layer. tests/launcher/sizing/test_seq2seq.py counts
what autograd saves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.namedtuple import NamedTuple
from launcher.sizing.activations import Activations

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.sizing.architecture import Architecture, Stack
    from launcher.sizing.seq2seq import Halves
    from launcher.sizing.setup import Setup

FLOAT, INDEX = 4, 8
# Layers that read one tensor, T5's and BART's, and its size.
_READ = (
    ("SelfAttention.q SelfAttention.k SelfAttention.v", "hidden"),
    ("self_attn.q_proj self_attn.k_proj self_attn.v_proj", "hidden"),
    ("EncDecAttention.q encoder_attn.q_proj", "hidden"),
    ("SelfAttention.o self_attn.out_proj", "inner"),
    ("EncDecAttention.o encoder_attn.out_proj", "inner"),
    ("DenseReluDense.wi DenseReluDense.wi_0 DenseReluDense.wi_1 fc1", "hidden"),
    ("DenseReluDense.wo fc2", "ffn"),
)


class Saved(NamedTuple):
    """Bytes of a micro batch after the forward pass."""

    encoder: int  # one layer's
    decoder: int
    ends: int  # all but the layers'


def moments(model: Architecture, setup: Setup, width: int) -> Activations:
    """The bytes of a micro batch. With checkpointing each layer keeps its input alone."""
    one, rows = saved(model, setup, width), setup.micro * setup.sequence
    encoder, decoder = model.stacks
    stream, busy = rows * width * model.hidden, rows * _working(model, setup, width)
    kept = Saved(stream, stream, one.ends + _given(model, setup, width)) if setup.checkpointing else one
    again = one if setup.checkpointing else Saved(0, 0, 0)
    layers = encoder.number * kept.encoder + decoder.number * kept.decoder + kept.ends
    return Activations(
        saved=layers,
        # the log-softmax and two gradients, in the type of the logits
        loss=3 * width * rows * model.vocab,
        # each layer of the decoder adds to the gradient of what the encoder made
        first=layers + again.decoder + busy + 2 * stream,
        last=kept.encoder + again.encoder + busy,
    )


def saved(model: Architecture, setup: Setup, width: int) -> Saved:
    """The bytes that one layer of each half saves, and what is saved outside them; `width` is that of an element."""
    half = _known(model)
    encoder, decoder = model.stacks
    rows = setup.micro * setup.sequence
    mask = width if setup.device == "cpu" else 1  # CUDA's is of booleans, a CPU's the factors themselves
    bias = model.heads if half.biased else 0
    padded = _attention(model, setup, width, in_parts=_learns(model), masks=bias or 1)
    causal = _attention(model, setup, width, in_parts=_learns(model), masks=bias)
    # the bias between the halves is of zeros
    across = _attention(model, setup, width, in_parts=half.attention_dropout, masks=bias or 1)
    read = padded + _around(model, encoder, width, mask, parts=2)
    written = causal + across + _around(model, decoder, width, mask, parts=3)
    read -= _unread(model, encoder, setup, width)
    written -= _unread(model, decoder, setup, width)
    ends = rows * _ends(model, width, mask) + (0 if model.adapters else _buckets(model, setup))
    return Saved(rows * read, rows * written, ends)


def _known(model: Architecture) -> Halves:
    assert model.halves is not None
    return model.halves


def _learns(model: Architecture) -> bool:
    """Whether attention within a half has dropout, or a bias with a gradient."""
    half = _known(model)
    return half.attention_dropout or (half.biased and not model.adapters)


def _fused(setup: Setup, in_parts: bool) -> bool:
    return setup.attention != "eager" and not (setup.device == "cpu" and in_parts)


def _attention(model: Architecture, setup: Setup, width: int, *, in_parts: bool, masks: int) -> int:
    """Bytes for one token: queries, keys, values, the output, and a log-sum of each head, or the scores.

    `in_parts`: no fused kernel of a CPU's computes it. `masks`: of what the fused one is given as numbers.
    """
    inner, keys = model.heads * model.head_dim, setup.sequence
    if _fused(setup, in_parts):
        return 4 * inner * width + FLOAT * model.heads + masks * keys * width
    kept = width if setup.attention == "eager" else FLOAT
    scores = 3 if _known(model).attention_dropout else 1  # the softmax, dropout's factors, their product
    return 3 * inner * kept + inner * width + model.heads * keys * scores * kept


def _around(model: Architecture, stack: Stack, width: int, mask: int, parts: int) -> int:
    """Bytes for one token beside attention: norms and masks of `parts` blocks, the MLP, and adapters."""
    half = _known(model)
    # an activation that saves its result, which dropout makes anew
    anew = width if model.mlp_tensors == 1 else 0
    mlp = stack.ffn * (model.mlp_tensors * width + (mask + anew if half.mlp_dropout else 0))
    first = [w for w in stack.weights if w.name.endswith(".lora_A")]
    dropped = width + mask if model.adapters and model.adapters.dropout else 0
    adapters = sum(w.shape[0] * width + w.shape[1] * dropped for w in first)
    return parts * (_norm(model, width) + (mask * model.hidden if half.dropout else 0)) + mlp + adapters


def _norm(model: Architecture, width: int) -> int:
    if model.layer_norm:  # input, output, mean and deviation
        return 2 * width * model.hidden + 2 * FLOAT
    # the input, its fp32 copy and the inverse deviation, the normalized value where the scale is trained, the output
    kept = (2 if model.adapters else 3) * width
    return model.hidden * (kept + (FLOAT if width < FLOAT else 0)) + FLOAT


def _unread(model: Architecture, stack: Stack, setup: Setup, width: int) -> int:
    """Bytes for one token of inputs that nobody saves: those of layers that stand still and have no adapter."""
    return width * sum(_inputs(model, stack, setup)) if model.adapters else 0


def _inputs(model: Architecture, stack: Stack, setup: Setup) -> Iterator[int]:
    half, adapters = _known(model), model.adapters
    assert adapters is not None
    names = [w.name for w in stack.weights]
    sizes = {"hidden": model.hidden, "inner": model.heads * model.head_dim, "ffn": stack.ffn}
    for layers, size in _READ:
        own = [n for n in names if n.removesuffix(".weight").endswith(tuple(layers.split()))]
        adapted = any(f"{name}.lora_A" in names for name in own) and not adapters.dropout
        across = "EncDec" in layers or "encoder_attn" in layers
        in_parts = half.attention_dropout if across else _learns(model)
        # what attention, or an activation, saves itself
        elsewhere = size == "inner" and _fused(setup, in_parts)
        elsewhere |= size == "ffn" and model.mlp_tensors == 1 and not half.mlp_dropout
        if own and not adapted and not elsewhere:
            yield sizes[size]


def _ends(model: Architecture, width: int, mask: int) -> int:
    """Bytes for a token read and one written: ids, embeddings, norms and masks outside the layers, and the label."""
    half, stream = _known(model), width * model.hidden
    if model.adapters:  # nothing before the first one, nor the head, is computed backwards
        return stream + INDEX + (2 * mask * model.hidden if half.biased and half.dropout else 0)
    # the first layer's input, where it is not the one of a norm of that layer's; what an embedding's norm reads
    each = INDEX + (_norm(model, width) if half.last_norm else stream)
    each += stream + 2 * FLOAT if half.embedding_norm else 0
    each += (1 + half.biased) * mask * model.hidden if half.dropout else 0
    return 2 * each + INDEX


def _buckets(model: Architecture, setup: Setup) -> int:
    """Bytes of the distances between tokens, by which biases are looked up: once a table, whatever the micro batch."""
    tables = sum(n for n, weights in model.repeated for w in weights if "relative_attention_bias" in w.name)
    return INDEX * tables * setup.sequence**2


def _given(model: Architecture, setup: Setup, width: int) -> int:
    """Bytes of what layers that are computed again are given beside their input: masks, and a bias of all samples."""
    masks = 2 * setup.micro * setup.sequence**2
    return masks + (width * model.heads * setup.sequence**2 if _known(model).biased else 0)


def _working(model: Architecture, setup: Setup, width: int) -> int:
    """Bytes that one layer's backward pass holds for one token, besides what that layer saved.

    In the MLP, its first part; or in attention computed in parts, when what the MLP saved is gone.
    """
    wide = max(stack.ffn for stack in model.stacks)
    mlp = width * (model.hidden + (3 if _known(model).gated else 2) * wide)
    if _fused(setup, _learns(model)):
        return mlp
    scores = 2 * FLOAT * model.heads * (setup.sequence + model.head_dim)
    return max(mlp, scores - wide * model.mlp_tensors * width - _norm(model, width))
