"""What a request may ask for, as OpenAI's reference has it; what this server cannot do is refused, not ignored.

https://platform.openai.com/docs/api-reference/completions and …/chat
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from workloads.sampling import Sampling

# they change nothing in what a model answers here
IGNORED = (
    *("user", "store", "metadata", "service_tier", "safety_identifier", "prompt_cache_key"),
    *("prompt_cache_retention", "parallel_tool_calls"),
)
# what they have when they ask for nothing
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "suffix": ("",),
}


class Refused(Exception):
    """A request that cannot be answered, with what OpenAI's error object says about it."""

    def __init__(self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.message, self.status, self.param, self.code = message, status, param, code


class StreamOptions(BaseModel):
    """What a stream holds beside the text."""

    model_config = ConfigDict(strict=True)
    include_usage: bool | None = None


def _stops(value: Any) -> Any:
    return [value] if isinstance(value, str) else value or []


class Request(BaseModel):
    """What completions and chat completions have in common."""

    model_config = ConfigDict(strict=True, extra="forbid")
    model: str
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: int | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    stop: Annotated[
        list[Annotated[str, Field(min_length=1)]], Field(max_length=4), BeforeValidator(_stops)
    ] = []
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_what_asks_for_nothing(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            raise ValueError("a JSON object is expected")
        neutral = {key for key, values in NEUTRAL.items() if body.get(key) in (None, *values)}
        return {key: value for key, value in body.items() if key not in neutral and key not in IGNORED}

    @field_validator("logit_bias")
    @classmethod
    def _token_ids(cls, biases: dict[str, float] | None) -> dict[str, float] | None:
        if any(not key.isdecimal() for key in biases or {}):
            raise ValueError("its keys must be token ids")
        return biases

    @model_validator(mode="after")
    def _options_of_a_stream(self) -> Request:
        if self.stream_options and not self.stream:
            raise ValueError("stream_options are for stream: true only")
        return self

    @property
    def sampling(self) -> Sampling:
        """How tokens are chosen; the API's defaults are 1, 1 and no penalties."""
        return Sampling(
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            logit_bias={int(token): bias for token, bias in (self.logit_bias or {}).items()},
        )


class CompletionRequest(Request):
    """POST /v1/completions."""

    prompt: str | list[Any]
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    best_of: int | None = None

    @field_validator("prompt", mode="before")
    @classmethod
    def _text_or_tokens(cls, prompt: Any) -> Any:
        for one in prompt if isinstance(prompt, list) and not _are_tokens(prompt) else [prompt]:
            if not isinstance(one, str) and not _are_tokens(one):
                raise ValueError(
                    "text, a list of texts, a list of token ids or a list of such lists is expected"
                )
        if prompt == []:
            raise ValueError("it is an empty list")
        return prompt

    @model_validator(mode="after")
    def _best_of_all(self) -> CompletionRequest:
        if self.best_of not in (None, self.n or 1):
            raise ValueError("best_of is not supported here unless it is n")
        return self

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts, each as text or as token ids."""
        return (
            self.prompt if isinstance(self.prompt, list) and not _are_tokens(self.prompt) else [self.prompt]
        )


class Part(BaseModel):
    """A piece of a message; this server reads text alone."""

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """One turn of a conversation; what else it holds goes to the model's template."""

    model_config = ConfigDict(extra="allow")
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = None

    def for_template(self) -> dict[str, Any]:
        """As chat templates expect it: content as one text."""
        parts = self.content if isinstance(self.content, list) else []
        text = "".join(part.text for part in parts) if parts else self.content or ""
        return self.model_dump(exclude_none=True) | {"content": text}


class ChatRequest(Request):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    @model_validator(mode="after")
    def _top_of_what(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs need logprobs: true")
        return self


def parsed(kind: type[CompletionRequest] | type[ChatRequest], body: Any) -> Any:
    """The request of a body. Raises Refused with everything that is wrong with it."""
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        problems = [_in_words(problem) for problem in error.errors()]
        first = error.errors()[0]["loc"]
        raise Refused("; ".join(problems), param=str(first[0]) if first else None) from None


def _in_words(problem: Any) -> str:
    place = ".".join(str(step) for step in problem["loc"])
    unknown = problem["type"] == "extra_forbidden"
    meaning = "not supported by this server" if unknown else problem["msg"].removeprefix("Value error, ")
    return f"{place}: {meaning}" if place else str(meaning)


def _are_tokens(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(token) is int for token in value)
