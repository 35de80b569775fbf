"""What the backward pass needs of the forward pass: bytes of saved tensors, of the logits and of the loss.

Owns the accounting of transformers' own modelling code, run eagerly; leaves model states and buffers to memory.py.

    activations.per_layer(architecture, width) -> bytes that one layer saves for one token
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
    from launcher.sizing.architecture import Adapters, Architecture, Stack
    from launcher.sizing.setup import Setup

FLOAT = 4
# Of a loss in chunks: logits at once, and the tokens that a chunk has at least (docker/workloads/losses.py).
CHUNK, ROWS = 1 << 26, 1024
TILE = 4096, 32768  # tokens and columns of logits that TRL has at once
TILE_ON_CPU = 29  # bytes more of each of their elements, measured


class Activations(NamedTuple):
    """Bytes on one slot for one micro batch."""

    saved: int  # when the forward pass has ended
    loss: int  # logits and what the loss makes of them, on top of `saved`, at the start of the backward pass
    first: int  # in the backward pass of the last layer, the first to go
    last: int  # in that of the first layer, when all others are done
    norm: int = 0  # in that of the last norm, before all layers


class Attention(NamedTuple):
    """How a layer looks at the positions of its sequence."""

    positions: int = 0
    fused: bool = True  # by torch's scaled_dot_product_attention or a flash kernel, without scores
    masked: int = 0  # positions that the mask of a token has, where there is one
    dropped: int = 1  # bytes of an element of what dropout saves


def attention(model: Architecture, setup: Setup) -> Attention:
    """How the layers of a model attend in a job; on its own transformers takes what is fused where a family has it."""
    kind = setup.attention
    fused = model.fused if kind in ("auto", "sdpa") else kind != "eager"
    if setup.device == "cpu" and model.head_dim != model.value_dim:
        fused = False  # only GPUs have a kernel for values that are narrower than keys
    return Attention(setup.sequence, fused, setup.masked)


FUSED = Attention()


def per_layer(model: Architecture, width: int, seen: Attention = FUSED) -> int:
    """Bytes that one layer saves for one token, the largest kind of layer; `width` is the bytes of one element."""
    return max(of_stack(model, stack, width, seen) for stack in model.stacks)


def of_stack(model: Architecture, stack: Stack, width: int, seen: Attention) -> int:
    """The same of a layer of one kind."""
    if stack.window and seen.positions >= stack.window and not seen.masked:
        seen = seen._replace(masked=seen.positions)
    counted = seen.positions if model.fused or not seen.fused else 0
    return (
        (_attention(model, stack, width, seen) if stack.attends else 0)
        + _norms(model, stack, width)
        + _mlp(model, stack, width)
        + 2 * seen.dropped * _mask(model)
        + stack.more.of(width, counted)
        + (_adapters(model.adapters, stack, width, seen.dropped) if model.adapters else 0)
    )


def _adapters(adapters: Adapters, stack: Stack, width: int, mask: int) -> int:
    """What the adapters save, but for their inputs, less what only weights that are trained need.

    An adapter's first matrix saves its input and the second its own; dropout before it makes an input of its own, and a
    mask. A layer without an adapter saves no input.
    """
    first = [w for w in stack.weights if w.name.endswith(".lora_A")]
    inner = sum(w.shape[0] * width for w in first)
    dropped = sum(w.shape[1] * (width + mask) for w in first) if adapters.dropout else 0
    return inner + dropped


def merged(stack: Stack) -> int:
    """Elements of a layer's experts with their adapters added, which are made anew in each forward pass and saved."""
    names = {w.name.removesuffix(".lora_A") for w in stack.weights if w.name.endswith(".lora_A")}
    return sum(w.size for w in stack.weights if len(w.shape) == 3 and w.name in names)


