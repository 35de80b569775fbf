"""The special tokens of a text are those that the model's own tokenizer puts there, and padding is told from an end."""

from __future__ import annotations

import pytest

pytest.importorskip("tokenizers", reason="the train extra is not installed")
pytest.importorskip("transformers", reason="the train extra is not installed")

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast
from workloads import examples, labels, stages, tokenizer
from workloads.formats import Row

pytestmark = pytest.mark.torch
WORDS = {word: number for number, word in enumerate(("<s>", "</s>", "say", "yes", "no"))}


def words(template: str = "", extra: tuple[str, ...] = (), **special: str) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words that puts special tokens around a text as `template` says."""
    made = Tokenizer(models.WordLevel({**WORDS}, unk_token="no"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    if template:
        made.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=[(token, WORDS[token]) for token in ("<s>", "</s>")]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="</s>", additional_special_tokens=list(extra), **special
    )


@pytest.mark.parametrize(
    ("template", "begin"), [("", []), ("<s> $A", [0]), ("<s> $A </s>", [0]), ("$A </s>", [])]
)
def test_a_prompt_begins_as_its_tokenizer_says_and_does_not_end(template: str, begin: list[int]) -> None:
    by = words(template)
    assert tokenizer.prompt_ids(by, "say yes") == [*begin, 2, 3]
    row = Row({"prompt": "say", "completion": "yes"})
    tokens = labels.tokens(row, by, length=9, encoder=False)
    assert tokens["input_ids"] == [*begin, 2, 3, 1]
    assert tokens["labels"] == [stages.IGNORED] * (len(begin) + 1) + [3, 1]
    assert labels.tokens(Row({"text": "say yes"}), by, length=9, encoder=False)["labels"] == [*begin, 2, 3, 1]
    assert labels.tokens(row, by, length=9, encoder=True)["labels"] == [*begin, 3, 1]


@pytest.mark.parametrize(
    ("by", "vocabulary", "apart", "token"),
    [
        (words(pad_token="yes"), 5, False, "yes"),  # its own
        (words(pad_token="</s>"), 6, False, tokenizer.PADDING),  # room for a new one
        (words(), 5, False, "</s>"),  # no room
        (words(), 5, True, tokenizer.PADDING),  # then the model has to grow
        (words(unk_token="no"), 5, True, "no"),  # LLaMA 2
        (words(unk_token="</s>"), 5, False, "</s>"),  # GPT-2
        (words(extra=("<|reserved_special_token_0|>",)), 6, True, "<|reserved_special_token_0|>"),  # Llama 3
        (words(extra=("<tool>", "<|finetune_right_pad_id|>")), 7, True, "<|finetune_right_pad_id|>"),
    ],
)
def test_padding_is_apart_from_the_end_where_it_can_be(
    by: PreTrainedTokenizerFast, vocabulary: int, apart: bool, token: str
) -> None:
    tokenizer.pad(by, vocabulary, apart)
    assert by.pad_token == token
    assert by.eos_token == "</s>"


def test_an_example_that_its_prompt_fills_teaches_nothing() -> None:
    rows = [Row({"prompt": "say " * n, "completion": "yes"}) for n in (3, 4)]
    assert [labels.learned(labels.tokens(row, words(), 4, False)) for row in rows] == [True, False]


def test_every_epoch_has_each_example_once_in_another_order() -> None:
    order = examples.order(10, 25, seed=3)
    assert sorted(order[:10]) == sorted(order[10:20]) == list(range(10))
    assert order[:10].tolist() != order[10:20].tolist()
    assert examples.order(10, 12, seed=3).tolist() == order[:12].tolist()
    assert examples.order(10, 10, seed=4).tolist() != order[:10].tolist()


@pytest.mark.parametrize(
    ("held_out", "total", "evaluated"), [(100, 8, 96), (8, 8, 8), (7, 8, 4), (1, 64, 1), (60, 512, 32)]
)
def test_what_is_evaluated_fills_micro_batches_of_any_cut(held_out: int, total: int, evaluated: int) -> None:
    assert examples.evaluation_size(held_out, total) == evaluated


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 6, 12])
@pytest.mark.parametrize("held_out", [1, 5, 7, 8, 11, 12, 40])
def test_what_is_evaluated_divides_among_the_ranks_and_weighs_alike(held_out: int, ranks: int) -> None:
    evaluated = examples.evaluated(held_out, 12, ranks)
    assert len(evaluated) % ranks == 0
    assert len(evaluated) <= max(12, held_out)
    size = examples.evaluation_size(held_out, 12)
    assert {evaluated.count(place) for place in range(size)} == {len(evaluated) // size}
