"""Answers in the form of OpenAI's API, whole or as pieces of a stream.

Owns the JSON of completions and chat completions and their log-probabilities.
"""

from __future__ import annotations

import codecs
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from workloads import tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from transformers import PreTrainedTokenizerBase

    from workloads.openai_server.choices import Choice, Delta, Token


@dataclass
class Completions:
    """The answer to POST /v1/completions."""

    model: str
    tokenizer: PreTrainedTokenizerBase
    with_logprobs: bool
    id: str = field(default_factory=lambda: f"cmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))
    offsets: dict[int, int] = field(default_factory=dict)  # characters of a choice that were written
    halves: dict[int, codecs.IncrementalDecoder] = field(default_factory=dict)  # of it: begun characters

    kind = piece_kind = "text_completion"

    def opening(self, _indices: Iterable[int]) -> list[dict[str, Any]]:
        """What a stream begins with."""
        return []

    def piece(self, delta: Delta) -> dict[str, Any]:
        """One choice of a piece of a stream."""
        logprobs = self._logprobs(delta.index, delta.tokens) if self.with_logprobs else None
        return {"index": delta.index, "text": delta.text, "logprobs": logprobs, "finish_reason": delta.finish}

    def whole(self, delta: Delta) -> dict[str, Any]:
        """A choice of a whole answer, from all that came to it."""
        return self.piece(delta)

    def _logprobs(self, index: int, tokens: list[Token]) -> dict[str, Any]:
        texts = [tokenizer.piece(self.tokenizer, token.id) for token in tokens]
        half = self.halves.setdefault(index, codecs.getincrementaldecoder("utf-8")("replace"))
        offsets = []
        for token in tokens:
            offsets.append(self.offsets.get(index, 0))
            self.offsets[index] = offsets[-1] + len(half.decode(tokenizer.bytes_of(self.tokenizer, token.id)))
        return {
            "tokens": texts,
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [self._likeliest(token) for token in tokens],
            "text_offset": offsets,
        }

    def _likeliest(self, token: Token) -> dict[str, float] | None:
        if token.logprob is None:
            return None
        best: dict[str, float] = {}
        for other, logprob in [*token.top, (token.id, token.logprob)]:
            best.setdefault(tokenizer.piece(self.tokenizer, other), logprob)  # tokens may share a text
        return best


@dataclass
class Chat:
    """The answer to POST /v1/chat/completions."""

    model: str
    tokenizer: PreTrainedTokenizerBase
    with_logprobs: bool
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    kind, piece_kind = "chat.completion", "chat.completion.chunk"

    def opening(self, indices: Iterable[int]) -> list[dict[str, Any]]:
        """What a stream begins with: whose turn each choice is."""
        turn = {"role": "assistant", "content": ""}
        return [{"index": index, "delta": turn, "logprobs": None, "finish_reason": None} for index in indices]

    def piece(self, delta: Delta) -> dict[str, Any]:
        """One choice of a piece of a stream."""
        content = {"content": delta.text} if delta.text else {}
        return {"index": delta.index, "delta": content, **self._rest(delta)}

    def whole(self, delta: Delta) -> dict[str, Any]:
        """A choice of a whole answer, from all that came to it."""
        message = {"role": "assistant", "content": delta.text, "refusal": None}
        return {"index": delta.index, "message": message, **self._rest(delta)}

    def _rest(self, delta: Delta) -> dict[str, Any]:
        noted = {"content": [self._token(token) for token in delta.tokens], "refusal": None}
        return {"logprobs": noted if self.with_logprobs else None, "finish_reason": delta.finish}

    def _token(self, token: Token) -> dict[str, Any]:
        likeliest = [self._entry(*other) for other in token.top]
        return {**self._entry(token.id, token.logprob), "top_logprobs": likeliest}

    def _entry(self, token: int, logprob: float | None) -> dict[str, Any]:
        text, bytes_ = (of(self.tokenizer, token) for of in (tokenizer.piece, tokenizer.bytes_of))
        return {"token": text, "logprob": logprob, "bytes": list(bytes_)}


def envelope(answer: Completions | Chat, choices: list[dict[str, Any]], *, piece: bool) -> dict[str, Any]:
    """Choices with what stands around them in every answer."""
    kind = answer.piece_kind if piece else answer.kind
    return {
        "id": answer.id,
        "object": kind,
        "created": answer.created,
        "model": answer.model,
        "choices": choices,
    }


def usage(choices: Iterable[Choice], prompts: list[list[int]]) -> dict[str, int]:
    """How many tokens were read, once for each prompt, and generated."""
    read, generated = sum(map(len, prompts)), sum(choice.generated for choice in choices)
    return {"prompt_tokens": read, "completion_tokens": generated, "total_tokens": read + generated}
