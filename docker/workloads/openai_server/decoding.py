"""The model: requests wait for their turn in one thread, and each is generated token by token.

Owns the model, its tokenizer and its limits; what is asked and what is answered is the routes'.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from workloads.openai_server.choices import Choice, Delta, Token
from workloads.sampling import Chooser

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from workloads.openai_server.work import Limits, Work

BATCH = 16  # choices that are generated together


@dataclass
class Generator:
    """A model that answers one Work at a time."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    ends: list[int]
    limits: Limits
    closing: threading.Event = field(default_factory=threading.Event)
    thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))

    async def stream(self, work: Work) -> AsyncGenerator[tuple[Choice, Delta], None]:
        """What comes to each choice, as it comes; raises what the model raises. Leaving it early ends the work."""
        loop, queue = asyncio.get_running_loop(), asyncio.Queue[Any]()

        def put(item: object) -> None:
            loop.call_soon_threadsafe(queue.put_nowait, item)

        def generate() -> None:
            try:
                self._generate(work, lambda choice, delta: put((choice, delta)))
                put(None)
            except Exception as error:  # it belongs to the request, the thread serves the next one
                put(error)

        self.thread.submit(generate)
        try:
            while (item := await queue.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            work.cancelled.set()

    def close(self) -> None:
        """End what is being generated, so that the process can end."""
        self.closing.set()
        self.thread.shutdown(wait=False, cancel_futures=True)

    def _generate(self, work: Work, emit: Callable[[Choice, Delta], object]) -> None:
        rows = [
            Choice(
                index=n + work.n * place,
                prompt=prompt,
                tokenizer=self.tokenizer,
                ends=self.ends,
                stops=work.stops,
                limit=work.new_tokens,
            )
            for place, prompt in enumerate(work.prompts)
            for n in range(work.n)
        ]
        seed = (secrets.randbits(64) if work.seed is None else work.seed) % 2**64
        for first in range(0, len(rows), BATCH):
            batch = rows[first : first + BATCH]
            for choice in batch if work.echo else []:
                prompt = self._prompt_tokens(choice.prompt, work.top)
                emit(choice, Delta(choice.index, self.tokenizer.decode(choice.prompt), prompt))
            if work.new_tokens:
                chooser = Chooser(work.sampling, [(seed, choice.index) for choice in batch])
                self._decode(batch, chooser, work, emit)
            else:
                for choice in batch:
                    choice.finish = "length"
                    emit(choice, Delta(choice.index, "", [], choice.finish))

    def _decode(
        self, batch: list[Choice], chooser: Chooser, work: Work, emit: Callable[[Choice, Delta], object]
    ) -> None:
        """Generate until every choice of the batch ended, or nobody waits for them any more."""
        import torch

        def step(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            chosen = chooser(input_ids, scores)
            for choice, token in zip(batch, noted(scores, chosen.argmax(-1), work.top), strict=True):
                if not choice.finish:
                    emit(choice, choice.take(token))
            return chosen

        def ended(input_ids: torch.Tensor, _scores: torch.Tensor, **_: Any) -> torch.Tensor:
            nobody_waits = work.cancelled.is_set() or self.closing.is_set()
            return torch.tensor([nobody_waits or bool(c.finish) for c in batch], device=input_ids.device)

        longest = max(len(choice.prompt) for choice in batch)
        spaces = [longest - len(choice.prompt) for choice in batch]
        ids = [[0] * space + choice.prompt for space, choice in zip(spaces, batch, strict=True)]
        mask = [[0] * space + [1] * (longest - space) for space in spaces]
        with torch.inference_mode():
            self.model.generate(
                input_ids=torch.tensor(ids, device=self.model.device),
                attention_mask=torch.tensor(mask, device=self.model.device),
                max_new_tokens=work.new_tokens,
                do_sample=False,
                logits_processor=[step],
                stopping_criteria=[ended],
            )

    def _prompt_tokens(self, prompt: list[int], top: int | None) -> list[Token]:
        import torch

        if top is None or len(prompt) == 1:
            return [Token(token) for token in prompt]
        with torch.inference_mode():
            ids = torch.tensor([prompt], device=self.model.device)
            scores = self.model(input_ids=ids).logits[0, :-1]
        return [Token(prompt[0]), *noted(scores, ids[0, 1:], top)]


def noted(scores: torch.Tensor, tokens: torch.Tensor, top: int | None) -> list[Token]:
    """Tokens with the model's own log-probabilities: scores [count, vocabulary], tokens [count].

    The likeliest come first; the token itself is among them whatever its place.
    """
    if top is None:
        return [Token(token) for token in tokens.tolist()]
    logprobs = scores.float().log_softmax(-1)
    own = logprobs.gather(-1, tokens[:, None])[:, 0].tolist()
    values, ids = logprobs.topk(min(top, logprobs.shape[-1]), dim=-1)
    best = [list(zip(*row, strict=True)) for row in zip(ids.tolist(), values.tolist(), strict=True)]
    return [Token(*row) for row in zip(tokens.tolist(), own, best, strict=True)]
