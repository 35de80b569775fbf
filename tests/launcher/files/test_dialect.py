"""Where the YAML of the files differs from what ruamel.yaml reads."""

from __future__ import annotations

import pytest

from launcher.files import document, tuned


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[?a, {?b: c}]", ["?a", {"?b": "c"}]),
        ("[? a : b]", [{"a": "b"}]),
        ("{:a: 1, b: ::1}", {":a": 1, "b": "::1"}),
        ('{"a":1, \'b\':[2], "c" :{"d":null}}', {"a": 1, "b": [2], "c": {"d": None}}),
        ('["a":b, "c":]', [{"a": "b"}, {"c": None}]),
        ("{a:b, c: d:e}", {"a:b": None, "c": "d:e"}),
    ],
)
def test_marks_and_words_in_brackets_are_those_of_yaml_1_2(text: str, value: object) -> None:
    assert document.parse(f"a: {text}", "job.yaml").data == {"a": value}


def test_a_file_that_is_written_anew_keeps_these_words() -> None:
    text = 'name: a\nargs: {prompts: [?why, :0], "b":?c, :d: 1}\ndeepspeed: auto\n'
    changed = tuned.changed(text, {("deepspeed", "preset"): "zero2"})
    before, after = (document.parse(one, "a").data for one in (text, changed))
    assert after == {**before, "deepspeed": "zero2"}
    assert before["args"] == {"prompts": ["?why", ":0"], "b": "?c", ":d": 1}
