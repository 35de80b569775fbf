"""Stacks as text: the verdict, each stack once, and nothing that a terminal would obey."""

from __future__ import annotations

from typing import Any

from launcher.reports import stacks


def rank(number: int, host: str, *frames: str, **more: Any) -> dict[str, Any]:
    threads = (
        [[[f"/code/{name}.py", line, name, ""] for line, name in enumerate(frames, 1)]] if frames else []
    )
    return {
        "rank": number,
        "host": host,
        "step": 4,
        "state": "S",
        "wchan": "",
        "why": "",
        "threads": threads,
        **more,
    }


def test_each_stack_once() -> None:
    found = {
        "verdict": "2 of 4 ranks wait",
        "absent": ["c"],
        "ranks": [
            rank(0, "a", "reduce", "main", wchan="futex_wait"),
            rank(1, "a", "load", "main", step=None),
            rank(2, "b", "reduce", "main", wchan="futex_wait"),
            rank(3, "b", state="T", why="it did not answer the signal"),
        ],
    }
    assert stacks.text(found) == (
        "2 of 4 ranks wait\n\n"
        "rank 0 on a, 2 on b: state S, in the kernel futex_wait, step 4\n"
        "  /code/reduce.py:1 reduce\n  /code/main.py:2 main\n\n"
        "rank 1 on a: state S\n  /code/load.py:1 load\n  /code/main.py:2 main\n\n"
        "rank 3 on b: state T, step 4\n  no stack: it did not answer the signal\n\n"
        "no answer from c"
    )


def test_long_lists_are_cut() -> None:
    found = {"verdict": "v", "absent": [], "ranks": [rank(n, "a", *("f" * 40)) for n in range(20)]}
    text = stacks.text(found)
    assert "7 on a and 12 more: " in text
    assert len(text.splitlines()) < 20


def test_escapes_are_shown() -> None:
    assert "\x1b" not in stacks.text({"verdict": "\x1b[31m", "absent": [], "ranks": [rank(0, "\x1b", "f")]})
