"""The routes: a request is checked, generated and answered, whole or as a stream; every mistake has OpenAI's form."""

from __future__ import annotations

import contextlib
import hmac
import json
import logging
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from workloads.openai_server import answers, work
from workloads.openai_server.choices import Choice, Delta
from workloads.openai_server.requests import ChatRequest, CompletionRequest, Refused, parsed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request as HttpRequest
    from starlette.types import ASGIApp, Receive, Scope, Send

    from workloads.openai_server.decoding import Generator
    from workloads.openai_server.requests import Request
    from workloads.openai_server.work import Work

    Answer = answers.Completions | answers.Chat

LOG = logging.getLogger("uvicorn.error")


@dataclass(frozen=True)
class Server:
    """A model and the name that requests give it."""

    generator: Generator
    name: str
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def card(self) -> dict[str, Any]:
        """The model as /v1/models describes it."""
        return {"id": self.name, "object": "model", "created": self.created, "owned_by": "local"}

    def check(self, name: str) -> None:
        """Raise Refused for another model's name."""
        if name != self.name:
            message = f"the model {name!r} is not served here, only {self.name!r}"
            raise Refused(message, status=404, param="model", code="model_not_found")


def application(server: Server, key: str | None) -> ASGIApp:
    """The whole server; with a key, /v1/ is for those who give it."""

    async def completions(http: HttpRequest) -> Response:
        request: CompletionRequest = parsed(CompletionRequest, await _body(http))
        server.check(request.model)
        job = work.of_completion(request, server.generator.tokenizer, server.generator.limits)
        answer = answers.Completions(server.name, server.generator.tokenizer, job.top is not None)
        return await _answered(http, server.generator, job, answer=answer, request=request)

    async def chat(http: HttpRequest) -> Response:
        request: ChatRequest = parsed(ChatRequest, await _body(http))
        server.check(request.model)
        job = work.of_chat(request, server.generator.tokenizer, server.generator.limits)
        answer = answers.Chat(server.name, server.generator.tokenizer, job.top is not None)
        return await _answered(http, server.generator, job, answer=answer, request=request)

    async def models(_http: HttpRequest) -> Response:
        return JSONResponse({"object": "list", "data": [server.card]})

    async def model(http: HttpRequest) -> Response:
        server.check(http.path_params["name"])
        return JSONResponse(server.card)

    async def health(_http: HttpRequest) -> Response:
        return JSONResponse({"status": "ok"})

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        server.generator.close()

    routes = [
        Route("/v1/completions", completions, methods=["POST"]),
        Route("/v1/chat/completions", chat, methods=["POST"]),
        Route("/v1/models", models),
        Route("/v1/models/{name:path}", model),
        Route("/health", health),
    ]
    mistakes = {Refused: _refused, HTTPException: _no_route, Exception: _failed}
    app = Starlette(routes=routes, exception_handlers=mistakes, lifespan=lifespan)
    return _guarded(app, key) if key else app


def _guarded(app: ASGIApp, key: str) -> ASGIApp:
    """The app, of which /v1/ is for requests that bear the key alone."""
    wanted = f"Bearer {key}".encode()

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        given = dict(scope.get("headers", [])).get(b"authorization", b"")
        if (
            scope["type"] != "http"
            or not scope["path"].startswith("/v1/")
            or hmac.compare_digest(given, wanted)
        ):
            await app(scope, receive, send)
        else:
            refusal = Refused("this server wants its API key", status=401, code="invalid_api_key")
            await _error(refusal)(scope, receive, send)

    return guard


async def _body(http: HttpRequest) -> Any:
    try:
        read = json.loads(text := await http.body())
        if b"\\u" in text:
            json.dumps(read, ensure_ascii=False).encode()
        return read
    except UnicodeEncodeError:
        raise Refused("half of a surrogate pair, which is no character") from None
    except (ValueError, RecursionError) as error:
        raise Refused(f"the body is not JSON: {error}") from None


async def _answered(
    http: HttpRequest, generator: Generator, job: Work, *, answer: Answer, request: Request
) -> Response:
    if request.stream:
        with_usage = bool(request.stream_options and request.stream_options.include_usage)
        return StreamingResponse(
            _events(generator, job, answer, with_usage=with_usage), media_type="text/event-stream"
        )
    wholes: dict[int, Delta] = {}
    choices: dict[int, Choice] = {}
    async with contextlib.aclosing(generator.stream(job)) as stream:
        async for choice, delta in stream:
            before = wholes.get(choice.index, Delta(choice.index, "", []))
            both = replace(delta, text=before.text + delta.text, tokens=[*before.tokens, *delta.tokens])
            wholes[choice.index], choices[choice.index] = both, choice
            if await http.is_disconnected():
                return Response(status_code=499)  # nobody reads it
    written = [answer.whole(wholes[index]) for index in sorted(wholes)]
    counts = answers.usage(choices.values(), job.prompts)
    return JSONResponse(answers.envelope(answer, written, piece=False) | {"usage": counts})


async def _events(generator: Generator, job: Work, answer: Answer, *, with_usage: bool) -> AsyncIterator[str]:
    choices: dict[int, Choice] = {}
    extra = {"usage": None} if with_usage else {}
    for opening in answer.opening(range(job.n)):
        yield _event(answers.envelope(answer, [opening], piece=True) | extra)
    try:
        async with contextlib.aclosing(generator.stream(job)) as stream:
            async for choice, delta in stream:
                choices[choice.index] = choice
                if delta.text or delta.tokens or delta.finish:
                    yield _event(answers.envelope(answer, [answer.piece(delta)], piece=True) | extra)
    except Exception as error:  # the status was sent long ago
        LOG.exception("a stream broke off")
        yield _event(_error_body(Refused(_said(error), status=500)))
        return
    if with_usage:
        counts = answers.usage(choices.values(), job.prompts)
        yield _event(answers.envelope(answer, [], piece=True) | {"usage": counts})
    yield "data: [DONE]\n\n"


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


def _error_body(refusal: Refused) -> dict[str, Any]:
    kind = "server_error" if refusal.status >= 500 else "invalid_request_error"
    content = {"message": refusal.message, "type": kind, "param": refusal.param, "code": refusal.code}
    return {"error": content}


def _error(refusal: Refused) -> JSONResponse:
    return JSONResponse(_error_body(refusal), refusal.status)


async def _refused(_http: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return _error(error)


async def _no_route(http: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _error(Refused(f"{http.method} {http.url.path}: {error.detail}", status=error.status_code))


async def _failed(_http: HttpRequest, error: Exception) -> Response:
    return _error(Refused(_said(error), status=500))


def _said(error: Exception) -> str:
    return f"the model failed: {type(error).__name__}; the server's output says more"