def _reads(model: Architecture, stack: Stack, layers: frozenset[str]) -> bool:
    """Whether one of these layers saves its input: of weights that stand still, whether it has an adapter.

    Dropout before an adapter gives it an input of its own. Of a family that has none of these layers nothing is known,
    so the input counts.
    """
    if not model.adapters:
        return True
    if model.adapters.dropout and not model.adapters.targets:
        return False
    names = {_own_name(w.name) for w in stack.weights} & layers
    adapted = {_own_name(w.name.removesuffix(".lora_A")) for w in stack.weights if w.name.endswith(".lora_A")}
    return not names or (bool(names & adapted) and not model.adapters.dropout)


def _own_name(name: str) -> str:
    return name.removesuffix(".weight").rpartition(".")[2]


# Layers that read the same tensor: the norm's before attention and before the MLP, and the MLP's wide one.
_BEFORE_ATTENTION = frozenset(["q_proj", "k_proj", "v_proj", "qkv_proj", "c_attn"])
_BEFORE_MLP = frozenset(["gate_proj", "up_proj", "gate_up_proj", "c_fc", "fc1"])
_AFTER_MLP = frozenset(["down_proj", "fc2", "mlp.c_proj"])
# Norms with which a layer ends: the first to go in its backward pass, when all that it saved is there.
_AT_THE_END = ("post_feedforward_layernorm.weight", "post_mlp_layernorm.weight", "post_norm2.weight")
# Norms of latents, which are not the stream's though they may be as wide.
_OF_LATENTS = ("q_a_layernorm.weight", "kv_a_layernorm.weight")


def _attention(model: Architecture, stack: Stack, width: int, seen: Attention) -> int:
    """Queries, keys, values, the output, one log-sum per head or the scores, and the norms of queries and keys."""
    inner, kv = model.heads * model.head_dim, model.kv_heads * model.head_dim
    # Else a copy of keys and values for each head is made (transformers/integrations/sdpa_attention.py).
    shared = seen.fused and not seen.masked and model.head_dim == model.value_dim <= 256
    copied = model.kv_heads if shared else model.heads
    row = model.heads * (model.head_dim + model.value_dim) + copied * (model.head_dim + model.value_dim)
    core = width * row + _scores(model, width, seen)
    if model.family == "gpt_neox":
        # Queries and keys are new tensors after the rotation, values hold all of qkv; the output is copied on the way
        # to the projection.
        return core + 3 * width * model.hidden
    names = {weight.name: weight.size for weight in stack.weights}
    normed = names.get("self_attn.q_norm.weight")
    if normed is None:
        return core
    rows = (model.heads, model.kv_heads) if normed == model.head_dim else (1, 1)
    # q_norm and k_norm write new tensors, which the rotation does not keep.
    return core + _rms(model, inner, width, rows[0]) + _rms(model, kv, width, rows[1]) - width * (inner + kv)


def _scores(model: Architecture, width: int, seen: Attention) -> int:
    if seen.fused:
        return FLOAT * model.heads + width * seen.masked  # torch makes numbers of a mask in each layer
    # softmax in fp32, its copy in the working type, and where there is dropout its mask and what that makes
    dropped = seen.dropped + width if model.attention_dropout else 0
    return model.heads * seen.positions * (FLOAT + (width if width < FLOAT else 0) + dropped)


def _norms(model: Architecture, stack: Stack, width: int) -> int:
    """The norms of the stream between the layers, with their outputs."""
    names = [
        w.name
        for w in stack.weights
        if w.shape == (model.hidden,) and w.name.endswith(".weight") and not w.name.endswith(_OF_LATENTS)
    ]
    if model.family == "gpt_neox":  # one input for both
        return 3 * width * model.hidden + 16
    one = _norm(model, width) if model.layer_norm else _rms(model, model.hidden, width, 1)
    unread = sum(not _reads(model, stack, ends) for ends in (_BEFORE_ATTENTION, _BEFORE_MLP))
    return len(names) * one - unread * width * model.hidden


def _norm(model: Architecture, width: int) -> int:
    return 2 * width * model.hidden + 2 * FLOAT  # input, output, mean and deviation


def _rms(model: Architecture, size: int, width: int, rows: int) -> int:
    # The fp32 copy of the input, the inverse deviation, the normalized value where the scale is trained, the output.
    return FLOAT * size + FLOAT * rows + (1 if model.adapters else 2) * width * size


