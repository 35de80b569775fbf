"""The small server, asked by OpenAI's own client over HTTP: what the API promises, and what it refuses."""

from __future__ import annotations

import json
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from tests.docker.workloads import ranks

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import openai
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

pytestmark = pytest.mark.deepspeed

KEY = "sk-test, with spaces"
CONTEXT = 256
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"
    "<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
PROMPT = "Once upon"


@pytest.fixture(scope="module")
def endpoint(talkative: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("server")
    (folder / "chat.jinja").write_text(TEMPLATE)
    words = ("--engine=transformers", "--port=0", f"--chat-template={folder / 'chat.jinja'}")
    run = ranks.start(
        *(folder, 1, {}, *words),
        model=str(talkative),
        workload="serve",
        given=("run-dir", "model"),
        env={"VLLM_API_KEY": KEY},
    )
    try:
        run.wait_until((run.run_dir / "endpoint.json").exists)
        yield json.loads((run.run_dir / "endpoint.json").read_text())
    finally:
        run.processes[0].terminate()
        run.wait()


@pytest.fixture(scope="module")
def client(endpoint: dict[str, Any]) -> openai.OpenAI:
    import openai

    return openai.OpenAI(base_url=endpoint["url"], api_key=KEY, max_retries=0, timeout=120)


@pytest.fixture(scope="module")
def name(endpoint: dict[str, Any]) -> str:
    return str(endpoint["model"])


@pytest.fixture(scope="module")
def whole(talkative: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(talkative), AutoTokenizer.from_pretrained(talkative)


def greedy(whole: tuple[PreTrainedModel, PreTrainedTokenizerBase], prompt: str, tokens: int) -> str:
    model, own = whole
    ids = own(prompt, return_tensors="pt").input_ids
    row = model.generate(ids, max_new_tokens=tokens, do_sample=False, pad_token_id=0)[0]
    return str(own.decode(row[ids.shape[1] :]))


def test_models_are_listed_and_retrieved(client: openai.OpenAI, name: str) -> None:
    import openai

    assert [model.id for model in client.models.list()] == [name]
    assert client.models.retrieve(name).id == name
    for ask in (
        lambda: client.models.retrieve("another"),
        lambda: client.completions.create(model="another", prompt="x"),
    ):
        with pytest.raises(openai.NotFoundError) as error:
            ask()
        assert error.value.code == "model_not_found"


def test_a_completion_is_what_the_model_says(client: openai.OpenAI, name: str, whole: Any) -> None:
    answer = client.completions.create(model=name, prompt=PROMPT, temperature=0)
    (choice,) = answer.choices
    assert choice.text == greedy(whole, PROMPT, 16)  # the API's default
    assert choice.finish_reason == "length"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(PROMPT), 16)  # type: ignore[union-attr]
    echoed = client.completions.create(model=name, prompt=PROMPT, temperature=0, echo=True, max_tokens=0)
    assert echoed.choices[0].text == PROMPT


def test_prompts_may_be_many_and_may_be_tokens(client: openai.OpenAI, name: str, whole: Any) -> None:
    prompts = [PROMPT, "z", "A longer prompt than the others"] * 7  # more than are generated together
    answer = client.completions.create(model=name, prompt=prompts, temperature=0, max_tokens=5, n=2)
    assert [choice.index for choice in answer.choices] == list(range(42))
    wanted = [greedy(whole, prompt, 5) for prompt in prompts]
    assert [choice.text for choice in answer.choices] == [text for text in wanted for _ in range(2)]
    tokens = client.completions.create(
        model=name, prompt=[list(prompt.encode()) for prompt in prompts[:3]], temperature=0, max_tokens=5
    )
    assert [choice.text for choice in tokens.choices] == wanted[:3]
    one = client.completions.create(model=name, prompt=list(PROMPT.encode()), temperature=0, max_tokens=5)
    assert one.choices[0].text == wanted[0]


def test_temperature_and_seed_do_what_they_say(client: openai.OpenAI, name: str) -> None:
    def texts(temperature: float, seed: int, **more: Any) -> list[str]:
        answer = client.completions.create(
            model=name, prompt=PROMPT, temperature=temperature, seed=seed, n=3, max_tokens=12, **more
        )
        return [choice.text for choice in answer.choices]

    assert len({*texts(0, 1), *texts(0, 2)}) == 1
    for temperature in (1, 2):
        assert texts(temperature, 1) == texts(temperature, 1)
        assert len({*texts(temperature, 1), *texts(temperature, 2), *texts(temperature, -2)}) == 9
    assert texts(1, 1) != texts(2, 1)
    assert set(texts(2, 5, top_p=1e-6)) == set(texts(0, 0))
    forced = texts(0, 0, logit_bias={"65": 100})
    assert set(forced) == {"A" * 12}
    assert len(set(texts(0, 0, logit_bias={"65": 50, "66": 49}, frequency_penalty=2)[0])) > 1


def test_a_stop_sequence_ends_an_answer_and_is_left_out(client: openai.OpenAI, name: str) -> None:
    ascii_only = {str(token): -100 for token in range(128, 260)}
    settings: dict[str, Any] = {
        "model": name,
        "prompt": PROMPT,
        "max_tokens": 40,
        "seed": 5,
        "temperature": 1,
    }
    settings["logit_bias"] = ascii_only
    text = client.completions.create(**settings).choices[0].text
    assert len(text) == 40
    stop = text[20:24]
    wanted = text[: text.index(stop)]
    for stops in (stop, ["not there", stop, stop + "more"]):
        (choice,) = client.completions.create(**settings, stop=stops).choices
        assert (choice.text, choice.finish_reason) == (wanted, "stop")
        pieces = list(client.completions.create(**settings, stop=stops, stream=True))
        assert "".join(piece.choices[0].text for piece in pieces) == wanted
        assert [piece.choices[0].finish_reason for piece in pieces][-1] == "stop"


REPLACED = "\N{REPLACEMENT CHARACTER}"


def test_log_probabilities_are_the_models_own(client: openai.OpenAI, name: str, whole: Any) -> None:
    import torch

    model, own = whole
    answer = client.completions.create(
        model=name, prompt=PROMPT, echo=True, logprobs=3, max_tokens=4, temperature=0.7, seed=1
    )
    (choice,) = answer.choices
    noted = choice.logprobs
    assert noted
    assert noted.token_logprobs
    assert noted.tokens
    assert noted.top_logprobs
    assert noted.text_offset
    assert noted.token_logprobs.index(None) == noted.top_logprobs.index(None) == 0  # type: ignore[arg-type]
    assert len(noted.tokens) == len(PROMPT) + 4
    assert "".join(noted.tokens[: len(PROMPT)]) == PROMPT
    assert noted.text_offset[: len(PROMPT)] == list(range(len(PROMPT)))
    ids = own(PROMPT, return_tensors="pt").input_ids
    expected = model(ids).logits[0].log_softmax(-1)
    places = torch.arange(len(PROMPT) - 1)
    torch.testing.assert_close(
        torch.tensor(noted.token_logprobs[1 : len(PROMPT)]), expected[places, ids[0, 1:]], atol=1e-4, rtol=0
    )
    for position in range(1, len(PROMPT)):
        best = noted.top_logprobs[position]
        assert max(best.values()) == pytest.approx(float(expected[position - 1].max()), abs=1e-4)
        assert noted.tokens[position] in best


def test_a_chat_follows_the_models_template(client: openai.OpenAI, name: str, whole: Any) -> None:
    messages: list[Any] = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": [{"type": "text", "text": "Who"}, {"type": "text", "text": "?"}]},
    ]
    prompt = "<system>Be short.<user>Who?<assistant>"
    text = greedy(whole, prompt, 8)
    answer = client.chat.completions.create(
        model=name, messages=messages, temperature=0, max_completion_tokens=8, logprobs=True, top_logprobs=2
    )
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == (
        "assistant",
        text,
        "length",
    )
    assert choice.logprobs
    assert choice.logprobs.content
    assert len(choice.logprobs.content) == 8
    for token in choice.logprobs.content:
        assert token.logprob == max(other.logprob for other in token.top_logprobs) <= 0
        assert len(token.top_logprobs) == 2
    rest = client.chat.completions.create(model=name, messages=messages, temperature=0)
    assert rest.usage
    assert rest.usage.total_tokens == CONTEXT
    assert (rest.choices[0].message.content or "").startswith(text.rstrip(REPLACED))


