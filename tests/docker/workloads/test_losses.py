"""The loss in chunks is that of whole logits, its gradients too, and the whole logits are never in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

torch = pytest.importorskip("torch", reason="the train extra is not installed")

from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from workloads import losses, samples  # noqa: E402

if TYPE_CHECKING:
    from transformers import PreTrainedModel

pytestmark = pytest.mark.torch

TOKENS, HIDDEN, VOCABULARY = 37, 16, 50
SMALL: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "gemma2": {"head_dim": 16, "final_logit_softcapping": 3.0},
    "granite": {"logits_scaling": 4.0},
    "mixtral": {"router_aux_loss_coef": 0.0},  # test_routing.py has it
    **{family: {} for family in ("llama", "mistral", "qwen2", "qwen3", "gpt_neox")},
}
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}


def inputs(dtype: Any, bias: bool) -> tuple[list[Any], Any]:
    """Hidden states, weight and bias that need gradients, and labels of which some are ignored."""
    torch.manual_seed(0)
    shapes = [(TOKENS, HIDDEN), (VOCABULARY, HIDDEN), *([(VOCABULARY,)] if bias else [])]
    tensors = [torch.randn(shape).to(dtype).requires_grad_() for shape in shapes]
    labels = torch.randint(VOCABULARY, (TOKENS,))
    labels[::5] = samples.IGNORED
    return tensors, labels


def whole(tensors: list[Any], labels: Any, z_loss: float) -> losses.Loss:
    return losses.of_logits(torch.nn.functional.linear(*tensors), labels, z_loss)


@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 5, 36, 37, 100])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 8e-3), (torch.float16, 2e-3)]
)
def test_chunks_are_the_whole(dtype: Any, tolerance: float, rows: int, bias: bool, z_loss: float) -> None:
    tensors, labels = inputs(dtype, bias)
    scale = 128.0 / TOKENS  # as fp16's loss scale comes in
    expected = whole(tensors, labels, z_loss)
    slopes = torch.autograd.grad(expected.total * scale, tensors)
    chunked = losses.linear_cross_entropy(
        tensors[0], tensors[1], tensors[2] if bias else None, labels, z_loss=z_loss, rows=rows
    )
    assert chunked.total.item() == pytest.approx(expected.total.item(), rel=1e-6)
    assert chunked.nats.item() == pytest.approx(expected.nats.item(), rel=1e-6)
    assert not chunked.nats.requires_grad
    for ours, theirs in zip(torch.autograd.grad(chunked.total * scale, tensors), slopes, strict=True):
        assert ours.dtype == theirs.dtype
        assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


def test_z_loss_is_the_squared_log_sum() -> None:
    tensors, labels = inputs(torch.float32, bias=False)
    logits = torch.nn.functional.linear(*tensors)[labels != samples.IGNORED]
    plain, more = (losses.linear_cross_entropy(*tensors, None, labels, z_loss=z) for z in (0.0, 0.5))
    assert more.nats == plain.nats
    expected = plain.nats + 0.5 * logits.exp().sum(-1).log().square().sum()
    assert more.total.item() == pytest.approx(expected.item(), rel=1e-5)


def test_numbers_far_from_0_do_no_harm() -> None:
    tensors, labels = inputs(torch.float32, bias=False)
    with torch.no_grad():
        tensors[0] *= 1e3
    chunked = losses.linear_cross_entropy(*tensors, None, labels, rows=8)
    expected = whole(tensors, labels, 0.0)
    assert chunked.total.item() == pytest.approx(expected.total.item(), rel=1e-5)


def small(family: str) -> PreTrainedModel:
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = SMALL[family] if family == "gpt2" else {**SHAPE, **SMALL[family]}
    config = AutoConfig.for_model(family, vocab_size=VOCABULARY, **shape)
    config.use_cache = False
    for name in ("attn_pdrop", "embd_pdrop", "resid_pdrop"):
        setattr(config, name, 0.0)
    torch.manual_seed(1)
    return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("family", SMALL)
def test_each_family_has_the_loss_of_its_own_logits(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "chunk_rows", lambda *_: 7)
    model = small(family)
    batch = torch.randint(VOCABULARY, (2, 9))
    logits = model(input_ids=batch[:, :-1]).logits
    expected = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="sum"
    )
    expected.backward()
    slopes = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    assert losses.attach(model) is (family not in ("gemma2", "granite"))
    total, nats = model(input_ids=batch[:, :-1], labels=batch[:, 1:])
    assert nats.item() == pytest.approx(expected.item(), rel=1e-5)
    total.backward()
    for name, parameter in model.named_parameters():
        if name in slopes:
            assert (parameter.grad - slopes[name]).abs().max() < 1e-4, name


def test_what_lies_between_hidden_states_and_logits_is_not_left_out() -> None:
    """BERT's further layers, and Gemma 4's softcapping, which the configuration of its text alone names."""
    import transformers

    text = {
        **SHAPE,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "vocab_size": VOCABULARY,
        "final_logit_softcapping": 0.5,
    }
    text |= {"vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 8}
    bert = transformers.BertConfig(**SHAPE, vocab_size=VOCABULARY, is_decoder=True)
    gemma = transformers.Gemma4Config(text_config=text, vision_config=None, audio_config=None)
    batch = torch.randint(VOCABULARY, (2, 9))
    for settings in (bert, gemma):
        model = transformers.AutoModelForCausalLM.from_config(settings).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        logits = model(input_ids=batch[:, :-1]).logits
        expected = losses.of_logits(logits.flatten(0, 1), batch[:, 1:].flatten()).nats
        losses.attach(model)
        found = model(input_ids=batch[:, :-1], labels=batch[:, 1:])[1]
        assert found.item() == pytest.approx(expected.item(), rel=1e-6), type(model).__name__


class Largest(TorchDispatchMode):  # type: ignore[misc]
    """Notes the most elements that a tensor has had."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


def test_the_logits_of_all_tokens_are_never_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "CHUNK", 1 << 12)
    monkeypatch.setattr(losses, "ROWS", 8)
    from transformers import AutoConfig
    from workloads import training, ulysses

    class Engine:
        def __init__(self, model: PreTrainedModel) -> None:
            losses.attach(model)
            self.model = model

        def __call__(self, **batch: Any) -> Any:
            return self.model(**batch)

    from transformers import AutoModelForCausalLM

    vocabulary, tokens = 2048, 256
    config = AutoConfig.for_model("llama", vocab_size=vocabulary, **SHAPE)
    engine = Engine(AutoModelForCausalLM.from_config(config))
    block = torch.randint(vocabulary, (4, tokens // 4 + 1))
    batch = samples.Batch(block[:, :-1], block[:, 1:])
    alone = ulysses.Group(1, 0, None)  # type: ignore[arg-type]
    with Largest() as largest:
        total, _ = training.next_token_loss(engine, batch, alone, torch.device("cpu"))
        total.backward()
    assert largest.elements < tokens * vocabulary / 4
    assert largest.elements == vocabulary * SHAPE["hidden_size"]  # the last layer's weight


@pytest.mark.parametrize(
    ("tokens", "hidden", "vocabulary", "rows"),
    [
        (8192, 4096, 128256, 1024),
        (8192, 4096, 32000, 2097),
        (4096, 4096, 128256, 4096),  # as much as the weight's gradient
        (16384, 768, 50304, 1334),
        (2048, 192, 256, 2048),
    ],
)
def test_how_many_rows_a_chunk_has(tokens: int, hidden: int, vocabulary: int, rows: int) -> None:
    assert losses.chunk_rows(tokens, hidden, vocabulary) == rows
