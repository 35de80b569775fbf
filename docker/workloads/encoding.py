"""A tokenizer as the processes that tokenize get it: small, quick to start, without transformers where that goes.

Owns the tokens of a document: what the tokenizer puts before a text, its pieces, and the end token or an empty line.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workloads import megatron, tokenizer

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerBase


@dataclass
class Encoder:
    """Turns pieces of text into token ids. It is pickled for other processes."""

    vocabulary: int
    dtype: str  # one of Megatron's
    begin: list[int]
    end: list[int]
    end_token: int | None
    between: str  # the text that `end` stands for
    definition: str = ""  # of tokenizers' Tokenizer; empty for bytes, and where the tokenizer is another kind
    other: Any = None  # PreTrainedTokenizerBase
    _loaded: Any = None

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        """The token ids of each text, without special tokens before or after it."""
        import numpy as np

        if self.other is not None:
            return tokenizer.encode(self.other, texts, self.dtype)
        if not self.definition:
            return [np.frombuffer(text.encode(), dtype=np.uint8) for text in texts]
        if self._loaded is None:
            from tokenizers import Tokenizer

            self._loaded = Tokenizer.from_str(self.definition)
            self._loaded.no_padding()
            self._loaded.no_truncation()
        # without the places of tokens in the text, which transformers' own call computes too
        encoded = self._loaded.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(one.ids, dtype=self.dtype) for one in encoded]


def of(by: PreTrainedTokenizerBase) -> Encoder:
    """The encoder of a tokenizer."""
    vocabulary = 1 + max(by.get_vocab().values())  # not len(by): ids may have gaps
    dtype = megatron.type_for(vocabulary)
    between = "\n\n" if by.eos_token_id is None else ""
    end = tokenizer.encode(by, [between], dtype)[0].tolist() if between else [by.eos_token_id]
    plain = by.name_or_path == "bytes"
    fast = not plain and by.is_fast and not getattr(by, "split_special_tokens", False)
    return Encoder(
        vocabulary=vocabulary,
        dtype=dtype,
        begin=tokenizer.beginning(by),
        end=end,
        end_token=by.eos_token_id,
        between=between,
        definition=by.backend_tokenizer.to_str() if fast else "",
        other=None if plain or fast else by,
    )
