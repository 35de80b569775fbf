"""One answer as it grows: tokens become text, stop sequences end it and are left out, and what is sure is passed on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from workloads import tokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

UNFINISHED = 3  # bytes of a character in UTF-8 that can stand without its last


@dataclass(frozen=True)
class Token:
    """A token, its log-probability (None for a text's first), and the likeliest ones in its place with theirs."""

    id: int
    logprob: float | None = None
    top: Sequence[tuple[int, float]] = ()


@dataclass(frozen=True)
class Delta:
    """What came to a choice: text, the tokens that it is of, and why the choice ended, if it did."""

    index: int
    text: str
    tokens: list[Token]
    finish: str | None = None


@dataclass
class Choice:
    """An answer to a prompt of token ids: it ends at a token of `ends`, a stop sequence or `limit` tokens."""

    index: int
    prompt: list[int]
    tokenizer: PreTrainedTokenizerBase
    ends: Sequence[int]
    stops: Sequence[str]
    limit: int
    ids: list[int] = field(default_factory=list)
    generated: int = 0  # tokens, with the one that ended it
    finish: str | None = None
    sent: int = 0  # characters
    held: list[Token] = field(default_factory=list)

    def take(self, token: Token) -> Delta:
        """Add a token that was generated; returns what can be passed on now, which may be nothing."""
        self.generated += 1
        if token.id in self.ends:
            self.finish = "stop"
        else:
            self.ids.append(token.id)
            self.held.append(token)
        text = tokenizer.continuation(self.tokenizer, self.prompt, self.ids)
        # what was passed on holds no part of a stop sequence
        places = [place for stop in self.stops if (place := text.find(stop, self.sent)) >= 0]
        if places:
            text, self.finish = text[: min(places)], "stop"
        elif self.generated == self.limit and not self.finish:
            self.finish = "length"
        sure = len(text) if self.finish else self._sure(text)
        new, self.sent = text[self.sent : sure], max(sure, self.sent)
        tokens = self.held if new or self.finish else []
        self.held = [] if tokens else self.held
        return Delta(self.index, new, tokens, self.finish)

    def _sure(self, text: str) -> int:
        """How many characters no later token can change or make part of a stop sequence."""
        whole = len(text)
        while text[:whole].endswith(tokenizer.REPLACED) and len(text) - whole < UNFINISHED:
            whole -= 1
        starts = [
            size for stop in self.stops for size in range(1, len(stop)) if text[:whole].endswith(stop[:size])
        ]
        return whole - max(starts, default=0)
