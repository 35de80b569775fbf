"""Packed examples do not see each other: each has the logits and the loss that it has alone."""

from __future__ import annotations

import types
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the train extra is not installed")
pytest.importorskip("trl", reason="the train extra is not installed")

from transformers import AutoConfig, AutoModelForCausalLM  # noqa: E402
from workloads import packs  # noqa: E402
from workloads.formats import Row  # noqa: E402
from workloads.session import Stop  # noqa: E402
from workloads.stages import IGNORED  # noqa: E402

pytestmark = pytest.mark.torch

SHAPE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "initializer_range": 0.4,  # so that each token depends much on those before it
}
MORE: dict[str, dict[str, Any]] = {
    "gpt2": {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0},
    "gemma2": {"head_dim": 8, "sliding_window": 4},
    "gemma3_text": {
        "head_dim": 8,
        "sliding_window": 4,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "qwen3": {"head_dim": 8},
}
LENGTHS = (5, 9, 3, 7, 2)


def example(length: int) -> Row:
    ids = torch.randint(1, 64, (length,)).tolist()
    return Row(input_ids=ids, attention_mask=[1] * length, labels=[IGNORED, *ids[1:]])


def stage(length: int) -> Any:
    return types.SimpleNamespace(length=length, tokenizer=types.SimpleNamespace(pad_token_id=0))


@pytest.fixture
def rows() -> list[Row]:
    torch.manual_seed(0)
    return [example(length) for length in LENGTHS]


def test_as_many_examples_as_fit_are_in_one_and_none_is_cut(rows: list[Row]) -> None:
    made = packs.pack(rows, stage(10))
    assert sorted(sum(pack["seq_lengths"]) for pack in made) == [7, 9, 10]
    whole = []
    for pack in made:
        assert len(pack["input_ids"]) == len(pack["labels"]) == sum(pack["seq_lengths"])
        begin = 0
        for length in pack["seq_lengths"]:
            whole.append(pack["input_ids"][begin : begin + length])
            assert pack["labels"][begin] == IGNORED
            begin += length
    assert sorted(whole) == sorted(row["input_ids"] for row in rows)
    assert packs.pack([], stage(10)) == []


@pytest.mark.parametrize(
    ("family", "attention"),
    [(f, a) for f in packs.APART for a in ("sdpa", "eager") if (f, a) != ("gemma2", "sdpa")],  # it has none
)
def test_packed_examples_have_the_loss_that_they_have_alone(
    family: str, attention: str, rows: list[Row]
) -> None:
    torch.manual_seed(1)
    settings = AutoConfig.for_model(family, **{**SHAPE, **MORE.get(family, {})})
    settings.use_cache = False  # as the Trainer sets it; with a cache transformers looks for no documents
    packs.check(settings)
    model = AutoModelForCausalLM.from_config(settings, attn_implementation=attention).eval()
    batch = packs.collator(stage(10))(packs.pack(rows, stage(10)))
    with torch.no_grad():
        together = model(**batch).loss.item()
        alone, tokens = 0.0, 0
        for row in rows:
            own = {key: torch.tensor([row[key]]) for key in ("input_ids", "labels")}
            alone += model(**own).loss.item() * (len(row["input_ids"]) - 1)
            tokens += len(row["input_ids"]) - 1
        mixed = model(input_ids=batch["input_ids"], labels=batch["labels"]).loss.item()
    assert together == pytest.approx(alone / tokens, rel=1e-5)
    assert mixed != pytest.approx(alone / tokens, rel=1e-4)


def test_a_family_of_which_it_is_not_known_is_refused() -> None:
    with pytest.raises(Stop, match="--packing: it is not known that packed examples of a mamba do not see"):
        packs.check(AutoConfig.for_model("mamba"))
