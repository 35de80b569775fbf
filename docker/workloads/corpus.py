"""The tokens of a text on disk, and which of them are for training and which are held out.

Tokens are written once (cache.py) as small integers that every rank maps into memory. Where text comes from is
sources.py's; in which order a rank reads the tokens is samples.py's.

A corpus is a folder, named by a hash of the sources, the tokenizer and this format:
  NNNNN.bin, NNNNN.idx  its shards, in Megatron's format (megatron.py), each of one source
  held-out              int64 [sections, 2]: first token and end of what is held out, in random order
  corpus.json           Corpus; without it the folder is not finished
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workloads import cache, cores, metrics, readers, tokenizer, waiting
from workloads.token_shards import Entry, Shards

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    import numpy as np
    from transformers import PreTrainedTokenizerBase

    from workloads.session import Session

WAIT = 60.0  # minutes


class Stream:
    """Spans of the tokens, one after the other, read as one sequence."""

    def __init__(self, tokens: Shards, spans: np.ndarray) -> None:
        """`spans` is int64 [n, 2]: first token and end of each."""
        self._tokens = tokens
        lengths = spans[:, 1] - spans[:, 0]
        self._ends = lengths.cumsum()
        self._offsets = spans[:, 1] - self._ends  # from a place in the sequence to one in the shards

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, places: np.ndarray) -> np.ndarray:
        """The tokens at these places of the sequence, in an array of the same shape."""
        return self._tokens[self._in_shards(places)]

    def document(self, places: np.ndarray) -> np.ndarray:
        """The number of the document that each place belongs to, in an array of the same shape."""
        return self._tokens.document(self._in_shards(places))

    def _in_shards(self, places: np.ndarray) -> np.ndarray:
        located: np.ndarray = places + self._offsets[self._ends.searchsorted(places, side="right")]
        return located


@dataclass(frozen=True)
class Corpus:
    """The tokens of some sources, as corpus.json tells of them."""

    format: int
    sources: list[str]  # as given
    tokenizer: str  # as given
    dtype: str
    vocabulary: int
    tokens: int
    documents: int
    bytes: int  # of text; files of tokens have none
    unigram_entropy: float  # nats per token: the loss of a model that knows the frequencies only
    longest_document: int  # tokens
    shards: list[list[Any]]  # name, tokens, documents
    source_shards: list[int]  # how many are of each source
    continued: list[str]  # shards whose first document is the rest of the last one of the shard before
    seconds: float  # processor seconds of tokenizing
    created: str
    path: str = field(default="", compare=False)  # the folder

    def split(self) -> tuple[Stream, Stream]:
        """The tokens for training and those held out."""
        kept, held_out = self._spans()
        return Stream(self._shards(), kept), Stream(self._shards(), held_out)

    def training(self) -> list[Stream]:
        """The tokens for training, of each source apart."""
        import numpy as np

        kept, _ = self._spans()
        counts = [tokens for _, tokens, _ in self.shards]
        ends = list(itertools.accumulate(counts, initial=0))
        edges = [ends[n] for n in itertools.accumulate(self.source_shards, initial=0)]
        streams = []
        for first, end in itertools.pairwise(edges):
            inside = np.clip(kept, first, end)
            streams.append(Stream(self._shards(), inside[inside[:, 1] > inside[:, 0]]))
        return streams

    def _spans(self) -> tuple[np.ndarray, np.ndarray]:
        import numpy as np

        held_out = np.fromfile(Path(self.path) / cache.HELD_OUT, dtype=np.int64).reshape(-1, 2)
        inner = held_out[held_out[:, 0].argsort()]
        edges = np.concatenate([[0], inner.ravel(), [self.tokens]]).reshape(-1, 2)
        return edges[edges[:, 1] > edges[:, 0]], held_out

    def _shards(self) -> Shards:
        entries = [
            Entry(name, tokens, documents, name in self.continued) for name, tokens, documents in self.shards
        ]
        return Shards(Path(self.path), self.dtype, entries)


def read(folder: Path) -> Corpus:
    """The corpus in a folder, which is marked as used."""
    known = folder / cache.COMPLETE
    facts = json.loads(known.read_text(encoding="utf-8"))
    cache.mark_used(known)
    names = {one.name for one in dataclasses.fields(Corpus)} - {"path"}
    return Corpus(**{name: fact for name, fact in facts.items() if name in names}, path=str(folder))


def tokenized(
    session: Session, args: argparse.Namespace, vocabulary: int
) -> tuple[PreTrainedTokenizerBase, Corpus]:
    """The tokenizer and the tokens that the options of `data_options.text` ask for; all ranks call it.

    Raises Stop when there is no such data or tokenizer, or when the model's vocabulary is too small for it.
    """
    wait, place = args.data_wait, cache.place(args.data_cache, session.run_dir)

    def train(name: str) -> str:
        own = session.run_dir / "tokenizer"
        return waiting.first(session, lambda: cache.trained(name, args.data, place, own), wait)

    by = session.together(lambda: tokenizer.choose(args.tokenizer, args.model, vocabulary, train))
    return by, prepare(session, args.data, by, place, wait=wait)


def prepare(
    session: Session, words: list[str], by: PreTrainedTokenizerBase, place: Path, *, wait: float = WAIT
) -> Corpus:
    """The tokens of the sources that `words` name, from the cache folder if they are there, on every rank.

    The first rank of each host makes them with all its cores; the others wait, `wait` minutes at most.
    """

    def make(look: Callable[[], None]) -> Corpus:
        log = metrics.Log(session.run_dir, session.rank == 0)
        try:
            making = cache.Making(processes=cores.usable(), log=log, minutes=wait, look=look)
            folder = cache.make(words, by, place, making)
            readers.hold(folder)
            return read(folder)
        finally:
            log.close()

    return waiting.each_host(session, make, wait)
