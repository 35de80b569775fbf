"""Examples to learn from: prompts, answers, conversations, and pairs of a better and a worse answer.

Owns which are held out, in what order they come, and the built-in ones, made from Python's own documentation so that
every workload can be tried without a download. Their forms are formats.py's, files are rows.py's.
"""

from __future__ import annotations

import math
import random
import re
from typing import TYPE_CHECKING

from workloads import formats, rows, text
from workloads.formats import Row
from workloads.session import Stop

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np

    from workloads.formats import Form
    from workloads.session import Session

HELD_OUT = 0.05  # of the examples, for evaluation
BUILTIN = 2000


def read(
    session: Session, sources: list[str], forms: Sequence[Form], columns: Sequence[tuple[str, str]] = ()
) -> tuple[list[Row], list[Row]]:
    """The examples of all sources for training, and those held out for evaluation; all ranks call it.

    Which they are does not depend on the number of ranks. Each has one of `forms`, in columns that may be called
    otherwise. Raises Stop, naming the line, for one that has none.
    """
    if wrong := formats.mistake(columns, forms):
        raise Stop(wrong)
    read = session.together(lambda: [row for s in sources for row in _source(s, forms, dict(columns))])
    held_out = max(1, int(len(read) * HELD_OUT))
    if len(read) < 2:
        raise Stop(
            f"--data {' '.join(sources)}: {len(read)} examples are too few: one at least is held out for evaluation"
        )
    random.Random(0).shuffle(read)
    return read[held_out:], read[:held_out]


def order(count: int, positions: int, seed: int) -> np.ndarray:
    """Which of `count` examples is at each position of a run: each once an epoch, and every epoch in another order."""
    import numpy as np

    epochs = range(math.ceil(positions / count))
    return np.concatenate([np.random.default_rng([seed, epoch]).permutation(count) for epoch in epochs])[
        :positions
    ]


def evaluation_size(held_out: int, total: int) -> int:
    """How many held-out examples are evaluated: the most that any cut of a step of `total` divides, or fills."""
    if held_out >= total:
        return held_out // total * total
    return max(part for part in range(1, held_out + 1) if total % part == 0)


def evaluated(held_out: int, total: int, ranks: int) -> list[int]:
    """Which held-out examples are evaluated: each as often as the others, and as many as `ranks` divide.

    Where they are fewer than a step has samples, they come several times, so that means are theirs for any ranks.
    """
    size = evaluation_size(held_out, total)
    return [place % size for place in range(math.lcm(size, ranks))]


def _source(source: str, forms: Sequence[Form], columns: dict[str, str]) -> Iterator[Row]:
    if source == "builtin":
        # of the forms that answers have, the one that all of them are made for
        yield from builtin(("prompt", "completion") if ("prompt", "completion") in forms else forms[0])
        return
    for place, row in rows.read(source):
        yield formats.example(row, place, forms, columns)


def builtin(keys: tuple[str, ...]) -> Iterator[Row]:
    """Sentences of Python's documentation, cut in two; the better answer is in lower case, the worse in upper case."""
    whole = "\n".join(piece for piece in text.pieces(["builtin"]) if piece)
    sentences = re.findall(r"[A-Z][a-z][^.\n*`|]{30,70}\.", re.sub(r"\n +", " ", whole))
    for sentence in sentences[:BUILTIN]:
        words = sentence.split()
        prompt, rest = " ".join(words[:3]), " " + " ".join(words[3:9])
        example = {
            "text": sentence,
            "prompt": prompt,
            "completion": rest.lower(),
            "chosen": rest.lower(),
            "rejected": rest.upper(),
        }
        yield Row({key: example[key] for key in keys})
