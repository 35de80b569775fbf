"""How many examples are cut because they are longer than a model or a job lets them be; Trainers cut without a word."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    Row = Mapping[str, Sequence[int]]


def cut(rows: Iterable[Row], length: int, end: int) -> int:
    """How many of a Trainer's examples are longer than `length` tokens, or were so before they were cut to it.

    A text that is whole has `end`, the end token, last. A pair of answers is cut when it becomes a batch.
    """
    return sum(_is_cut(row, length, end) for row in rows)


def _is_cut(row: Row, length: int, end: int) -> bool:
    if len(row.get("seq_lengths", ())) > 1:
        return False  # several in a pack: one that is cut would fill it
    if "rejected_ids" in row:
        answers = max(len(row["chosen_ids"]), len(row["rejected_ids"]))
        return len(row.get("prompt_ids", ())) + answers > length
    texts = [row[key] for key in ("input_ids", "labels") if key in row]
    return any(len(text) >= length and text[-1] != end for text in texts)