def test_a_streamed_chat_is_the_whole_one(client: openai.OpenAI, name: str) -> None:
    settings: dict[str, Any] = {
        "model": name,
        "messages": [{"role": "user", "content": "é中"}],
        "max_tokens": 30,
        "temperature": 1.0,
        "seed": 11,
        "n": 2,
        "logprobs": True,
    }
    whole = client.chat.completions.create(**settings)
    texts, reasons, roles, noted = {0: "", 1: ""}, {}, set(), {0: 0, 1: 0}
    usage = None
    pieces = client.chat.completions.create(**settings, stream=True, stream_options={"include_usage": True})
    for piece in pieces:
        usage = piece.usage or usage
        for choice in piece.choices:
            texts[choice.index] += choice.delta.content or ""
            roles |= {choice.delta.role} - {None}
            noted[choice.index] += len(choice.logprobs.content or []) if choice.logprobs else 0
            if choice.finish_reason:
                reasons[choice.index] = choice.finish_reason
    assert texts == {choice.index: choice.message.content for choice in whole.choices}
    assert reasons == {0: "length", 1: "length"}
    assert roles == {"assistant"}
    assert noted == {0: 30, 1: 30}
    assert usage == whole.usage


def test_several_requests_at_once_get_what_each_would_alone(
    client: openai.OpenAI, name: str, whole: Any
) -> None:
    prompts = [f"Prompt number {n}" for n in range(8)]

    def ask(prompt: str) -> str:
        pieces = client.completions.create(
            model=name, prompt=prompt, temperature=0, max_tokens=20, stream=True
        )
        return "".join(piece.choices[0].text for piece in pieces)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, prompts)) == [greedy(whole, prompt, 20) for prompt in prompts]


