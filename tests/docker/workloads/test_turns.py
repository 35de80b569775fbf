"""Of a conversation what the assistant says is told apart, by a template's marks and by what it renders before."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("transformers", reason="the train extra is not installed")

from workloads import metrics, tokenizer, turns
from workloads.session import Stop

pytestmark = pytest.mark.torch

CHATML = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
MARKED = (
    "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}<end>{% endgeneration %}{% else %}{{ m.content }}<end>{% endif %}"
    "{{ '\n' }}{% endfor %}"
)
# the kind of template that says thoughts of the last turn alone
FORGETFUL = (
    "{% for m in messages %}<{{ m.role }}>"
    "{% if loop.last %}{{ m.content }}{% else %}{{ m.content.split('|')[-1] }}{% endif %}<end>{% endfor %}"
)
STRICT = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
TALK = [
    {"role": "system", "content": "Be $kind."},
    {"role": "user", "content": "Où est-il?"},
    {"role": "assistant", "content": "Là-bas 🎉"},
    {"role": "user", "content": "Là-bas 🎉"},
    {"role": "assistant", "content": "Yes."},
]


def by(template: str | None) -> Any:
    made = tokenizer.existing("bytes")
    made.chat_template = template
    return made


def trls(name: str) -> str:
    """One of the templates that TRL brings along."""
    trl = pytest.importorskip("trl", reason="the train extra is not installed")
    return (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text()


def said(template: str, messages: Any = TALK, tools: Any = None) -> tuple[str, str]:
    """The whole text, and what of it is learned."""
    own = by(template)
    ids, answered = turns.tokens(own, messages, "--data f.jsonl:7", tools)
    return own.decode(ids), own.decode(
        [token for token, is_said in zip(ids, answered, strict=True) if is_said]
    )


@pytest.mark.parametrize(
    ("template", "end"), [(CHATML, "<end>\n"), (MARKED, "<end>")], ids=["lengths", "marks"]
)
def test_what_the_assistant_says_is_learned_with_its_end(template: str, end: str) -> None:
    whole, learned = said(template)
    assert learned == f"Là-bas 🎉{end}Yes.{end}"
    assert whole.startswith("<system>Be $kind.<end>\n<user>Où est-il?<end>\n<assistant>Là-bas 🎉<end>")


def test_a_token_that_reaches_into_an_answer_is_not_learned() -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {"q": 0, "a": 1, ">": 2, ">a": 3, "<": 4}
    bpe = models.BPE(vocab=words, merges=[(">", "a")])
    own = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(bpe))
    own.chat_template = (
        "q<{% for m in messages %}{% if m.role == 'assistant' %}>{{ m.content }}{% endif %}{% endfor %}"
    )
    own.chat_template += "{% if add_generation_prompt %}>{% endif %}"
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "aa"}]
    assert turns.tokens(own, messages, "") == ([0, 4, 3, 1], [False, False, False, True])


@pytest.mark.parametrize(
    ("template", "messages", "message"),
    [
        (
            FORGETFUL,
            [TALK[1], {"role": "assistant", "content": "hm|so"}, *TALK[3:]],
            "message 2: the chat template",
        ),
        (STRICT, [TALK[1], TALK[1], TALK[2]], "the chat template refuses the messages: roles must alternate"),
        ("{{ messages[0].content }}", TALK, "the chat template renders nothing that the assistant says"),
        (MARKED.replace("'assistant'", "'nobody'"), TALK, "renders nothing that the assistant says"),
    ],
)
def test_a_template_that_cannot_be_used(template: str, messages: Any, message: str) -> None:
    with pytest.raises(Stop) as stop:
        said(template, messages)
    assert stop.value.message.startswith("--data f.jsonl:7: ")
    assert message in stop.value.message


def test_a_tokenizer_without_a_template_is_refused_with_the_way_out() -> None:
    with pytest.raises(Stop, match=r"tokenizer bytes has none: name one in --chat-template FILE"):
        turns.check(by(None), "--data f.jsonl:7")


def test_the_template_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "a $template.jinja"
    file.write_text(CHATML)
    own = by(None)
    turns.adopt(own, str(file))
    assert own.chat_template == CHATML
    turns.adopt(own, None)
    assert own.chat_template == CHATML
    for content, message in (("{% for %}", "the chat template refuses"), (" \n", "the file is empty")):
        file.write_text(content)
        with pytest.raises(Stop, match=message):
            turns.adopt(own, str(file))
    with pytest.raises(Stop, match="No such file"):
        turns.adopt(own, str(tmp_path / "absent"))


def test_an_answer_that_comes_first_is_learned_without_its_header() -> None:
    template = "{% if messages[0].role != 'system' %}<system>Own words.<end>\n{% endif %}" + CHATML
    _, learned = said(template, [{"role": "assistant", "content": "Welcome"}, *TALK[1:3]])
    assert learned == "Welcome<end>\nLà-bas 🎉<end>\n"


@pytest.mark.parametrize("name", ["qwen3", "deepseekv3", "gptoss"])
def test_templates_that_render_turns_otherwise_later_are_trained_with_trls(name: str) -> None:
    template = trls(name)
    _, learned = said(template, TALK[1:])
    assert "Là-bas 🎉" in learned
    assert learned.index("Là-bas 🎉") < learned.index("Yes.")
    assert "Où est-il?" not in learned


DATED = "{% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}\n{% endif %}" + CHATML


def dated(run_dir: Path) -> str:
    """What a conversation becomes in an attempt of a run."""
    own: Any = by(DATED)
    this: Any = SimpleNamespace(run_dir=run_dir, first=lambda work: work())
    log = metrics.Log(run_dir, writes=True)
    turns.keep_date(own, this, log)
    log.close()
    return str(own.decode(turns.tokens(own, TALK, "--data f.jsonl:1")[0]))


def test_a_resumed_run_renders_the_date_of_its_first_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datetime import datetime

    from transformers.utils import chat_template_utils

    monkeypatch.setattr(chat_template_utils, "datetime", datetime)  # as it is put back afterwards
    first = dated(tmp_path)
    (line,) = metrics.read(tmp_path)
    assert first.startswith(datetime.fromisoformat(line["date"]).strftime("%d %b %Y\n<system>"))
    (tmp_path / metrics.FILE).write_text(json.dumps({**line, "date": "2024-02-29T23:59:59+01:00"}) + "\n")
    assert dated(tmp_path).startswith("29 Feb 2024\n<system>")
    assert len(metrics.read(tmp_path)) == 1


def test_a_template_without_a_date_is_left_alone(tmp_path: Path) -> None:
    this: Any = SimpleNamespace(run_dir=tmp_path)  # which nothing is asked of
    turns.keep_date(by(CHATML), this, None)  # type: ignore[arg-type]
    assert not metrics.read(tmp_path)


def test_an_answer_that_the_next_turn_ends_is_trained_with_trls() -> None:
    template = trls("glm4moe")
    assert not turns.endless(by(template), TALK)
    assert said(template)[1].endswith("Yes.<|user|>")
    assert turns.endless(by(CHATML.replace("<end>", "")), TALK)
    assert not turns.endless(by(CHATML), TALK)


def test_the_token_that_ends_an_answer() -> None:
    own = by(CHATML)
    assert turns.end(own, TALK) is None  # it is text
    own.add_tokens(["<end>"], special_tokens=True)
    assert turns.end(own, TALK) == own.convert_tokens_to_ids("<end>")
    own.chat_template = CHATML.replace("<end>", "<end>.")
    assert turns.end(own, TALK) is None


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3", "llama3_1"])
def test_calls_of_tools_are_learned_and_their_answers_are_not(name: str) -> None:
    template = trls(name)
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Łódź"}}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "And in Łódź?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "minus 4", "name": "weather"},
        {"role": "assistant", "content": "Cold."},
    ]
    about = {"name": "weather", "description": "how warm", "parameters": {"type": "object", "properties": {}}}
    whole, learned = said(template, messages, [{"type": "function", "function": about}])
    assert "how warm" in whole
    assert "Be brief." in whole
    assert "weather" in learned
    assert "Cold." in learned
    for unsaid in ("how warm", "Be brief.", "minus 4", "And in"):
        assert unsaid not in learned