def _mask(model: Architecture) -> int:
    return model.hidden if model.dropout else 0


def _mlp(model: Architecture, stack: Stack, width: int) -> int:
    if not stack.experts:
        return (model.mlp_tensors - (not _reads(model, stack, _AFTER_MLP))) * width * stack.ffn
    routed = stack.passed
    router = FLOAT * stack.experts + (5 * FLOAT + 8 + 24) * routed
    always = model.mlp_tensors * width * stack.shared
    wide = model.mlp_tensors - (not _reads(model, stack, _AFTER_MLP))
    stream = 1 + _reads(model, stack, _BEFORE_MLP)
    return routed * width * (wide * stack.ffn + stream * model.hidden) + router + always


def tail(model: Architecture, width: int, seen: Attention) -> int:
    """Bytes saved for one token outside the layers: token ids, the last norm, the head's input, the labels."""
    norm = _norm(model, width) if model.layer_norm else _rms(model, model.hidden, width, 1)
    rest = 16 + seen.dropped * _mask(model) - (width * model.hidden if model.adapters else 0)
    return norm + rest + model.more.of(width, seen.positions)


def loss(model: Architecture, setup: Setup, width: int) -> int:
    """Bytes of a micro batch at the start of the backward pass, in fp32 whatever the precision.

    The log-softmax of the logits, and two gradients of the cross-entropy: of the log-softmax and of the logits.
    transformers' ForCausalLMLoss casts the logits to fp32 first, and lets go of the logits themselves before the
    backward pass. A loss in chunks has the logits of some tokens at a time, and keeps the gradients of the head's
    input and weight from the forward pass to the backward pass.
    """
    kind = setup.learning.loss
    if kind == "whole":
        return setup.tokens * 3 * FLOAT * model.vocab
    if kind == "score":
        return setup.tokens * FLOAT
    if kind == "tiles":
        return _tiles(model, setup, width)
    rows = loss_rows(model, setup.tokens)
    several = rows < setup.tokens
    passing = rows * model.vocab * (FLOAT + (width if width < FLOAT else 0))
    weight = _learned(model) * (FLOAT if several else width)  # chunks add up in fp32
    cast = _learned(model) * width if several and width < FLOAT else 0
    return passing + setup.tokens * model.hidden * width + weight + cast + product(model, setup, width)


def product(model: Architecture, setup: Setup, width: int) -> int:
    """Bytes in which a processor without instructions for 16 bits makes the gradient of the head's weight (oneDNN)."""
    alone = setup.device == "cpu" and width < FLOAT and setup.learning.loss == "chunks"
    return FLOAT * _learned(model) if alone else 0


def _learned(model: Architecture) -> int:
    """Elements of the head's weight that have a gradient: below adapters it stands still."""
    return 0 if model.adapters else model.vocab * model.hidden


def _tiles(model: Architecture, setup: Setup, width: int) -> int:
    """Bytes of TRL's fused head in the backward pass (trl/kernels/chunked_logprob.py, 1.16).

    A tile of logits at a time, the gradients of the head's input and of its weight in fp32, and both cast.
    """
    cpu = setup.device == "cpu"  # torch's operations instead of Triton's kernel, which works in place
    tile = min(setup.tokens, TILE[0]) * (min(model.vocab, TILE[1]) if cpu else TILE[1])
    gradients = setup.tokens * model.hidden + _learned(model)
    return tile * (width + (TILE_ON_CPU if cpu else 0)) + gradients * (
        FLOAT + (width if width < FLOAT else 0)
    )


