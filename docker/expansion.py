"""The names that a program of the user's own may write in its words: `$RUN_DIR`, `${RANK}`; `$$` is a dollar.

Owns the grammar and which names there are; their values are the rank's environment. No shell reads the words, so
`$(…)`, quotes and blanks are text.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# What the plan knows, and what only a host or rank does.
NAMES = {
    "RUN_DIR": "the run folder, for checkpoints and logs",
    "DEEPSPEED_CONFIG": "DeepSpeed's configuration, a JSON file",
    "MODEL": "the job's `model:`",
    "BATCH_MICRO": "`batch.micro`: samples of a rank at a time",
    "BATCH_ACCUMULATION": "micro batches of a step",
    "BATCH_GLOBAL": "samples of a step",
    "CHECKPOINT_EVERY": "`checkpoint.every`: steps",
    "CHECKPOINT_KEEP": "`checkpoint.keep`",
    "RESUME_FROM": "`checkpoint.resume` as a folder; empty without one",
    "HOSTFILE": "lines of `host slots=N`",
    "MASTER_ADDR": "the first host",
    "MASTER_PORT": "a free port there",
    "NNODES": "how many hosts",
    "NODE_RANK": "this host's index",
    "NPROC_PER_NODE": "slots of a host",
    "WORLD_SIZE": "slots of all hosts",
    "RANK": "this rank",
    "LOCAL_RANK": "this rank's index on its host",
}
# With one process a host it is the program that numbers its ranks.
OF_A_RANK = ("RANK", "LOCAL_RANK")

_REFERENCE = re.compile(
    r"\$(?:(?P<dollar>\$)|(?P<name>[A-Za-z_]\w*)|\{(?P<braced>[A-Za-z_]\w*)\}|(?P<open>\{))", re.ASCII
)


def references(word: str) -> Iterator[str]:
    """The names that `word` refers to; `{` for a brace that holds no name."""
    for match in _REFERENCE.finditer(word):
        if not match["dollar"]:
            yield match["name"] or match["braced"] or match["open"]


def expand(word: str, values: Mapping[str, str]) -> str:
    """`word` with the value of each name. Raises KeyError with a name that has none."""

    def value(match: re.Match[str]) -> str:
        return "$" if match["dollar"] else values[match["name"] or match["braced"] or match["open"]]

    return _REFERENCE.sub(value, word)
