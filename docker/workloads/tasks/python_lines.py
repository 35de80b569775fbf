"""The rows of python_lines.yaml: lines of Python's own documentation, each with the end of another one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset


def rows(**_: Any) -> dict[str, Dataset]:
    """The lines that look like statements, cut after their first word; the wrong end is that of the next such line."""
    from pydoc_data.topics import topics

    from datasets import Dataset

    lines = [line.strip().split(" ", 1) for text in topics.values() for line in text.splitlines()]
    kept = [
        line
        for line in lines
        if len(line) == 2 and line[0] in ("for", "if", "import", "while", "return", "def")
    ]
    others = [*kept[1:], kept[0]]
    questions = [
        {"start": start, "right": end, "wrong": other}
        for (start, end), (_, other) in zip(kept, others, strict=True)
        if end != other
    ]
    return {"test": Dataset.from_list(questions[:64])}