def test_a_client_that_leaves_holds_nobody_up(client: openai.OpenAI, name: str) -> None:
    long = client.completions.create(model=name, prompt=PROMPT, max_tokens=200, n=128, stream=True)
    next(iter(long))
    long.close()
    assert client.completions.create(model=name, prompt="x", max_tokens=1, timeout=60).choices


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "an empty prompt": ({"prompt": ""}, "no token for an empty prompt"),
    "one of several is empty": ({"prompt": ["x", ""]}, "no token for an empty prompt"),
    "no prompt": ({}, "prompt: Field required"),
    "an empty list": ({"prompt": []}, "prompt: it is an empty list"),
    "something else": ({"prompt": [["x"]]}, "prompt: text, a list of texts, a list of token ids or"),
    "unknown tokens": ({"prompt": [1, 260]}, "token ids must be from 0 to 259"),
    "negative tokens": ({"prompt": [[-1]]}, "token ids must be from 0 to 259"),
    "negative max_tokens": ({"prompt": "x", "max_tokens": -1}, "max_tokens: Input should be greater than or"),
    "text for a number": ({"prompt": "x", "max_tokens": "3"}, "max_tokens: Input should be a valid integer"),
    "too hot": ({"prompt": "x", "temperature": 2.1}, "temperature: Input should be less than or equal to 2"),
    "no choices": ({"prompt": "x", "n": 0}, "n: Input should be greater than or equal to 1"),
    "an empty stop": ({"prompt": "x", "stop": ""}, "stop"),
    "five stops": ({"prompt": "x", "stop": list("abcde")}, "stop: List should have at most 4 items"),
    "too many log-probabilities": ({"prompt": "x", "logprobs": 6}, "logprobs: Input should be less than or"),
    "a bias of no token": ({"prompt": "x", "logit_bias": {"a": 1}}, "logit_bias: its keys must be token ids"),
    "a bias of an unknown token": ({"prompt": "x", "logit_bias": {"999": 1}}, "token ids must be from 0"),
    "what it cannot": ({"prompt": "x", "suffix": "y"}, "suffix: not supported by this server"),
    "the best of several": ({"prompt": "x", "best_of": 3}, "best_of is not supported here unless it is n"),
    "two mistakes": (
        {"prompt": "x", "n": 0, "top_p": 0},
        "n: Input should be greater than or equal to 1; top_p",
    ),
    "the context": (
        {"prompt": "x" * 250},
        "the context has 256 tokens, and 266 are asked for: 250 of the prompt",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_completion_is_refused_with_its_reason(case: str, client: openai.OpenAI, name: str) -> None:
    import openai

    body, reason = BAD[case]
    with pytest.raises(openai.BadRequestError) as error:
        client.post("/completions", body={"model": name, **body}, cast_to=object)
    assert reason in error.value.message
    assert error.value.type == "invalid_request_error"
    assert error.value.code == ("context_length_exceeded" if case == "the context" else None)


BAD_CHATS: dict[str, tuple[dict[str, Any], str]] = {
    "nothing said": ({"messages": []}, "messages: List should have at least 1 item"),
    "a role of its own": (
        {"messages": [{"role": "king", "content": "x"}]},
        "messages.0.role: Input should be",
    ),
    "the template's refusal": ({"messages": [{"role": "tool", "content": "x"}]}, "no tools here"),
    "a picture": ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content"),
    "tools": (
        {"messages": [{"role": "user", "content": "x"}], "tools": [{}]},
        "tools: not supported by this",
    ),
    "likeliest of nothing": (
        {"messages": [{"role": "user", "content": "x"}], "top_logprobs": 2},
        "top_logprobs need logprobs: true",
    ),
    "the context": ({"messages": [{"role": "user", "content": "x" * 300}]}, "the context has 256 tokens"),
}


@pytest.mark.parametrize("case", BAD_CHATS)
def test_a_bad_chat_is_refused_with_its_reason(case: str, client: openai.OpenAI, name: str) -> None:
    import openai

    body, reason = BAD_CHATS[case]
    with pytest.raises(openai.BadRequestError) as error:
        client.post("/chat/completions", body={"model": name, **body}, cast_to=object)
    assert reason in error.value.message


def test_what_is_no_request_is_refused_on_a_connection_that_lives(
    endpoint: dict[str, Any], name: str
) -> None:
    import http.client
    import urllib.parse

    place = urllib.parse.urlsplit(endpoint["url"])
    connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=60)
    key = {"Authorization": f"Bearer {KEY}"}
    connection.connect()
    socket = connection.sock
    for method, path, body, status in (
        ("POST", "/v1/completions", "{", 400),
        ("POST", "/v1/completions", "[" * 100_000, 400),
        ("POST", "/v1/completions", "[]", 400),
        ("POST", "/v1/completions", '{"model": "m", "prompt": "\\ud83d"}', 400),
        (
            "POST",
            "/v1/completions",
            json.dumps({"model": name, "prompt": "x", "temperature": float("nan")}),
            400,
        ),
        ("POST", "/v1/completions", b"\xff", 400),
        ("GET", "/v1/completions", None, 405),
        ("POST", "/v1/embeddings", "{}", 404),
        ("GET", "/health", None, 200),
    ):
        connection.request(method, path, body, key)
        answer = connection.getresponse()
        content = json.loads(answer.read())
        assert (answer.status, status == 200 or bool(content["error"]["message"])) == (status, True)
        assert connection.sock is socket


