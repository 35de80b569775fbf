"""Names in the words of a program of the user's own (docker/expansion.py)."""

from __future__ import annotations

import importlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

expansion = importlib.import_module("expansion")
VALUES = {"RUN_DIR": "/runs/it's $HOME", "RANK": "0"}


@pytest.mark.parametrize(
    ("word", "expanded"),
    [
        ("$RUN_DIR", "/runs/it's $HOME"),
        ("--out=${RUN_DIR}/x-$RANK", "--out=/runs/it's $HOME/x-0"),
        ("$$RUN_DIR", "$RUN_DIR"),
        ("$$$RANK", "$0"),
        ("$(touch pwned) `x` $1 $ $é a$", "$(touch pwned) `x` $1 $ $é a$"),
        ("$RANK$RANK", "00"),
        ("$RANK.5", "0.5"),
    ],
)
def test_names_become_their_values_and_all_else_is_text(word: str, expanded: str) -> None:
    assert expansion.expand(word, VALUES) == expanded


@pytest.mark.parametrize(
    ("word", "name"), [("$HOME", "HOME"), ("${RUN_DIR:-x}", "{"), ("$RANKS", "RANKS"), ("${}", "{")]
)
def test_what_has_no_value_is_an_error(word: str, name: str) -> None:
    assert list(expansion.references(word)) == [name]
    with pytest.raises(KeyError) as caught:
        expansion.expand(word, VALUES)
    assert caught.value.args == (name,)


@pytest.mark.heavy  # many examples
@given(st.text(), st.text())
def test_any_text_survives(text: str, value: str) -> None:
    assert expansion.expand(text.replace("$", "$$"), {}) == text
    assert expansion.expand("${RUN_DIR}", {"RUN_DIR": value}) == value