def loss_rows(model: Architecture, tokens: int) -> int:
    """How many tokens have their logits in memory at once, as docker/workloads/losses.py decides it."""
    return tokens if tokens <= model.hidden else min(tokens, max(ROWS, CHUNK // model.vocab))


def working(model: Architecture, width: int) -> int:
    """Bytes for one token that one layer holds while it is computed and nothing is saved: in the MLP."""
    return width * (model.hidden + (3 if model.gated else 2) * _widest(model))


def backward(model: Architecture, width: int, seen: Attention = FUSED, scratch: int = 0) -> int:
    """Bytes for one token that one layer's backward pass holds, besides what that layer saved.

    In its MLP or what is around it, with `scratch` bytes more of each element of a matrix product; or in attention that
    is not fused, two of its scores and of what they are made of in fp32, when what the MLP saved is gone.
    """
    stream = width * model.hidden * (1 + model.scaled_residual)
    most = stream + max(_backward(model, stack, width, scratch) for stack in model.stacks)
    if seen.fused:
        return most
    scores = 2 * FLOAT * model.heads * (seen.positions + model.head_dim)
    return max(most, scores - width * model.mlp_tensors * _widest(model))


def _backward(model: Architecture, stack: Stack, width: int, scratch: int) -> int:
    """The same of a layer of one kind, from its end to its MLP, beside the gradient of its output."""
    # gradients of wide tensors, when what the last projection read is gone; before that the gradient of what it read
    most = model.wide_gradients * width * _wide(stack)
    if not stack.experts:
        most = max(most, (width + scratch if scratch else 0) * stack.ffn)
    elif not stack.every:
        # of what each expert gave, before it was weighted and after, and of its weight: in fp32, as weights are as a
        # rule (transformers/integrations/moe.py); what the shared experts saved is gone
        weighted = 3 * FLOAT * model.hidden * stack.active
        most = max(most, weighted - width * model.mlp_tensors * stack.shared)
    if not model.layer_norm and any(w.name.endswith(_AT_THE_END) for w in stack.weights):
        # of a root mean square in fp32; the normalized value is gone
        most = max(most, (5 * FLOAT - width) * model.hidden)
    return most


def _widest(model: Architecture) -> int:
    return max(map(_wide, model.stacks))


def _wide(stack: Stack) -> int:
    """The width of its MLP; a mixture's experts and those of every token are computed one after the other."""
    return max(stack.ffn * max(stack.passed, 1), stack.shared)


def moments(model: Architecture, setup: Setup, width: int, mixed: bool = False) -> Activations:
    """The bytes of a micro batch.

    Of a family whose layers are not measured only the logits are known: the rest is 0, and the sum a lower bound.
    With checkpointing each layer keeps its input alone, and one layer at a time is computed again. `mixed` is
    torch's autocast: the stream between the layers and both norms of each stay in fp32.
    """
    if not model.measured:
        return Activations(saved=0, loss=loss(model, setup, width), first=0, last=0)
    tokens, stream = setup.tokens, FLOAT if mixed else width
    more = 2 * FLOAT * model.hidden if mixed else 0
    whole = max(width * merged(s) for s in model.stacks)
    made = sum(s.number * width * merged(s) for s in model.stacks) if not setup.checkpointing else 0
    seen = attention(model, setup)
    if setup.device == "cpu":
        seen = seen._replace(dropped=width)  # CUDA's are booleans, a CPU's the factors themselves
    saved = [(s.number, of_stack(model, s, width, seen) + more) for s in model.stacks]
    largest = max(layer for _, layer in saved)
    kept = stream * model.hidden if setup.checkpointing else largest
    layers = model.layers * kept if setup.checkpointing else sum(number * layer for number, layer in saved)
    again = largest if setup.checkpointing else 0
    if setup.checkpointing and not mixed and (model.layer_norm or width == FLOAT):
        again -= kept  # the norm saves its input itself, and no copy in fp32
    top = tail(model, width, seen)
    # The last norm goes backward while its own tensors are still there; a root mean square norm does so in fp32.
    norm = top + (width * model.hidden if model.layer_norm else 4 * FLOAT * model.hidden)
    # without instructions for 16 bits a processor makes a product in fp32 and casts it (oneDNN)
    busy = backward(model, width, seen, FLOAT if setup.device == "cpu" and width < FLOAT else 0)
    return Activations(
        saved=tokens * (layers + top) + made,
        loss=loss(model, setup, width),
        first=tokens * (layers + again + busy) + made + whole,
        last=tokens * (kept + again + busy) + 2 * whole,
        norm=tokens * (layers + norm) + made,
    )