def test_a_key_is_asked_for(endpoint: dict[str, Any], name: str) -> None:
    import openai

    for wrong in ("wrong", KEY + "x", KEY[:-1]):
        other = openai.OpenAI(base_url=endpoint["url"], api_key=wrong, max_retries=0)
        with pytest.raises(openai.AuthenticationError, match="this server wants its API key"):
            other.models.list()
        with pytest.raises(openai.AuthenticationError, match="this server wants its API key"):
            other.completions.create(model=name, prompt="x")
    health = endpoint["url"].removesuffix("/v1") + "/health"
    assert urllib.request.build_opener(urllib.request.ProxyHandler({})).open(health, timeout=60).status == 200
    assert endpoint["url"].startswith("http://127.0.0.1:")


def test_offsets_of_tokens_are_those_of_the_text() -> None:
    from workloads import tokenizer
    from workloads.openai_server.answers import Chat, Completions
    from workloads.openai_server.choices import Delta, Token

    by = tokenizer.existing("bytes")
    tokens = [Token(byte, -1.0) for byte in "a€b".encode()]
    whole = Completions("m", by, True).whole(Delta(0, "a€b", tokens, "stop"))
    assert whole["logprobs"]["text_offset"] == [0, 1, 1, 1, 2]
    whole = Chat("m", by, True).whole(Delta(0, "a€b", tokens, "stop"))
    assert b"".join(bytes(token["bytes"]) for token in whole["logprobs"]["content"]) == "a€b".encode()
