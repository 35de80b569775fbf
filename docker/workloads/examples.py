"""Examples to learn from, one JSON object each: prompts, answers, and pairs of a better and a worse answer.

Owns their sources and keys, and the built-in ones, made from Python's own documentation so that every workload can be
tried without a download; text without such a form is text.py's.

    {"text": …}                              continue pretraining
    {"prompt": …, "completion": …}           learn the answer
    {"prompt": …, "chosen": …, "rejected": …}    learn which answer is better
"""

from __future__ import annotations

import json
import math
import random
import re
from typing import TYPE_CHECKING, Any

from workloads import text
from workloads.session import Stop

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

    from workloads.session import Session

    Row = dict[str, Any]

HELD_OUT = 0.05  # of the examples, for evaluation
BUILTIN = 2000


def read(session: Session, sources: list[str], *keys: str) -> tuple[list[Row], list[Row]]:
    """The examples of all sources for training, and those held out for evaluation; all ranks call it.

    Which they are does not depend on the number of ranks.

    Each has `keys`, whose values are text that is not empty. Raises Stop, naming the line, where one has not.
    """
    rows = session.together(lambda: [row for source in sources for row in _source(source, keys)])
    held_out = max(1, int(len(rows) * HELD_OUT))
    if len(rows) < 2:
        raise Stop(
            f"--data {' '.join(sources)}: {len(rows)} examples are too few: one at least is held out for evaluation"
        )
    random.Random(0).shuffle(rows)
    return rows[held_out:], rows[:held_out]


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


def _source(source: str, keys: tuple[str, ...]) -> Iterator[Row]:
    if source == "builtin":
        yield from builtin(keys)
    elif source.startswith("hf:"):
        for number, row in enumerate(text.hugging_face(source.removeprefix("hf:")), 1):
            yield checked(row, keys, f"--data {source}: example {number}")
    else:
        for path in text.files(source):
            with path.open(encoding="utf-8", errors="replace") as file:
                for number, line in enumerate(file, 1):
                    yield checked(_parsed(line), keys, f"--data {path}:{number}")


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def checked(row: Any, keys: tuple[str, ...], place: str) -> Row:
    """The row with `keys` alone. Raises Stop when one is missing, empty or not text."""
    if isinstance(row, dict) and all(isinstance(row.get(key), str) and row[key] for key in keys):
        return {key: row[key] for key in keys}
    raise Stop(f"{place}: not a JSON object with {', '.join(keys)} that are text and not empty")


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
        yield {key: example[key] for key in keys}
