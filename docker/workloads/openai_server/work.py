"""From a request to what is generated: prompts as token ids, within the model's context."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from workloads import tokenizer
from workloads.openai_server.requests import Refused

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from workloads.openai_server.requests import ChatRequest, CompletionRequest, Request
    from workloads.sampling import Sampling

DEFAULT_TOKENS = 16  # of a completion; a chat's answer has all the context that is left


@dataclass(frozen=True)
class Limits:
    """What a model takes: tokens of prompt and answer together, and token ids below `vocabulary`."""

    context: int
    vocabulary: int


@dataclass(frozen=True)
class Work:
    """What to generate: `n` choices for each prompt. `top` likeliest tokens are noted, None for no log-probability."""

    prompts: list[list[int]]
    sampling: Sampling
    new_tokens: int
    n: int
    stops: list[str]
    seed: int | None
    top: int | None = None
    echo: bool = False
    cancelled: threading.Event = field(default_factory=threading.Event)


def of_completion(request: CompletionRequest, own: PreTrainedTokenizerBase, limits: Limits) -> Work:
    """The work of a completion. Raises Refused for prompts that the model cannot take."""
    prompts = [
        tokenizer.prompt_ids(own, prompt) if isinstance(prompt, str) else prompt for prompt in request.prompts
    ]
    new_tokens = DEFAULT_TOKENS if request.max_tokens is None else request.max_tokens
    return _work(
        request, prompts, limits, new_tokens=new_tokens, top=request.logprobs, echo=bool(request.echo)
    )


def of_chat(request: ChatRequest, own: PreTrainedTokenizerBase, limits: Limits) -> Work:
    """The work of a chat completion. Raises Refused when the template or the context does not take the messages."""
    prompt = _rendered(request, own)
    asked = [limit for limit in (request.max_completion_tokens, request.max_tokens) if limit is not None]
    new_tokens = asked[0] if asked else max(1, limits.context - len(prompt))
    top = (request.top_logprobs or 0) if request.logprobs else None
    return _work(request, [prompt], limits, new_tokens=new_tokens, top=top)


def _work(
    request: Request,
    prompts: list[list[int]],
    limits: Limits,
    *,
    new_tokens: int,
    top: int | None,
    echo: bool = False,
) -> Work:
    longest = max(map(len, prompts))
    if not all(prompts):
        raise Refused("the tokenizer gives no token for an empty prompt", param="prompt")
    if any(not 0 <= token < limits.vocabulary for prompt in prompts for token in prompt):
        raise Refused(f"token ids must be from 0 to {limits.vocabulary - 1}", param="prompt")
    if any(token >= limits.vocabulary for token in request.sampling.logit_bias):
        raise Refused(f"token ids must be from 0 to {limits.vocabulary - 1}", param="logit_bias")
    if longest + new_tokens > limits.context:
        raise Refused(
            f"the context has {limits.context} tokens, and {longest + new_tokens} are asked for: {longest} of the "
            f"prompt and {new_tokens} of the answer; shorten the prompt or ask for fewer",
            code="context_length_exceeded",
        )
    return Work(
        prompts,
        request.sampling,
        new_tokens,
        n=request.n or 1,
        stops=request.stop,
        seed=request.seed,
        top=top,
        echo=echo,
    )


def _rendered(request: ChatRequest, own: PreTrainedTokenizerBase) -> list[int]:
    """The conversation as the model's template writes it, up to where the assistant's answer begins."""
    from jinja2 import TemplateError

    if own.chat_template is None:
        raise Refused(
            "the model has no chat template: start the server with --chat-template, or use /v1/completions"
        )
    messages = [message.for_template() for message in request.messages]
    try:
        text = own.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    except (TemplateError, TypeError, KeyError, ValueError) as error:
        raise Refused(
            f"the model's chat template does not take these messages: {error}", param="messages"
        ) from None
    ids: list[int] = own.encode(text, add_special_tokens=False)
    return ids
