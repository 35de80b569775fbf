"""Tiny models on disk, with random weights and a tokenizer of bytes that puts <s> first.

Owns their files; what they are used for is said by the tests.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


def save(
    folder: Path, settings: Mapping[str, Any], words: Sequence[str] = (), penalty: float | None = None
) -> Path:
    """A model with these settings; its tokenizer knows `words` beside the bytes, its folder asks for a `penalty`."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(["<s>", "</s>", *alphabet])}
    bpe = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.add_tokens(list(words))
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>").save_pretrained(folder)
    torch.manual_seed(0)
    config = AutoConfig.for_model(**settings, bos_token_id=0, eos_token_id=1)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    if penalty is not None:
        asked = {"eos_token_id": 1, "bos_token_id": 0, "repetition_penalty": penalty, "do_sample": True}
        (folder / "generation_config.json").write_text(json.dumps(asked))
    return folder
