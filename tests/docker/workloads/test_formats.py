"""The forms of an example, columns by other names, and one message for each way a row can be wrong."""

from __future__ import annotations

import argparse
import json
from typing import Any

import pytest
from workloads import formats
from workloads.session import Stop

USER, ANSWER = {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}


def read(row: Any, forms: Any = formats.ANSWERS, **columns: str) -> formats.Row:
    return formats.example(row, "--data f.jsonl:7", forms, columns)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"messages": [USER, ANSWER], "id": 3}, {"messages": [USER, ANSWER]}),
        ({"prompt": "a", "completion": "b", "text": "ab"}, {"prompt": "a", "completion": "b"}),
        ({"instruction": "a", "input": "", "output": "b"}, {"instruction": "a", "output": "b"}),
        (
            {"instruction": "a", "input": "i", "output": "b"},
            {"instruction": "a", "output": "b", "input": "i"},
        ),
        ({"text": "ab", "prompt": "a"}, {"text": "ab"}),
    ],
)
def test_the_first_form_that_a_row_has(row: Any, expected: Any) -> None:
    assert read(row) == expected
    assert read(row).place == "--data f.jsonl:7"


def test_columns_by_other_names_choose_the_form() -> None:
    row = {"question": "a", "answer": "b", "text": "not this", "messages": []}
    assert read(row, prompt="question", completion="answer") == {"prompt": "a", "completion": "b"}
    assert read({"q": "a", "output": "b", "ctx": "c"}, instruction="q", input="ctx") == {
        "instruction": "a",
        "output": "b",
        "input": "c",
    }
    turns = [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]
    assert read({"conversations": turns}, messages="conversations") == {"messages": [USER, ANSWER]}


def test_pairs_of_messages_have_what_both_begin_with_as_their_prompt() -> None:
    other = {"role": "assistant", "content": "5"}
    row = {"prompt": "2+2?", "chosen": [USER, ANSWER], "rejected": [USER, other]}
    whole = {"prompt": [USER], "chosen": [ANSWER], "rejected": [other]}
    assert read(row, formats.PAIRS) == whole
    assert read({key: row[key] for key in ("chosen", "rejected")}, formats.PAIRS) == whole
    assert read(whole, formats.PAIRS) == whole
    assert read({**whole, "chosen": [USER, ANSWER], "rejected": [USER, other]}, formats.PAIRS) == whole
    text = {"prompt": "2+2?", "chosen": "4", "rejected": "5"}
    assert read(text, formats.PAIRS) == text


TOOL = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}


def test_an_assistant_may_call_a_tool_instead_of_speaking() -> None:
    messages = [USER, TOOL, {"role": "tool", "content": "4"}, ANSWER]
    assert read({"messages": messages})["messages"] == messages


