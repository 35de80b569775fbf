"""Where a prompt begins and what its continuation says, for tokenizers of several families."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast
from workloads import tokenizer
from workloads.session import Stop

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.torch
WORDS = {"<s>": 0, "</s>": 1, "▁the": 2, "▁cat": 3, "▁sat": 4, "s": 5, "<unk>": 6}


def family(template: str) -> PreTrainedTokenizerFast:
    """A tokenizer of words as SentencePiece has them, which puts special tokens around a text as `template` says."""
    backend = Tokenizer(models.WordLevel(WORDS, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    special = [(word, WORDS[word]) for word in ("<s>", "</s>") if word in template]
    backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


@pytest.mark.parametrize(
    ("template", "text", "wanted"),
    [
        ("$A", "the cat", [2, 3]),
        ("<s> $A", "the cat", [0, 2, 3]),
        ("<s> $A </s>", "the cat", [0, 2, 3]),
        ("$A </s>", "the cat", [2, 3]),
        ("<s> $A", "<s> the cat", [0, 2, 3]),
        ("<s> $A", "the cat</s>", [0, 2, 3, 1]),
        ("<s> $A </s>", "the cat</s>", [0, 2, 3, 1]),
        ("<s> $A </s>", "", [0]),
        ("$A", "", []),
    ],
)
def test_a_prompt_begins_as_its_tokenizer_says_and_does_not_end(
    template: str, text: str, wanted: list[int]
) -> None:
    assert tokenizer.prompt_ids(family(template), text) == wanted


def test_a_continuation_keeps_the_space_that_it_begins_with() -> None:
    own = family("<s> $A")
    assert own.decode([4]) == "sat"
    assert tokenizer.continuation(own, [0, 2, 3], [4]) == " sat"
    assert tokenizer.continuation(own, [0, 2, 3], []) == ""
    assert tokenizer.continuation(own, [0, 2, 3] * 4, [4, 1], special=True).startswith(" sat")
    assert "</s>" in tokenizer.continuation(own, [0, 2, 3], [4, 1], special=True)
    assert "</s>" not in tokenizer.continuation(own, [0, 2, 3], [4, 1])


def test_a_prompt_may_end_within_a_character() -> None:
    own, whole = tokenizer.existing("bytes"), list("é".encode())
    assert tokenizer.continuation(own, whole[:1], [*whole[1:], 65]).endswith("A")


def sentencepiece() -> PreTrainedTokenizerFast:
    """A tokenizer as Llama 2 has it: words with the space before them, and bytes for what is no word."""
    words = {word: number for number, word in enumerate(["<unk>", "▁a", "▁the", "▁cat", "s"])}
    words |= {f"<0x{byte:02X}>": len(words) + byte for byte in range(256)}
    merges = {"▁a", "▁the", "▁cat"}
    letters = {letter for word in merges for letter in word} - words.keys()
    words |= {letter: len(words) + number for number, letter in enumerate(sorted(letters))}
    words |= {"▁t": len(words), "▁th": len(words) + 1, "▁c": len(words) + 2, "▁ca": len(words) + 3}
    order = [("▁", "a"), ("▁", "t"), ("▁t", "h"), ("▁th", "e"), ("▁", "c"), ("▁c", "a"), ("▁ca", "t")]
    backend = Tokenizer(models.BPE(words, order, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(steps)
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


@pytest.mark.parametrize("by", [sentencepiece(), tokenizer.existing("bytes")])
def test_the_pieces_of_a_text_add_up_to_it(by: PreTrainedTokenizerFast) -> None:
    text = "the cats é€😀 the"
    ids = by.encode(text, add_special_tokens=False)
    assert b"".join(tokenizer.bytes_of(by, token) for token in ids).decode().strip() == text
    ids = by.encode("the cat", add_special_tokens=False)
    assert "".join(tokenizer.piece(by, token) for token in ids).strip() == "the cat"


def test_weights_without_their_tokenizer_are_not_trained_on_tokens_of_another(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert not tokenizer.mistake("auto", str(tmp_path)), "random weights learn any tokens"
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert "has weights and no tokenizer" in tokenizer.mistake("auto", str(tmp_path))
    with pytest.raises(Stop, match="has weights and no tokenizer"):
        tokenizer.choose("auto", str(tmp_path), 300, lambda name: name)
    assert not tokenizer.mistake("bytes", str(tmp_path))
    (tmp_path / "tokenizer.model").write_bytes(b"")
    assert not tokenizer.mistake("auto", str(tmp_path))
