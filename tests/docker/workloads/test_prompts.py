"""A prompts file: what is a prompt, which lines are not, and which prompts a model has no place for."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from workloads import prompts, session, tokenizer
from workloads.parts import split

if TYPE_CHECKING:
    from pathlib import Path


def test_lines_of_text_are_prompts_and_parts_keep_their_order(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("one\n\n  two \nthree\n")
    read = prompts.read(path)
    assert [(prompt.index, prompt.line, prompt.text) for prompt in read] == [
        (0, 1, "one"),
        (1, 3, "  two "),
        (2, 4, "three"),
    ]
    first, second = split(read, 2)
    assert (first.name, first.prompts, second.name, second.prompts) == (
        "part-00000.jsonl",
        read[:2],
        "part-00001.jsonl",
        read[2:],
    )
    path.write_text("\n")
    with pytest.raises(session.Stop, match="there is no prompt"):
        prompts.read(path)


def test_a_separator_within_a_text_ends_no_line(tmp_path: Path) -> None:
    text = "one\u2028two\x0bthree\x85\x1cfour"
    for name, content in (("a.jsonl", json.dumps({"prompt": text}, ensure_ascii=False)), ("a.txt", text)):
        (tmp_path / name).write_text(f"\ufeff{content}\n", encoding="utf-8")
        assert [prompt.text for prompt in prompts.read(tmp_path / name)] == [text]


def test_every_line_that_is_no_prompt_is_named(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    lines = [
        '{"prompt": "fine", "id": 1}',
        '{"text": 1}',
        "[" * 100_000,
        '{"prompt": ""}',
        "3",
        '{"prompt": 3}',
    ]
    path.write_text("\n".join(lines))
    with pytest.raises(session.Stop) as stop:
        prompts.read(path)
    wrong = 'not a JSON object with a "prompt" that is text'
    assert stop.value.message.splitlines() == [
        "5 prompts cannot be used",
        *(f"{path}:{number}: {wrong}" for number in range(2, 7)),
        "correct these lines of --prompts",
    ]
    path.write_text('{"prompt": "fine \\ud83d\\ude00"}\n{"prompt": "hi", "note": "\\ud83d"}')
    with pytest.raises(session.Stop, match=":2: half of a surrogate pair, which is no character"):
        prompts.read(path)
    path.write_text("3\n" * 100)
    with pytest.raises(session.Stop) as stop:
        prompts.read(path)
    assert stop.value.message.splitlines()[-2] == "… and 80 more lines"


@pytest.mark.torch
def test_prompts_are_held_against_the_models_positions(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("four\nsixsix\n")
    read, own = prompts.read(path), tokenizer.existing("bytes")
    prompts.check_lengths(path, read, own, positions=8, new_tokens=2)
    prompts.check_lengths(path, read, own, positions=None, new_tokens=200)
    with pytest.raises(session.Stop) as stop:
        prompts.check_lengths(path, read, own, positions=6, new_tokens=2)
    assert stop.value.message.splitlines() == [
        "1 prompts cannot be used",
        f"{path}:2: 6 tokens and --max-new-tokens 2 are 8",
        "the model has 6 positions: shorten these prompts, or take a model with more",
    ]