def called(function: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": [{"function": function, **more}]}


def test_arguments_of_a_tool_that_are_json_become_what_templates_take() -> None:
    row = {"messages": [USER, called({"name": "f", "arguments": '{"a": [1, "é"]}'}, id="1"), ANSWER]}
    (call,) = read(row)["messages"][1]["tool_calls"]
    assert call == {"function": {"name": "f", "arguments": {"a": [1, "é"]}}, "id": "1"}
    flat = {"role": "assistant", "tool_calls": [{"name": "f"}]}
    assert read({"messages": [USER, flat, ANSWER]})["messages"][1]["tool_calls"] == [
        {"name": "f", "arguments": {}}
    ]


def test_tools_stand_beside_messages_as_a_list_or_as_its_json() -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    for given in (tools, json.dumps(tools)):
        assert read({"messages": [USER, ANSWER], "tools": given})["tools"] == tools
        assert read({"messages": [USER, ANSWER], "t": given}, tools="t")["tools"] == tools
    assert "tools" not in read({"messages": [USER, ANSWER], "tools": None})


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"tools": "f"}, "tools that are no JSON: Expecting value"),
        ({"tools": {"f": 1}}, "tools is an object, not a list of tools"),
        ({"tools": ["f"]}, "tools is a list, not a list of tools, each an object"),
        (
            {"messages": [USER, {"role": "assistant", "tool_calls": "f"}]},
            "message 2 has a tool call that is not",
        ),
        ({"messages": [USER, called({"arguments": {}})]}, "message 2 has a tool call that is not"),
        (
            {"messages": [USER, called({"name": "f", "arguments": "{"})]},
            "message 2 has arguments of the tool f that are no JSON",
        ),
        (
            {"messages": [USER, called({"name": "f", "arguments": "[1]"})]},
            "message 2 has arguments of the tool f that are a list, not an object",
        ),
    ],
)
def test_what_is_wrong_with_tools_is_said(row: Any, message: str) -> None:
    with pytest.raises(Stop) as stop:
        read({"messages": [USER, ANSWER], **row})
    assert stop.value.message.startswith("--data f.jsonl:7: ")
    assert message in stop.value.message


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([1], "not an object with columns, but a list"),
        ("text", "not an object with columns, but text"),
        (
            {"question": "a"},
            "no column messages, or prompt and completion, or instruction and output, or text; it has question: name "
            "them in --columns messages=COLUMN",
        ),
        ({"prompt": "a", "completion": ""}, "completion is empty"),
        ({"prompt": "a", "completion": None}, "completion is empty"),
        ({"prompt": 5, "completion": "b"}, "prompt is a number, not text"),
        ({"text": ["a"]}, "text is a list, not text"),
        ({"messages": []}, "messages is empty"),
        ({"messages": "hello"}, "messages is text, not a list of messages"),
        ({"messages": ["hello"]}, 'messages: message 1 is not {"role": …, "content": …}'),
        (
            {"messages": [USER, {"role": "bot", "content": "4"}]},
            "messages: message 2 has the role 'bot', which is none of system, developer, user, assistant, tool",
        ),
        ({"messages": [{"role": "user", "content": ""}, ANSWER]}, "messages: message 1 has no content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image"}]}, ANSWER]},
            "messages: message 1 has content that is a list, not text",
        ),
        (
            {"messages": [ANSWER, USER]},
            "messages ends with the role 'user': the last message must be the assistant's, to be learned",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_place(row: Any, message: str) -> None:
    with pytest.raises(Stop) as stop:
        read(row)
    assert str(stop.value.message) == f"--data f.jsonl:7: {message}"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"chosen": "a", "rejected": "b"}, "must all be text"),
        ({"prompt": "p", "chosen": [USER, ANSWER], "rejected": "b"}, "must all be text"),
        (
            {"chosen": [USER, ANSWER], "rejected": [USER, ANSWER]},
            "are the same, or begin with no message in common",
        ),
        (
            {"prompt": [USER, ANSWER], "chosen": [ANSWER], "rejected": [ANSWER]},
            "prompt ends with the assistant",
        ),
    ],
)
def test_what_is_wrong_with_a_pair(row: Any, message: str) -> None:
    with pytest.raises(Stop, match=message):
        read(row, formats.PAIRS)


def test_a_missing_column_is_called_as_the_job_calls_it() -> None:
    with pytest.raises(
        Stop, match=r"f\.jsonl:7: no column question and answer; it has question, reply: name"
    ):
        read({"question": "a", "reply": "b"}, prompt="question", completion="answer")


@pytest.mark.parametrize("word", ["prompt", "prompt=", "=question", "answer=b", ""])
def test_a_word_that_is_no_column(word: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="KEY=COLUMN with a KEY of messages, tools, prompt"):
        formats.column(word)


def test_a_column_may_be_called_anything() -> None:
    word = formats.column("prompt=a = b,$c\n")
    assert formats.columns(argparse.Namespace(columns=[word])) == [("prompt", "a = b,$c\n")]


def test_columns_that_do_not_go_together() -> None:
    assert formats.mistake([("prompt", "a"), ("prompt", "b")], formats.ANSWERS) == (
        "--columns names the column of 'prompt' twice"
    )
    assert "no form of example has these keys" in formats.mistake([("chosen", "a")], formats.ANSWERS)
    assert "no form" in formats.mistake([("messages", "a"), ("prompt", "b")], formats.ANSWERS)
    assert formats.mistake([("input", "a")], formats.ANSWERS) == ""


def test_all_texts_of_an_example() -> None:
    assert list(formats.texts(read({"messages": [USER, TOOL, ANSWER]}))) == ["2+2?", "4"]
    assert list(formats.texts(read({"prompt": "a", "completion": "b"}))) == ["a", "b"]
