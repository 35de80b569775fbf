"""The tokens of a text in a file, and which documents of it are held out from training.

Tokens are written once, by rank 0, as small integers that every rank maps into memory. Where text comes from is
text.py's; in which order a rank reads the tokens is samples.py's.

Files of a cache, each named by a hash of the sources and the tokenizer:
  KEY.tokens     all documents, one after the other
  KEY.documents  int64 [documents]: the first token of each
  KEY.held-out   int64 [sections, 2]: first token and end of what is held out, in random order
  KEY.json       Corpus
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING

from workloads import metrics, shuffle, text, tokenizer
from workloads.session import Stop

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    import numpy as np
    from transformers import PreTrainedTokenizerBase

    from workloads.session import Session

AT_ONCE = 256  # pieces tokenized in parallel
HELD_OUT_SHARE = 20  # one token in so many
HELD_OUT = 4 << 20  # tokens at most
SECTIONS = 16  # held out at least, so that no document alone decides how hard the held-out text is
SECTION = 1024  # tokens; no document is cut into shorter ones
FORMAT = 2  # of the files; part of their key


class Stream:
    """Spans of a token file, one after the other, read as one sequence."""

    def __init__(self, tokens: np.ndarray, spans: np.ndarray, documents: np.ndarray) -> None:
        """`spans` is int64 [n, 2], first token and end of each; `documents` the first token of each document."""
        self._tokens, self._documents = tokens, documents
        lengths = spans[:, 1] - spans[:, 0]
        self._ends = lengths.cumsum()
        self._offsets = spans[:, 1] - self._ends  # from a place in the sequence to one in the file

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, places: np.ndarray) -> np.ndarray:
        """The tokens at these places of the sequence, in an array of the same shape."""
        taken: np.ndarray = self._tokens[self._in_file(places)]
        return taken

    def document(self, places: np.ndarray) -> np.ndarray:
        """The number of the document that each place belongs to, in an array of the same shape."""
        return self._documents.searchsorted(self._in_file(places), side="right")

    def _in_file(self, places: np.ndarray) -> np.ndarray:
        located: np.ndarray = places + self._offsets[self._ends.searchsorted(places, side="right")]
        return located


@dataclass(frozen=True)
class Corpus:
    """The tokens of some sources: KEY.tokens beside `path`, KEY.json, holds `tokens` integers of type `dtype`."""

    path: str
    dtype: str
    tokens: int
    bytes: int
    unigram_entropy: float  # nats per token: the loss of a model that knows the frequencies only

    def split(self) -> tuple[Stream, Stream]:
        """The tokens for training and those held out."""
        import numpy as np

        tokens = np.memmap(self._file("tokens"), dtype=self.dtype, mode="r")
        documents = np.memmap(self._file("documents"), dtype=np.int64, mode="r")
        held_out = np.fromfile(self._file("held-out"), dtype=np.int64).reshape(-1, 2)
        inner = held_out[held_out[:, 0].argsort()]
        edges = np.concatenate([[0], inner.ravel(), [len(tokens)]]).reshape(-1, 2)
        kept = edges[edges[:, 1] > edges[:, 0]]
        return Stream(tokens, kept, documents), Stream(tokens, held_out, documents)

    def _file(self, suffix: str) -> Path:
        return Path(self.path).with_suffix(f".{suffix}")


def tokenized(
    session: Session, args: argparse.Namespace, vocabulary: int
) -> tuple[PreTrainedTokenizerBase, Corpus]:
    """The tokenizer and the tokens that the options of `options.text` ask for; all ranks call it.

    Raises Stop when there is no such data or tokenizer, or when the model's vocabulary is too small for it.
    """

    def texts() -> Iterator[str]:
        return (piece for piece in text.pieces(args.data) if piece is not None)

    session.first(lambda: text.check(args.data))
    by = tokenizer.make(session, args.tokenizer, args.model, vocabulary=vocabulary, texts=texts)
    return by, prepare(session, args.data, by, Path(args.data_cache or session.run_dir / "data"))


def prepare(session: Session, sources: list[str], by: PreTrainedTokenizerBase, cache: Path) -> Corpus:
    """The tokens of the sources, from the cache folder if they are there; ready on every host when it returns."""

    def make() -> Corpus:
        facts = [FORMAT, tokenizer.fingerprint(by), *map(text.fingerprint, sources)]
        key = hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
        known = cache / f"{key}.json"
        if known.exists():
            return Corpus(**json.loads(known.read_text(encoding="utf-8")))
        cache.mkdir(parents=True, exist_ok=True)
        corpus = _tokenize(sources, by, known)
        metrics.write_atomically(known, asdict(corpus))
        return corpus

    corpus = session.first(make)
    # where the folder is not shared, each other host's first rank makes its own
    own = os.environ["LOCAL_RANK"] == "0" and not Path(corpus.path).exists()
    session.together(lambda: make() if own else None)
    return corpus


def hold_out(documents: np.ndarray, tokens: int) -> np.ndarray:
    """The sections held out of a text of so many tokens: int64 [sections, 2], as the file KEY.held-out.

    `documents` is int64 [documents, 2]: first token, hash of the text.

    A twentieth of the tokens, at most 4 Mi: whole documents, in the order of their hashes, so that the same document
    is held out whatever the order of the sources, and two copies of it stay on one side. Documents longer than a
    sixteenth of what is to be held out are cut into sections no longer than that.
    """
    import numpy as np

    target = min(tokens // HELD_OUT_SHARE, HELD_OUT)
    if not target:
        return np.zeros((0, 2), dtype=np.int64)
    longest = max(target // SECTIONS, min(target, SECTION))
    starts, keys = documents.T
    lengths = np.diff(starts, append=tokens)
    parts = -(-lengths // longest)
    document = np.repeat(np.arange(len(starts)), parts)
    part = np.arange(len(document)) - np.repeat(parts.cumsum() - parts, parts)
    first, end = (lengths[document] * (part + more) // parts[document] for more in (0, 1))
    order = np.argsort(
        shuffle.mix(keys[document].view(np.uint64) ^ shuffle.mix(part.astype(np.uint64))), kind="stable"
    )
    chosen = order[(end - first)[order].cumsum() <= target]
    sections: np.ndarray = np.stack([first, end], axis=1)[chosen] + starts[document[chosen], None]
    return sections


def _tokenize(sources: list[str], by: PreTrainedTokenizerBase, known: Path) -> Corpus:
    """Write the files beside `known`, each under another name until it is whole."""
    import numpy as np

    dtype = next(name for name in ("uint8", "uint16", "uint32") if len(by) <= np.iinfo(name).max + 1)
    halves = {
        name: known.with_suffix(f".{name}.{os.getpid()}") for name in ("tokens", "documents", "held-out")
    }
    with halves["tokens"].open("wb") as tokens, halves["documents"].open("wb") as documents:
        writer = _Writer(by, dtype, tokens, documents)
        read = text.pieces(sources)
        while some := list(islice(read, AT_ONCE)):
            writer.write(some)
    counts = writer.counts
    if not counts.any():
        raise Stop(f"--data {' '.join(sources)}: there is no text in it")
    index = np.fromfile(halves["documents"], dtype=np.int64).reshape(-1, 2)
    hold_out(index, writer.tokens).tofile(halves["held-out"])
    index[:, 0].tofile(halves["documents"])
    for name, half in halves.items():
        half.replace(known.with_suffix(f".{name}"))
    share = counts[counts > 0] / counts.sum()
    return Corpus(
        path=str(known),
        dtype=dtype,
        tokens=writer.tokens,
        bytes=writer.bytes,
        unigram_entropy=float(-(share * np.log(share)).sum()),
    )


class _Writer:
    """Writes documents, each with what the tokenizer puts before a text, and the end token or an empty line after."""

    def __init__(
        self, by: PreTrainedTokenizerBase, dtype: str, tokens: IO[bytes], documents: IO[bytes]
    ) -> None:
        import numpy as np

        self._by, self._dtype, self._tokens, self._documents = by, dtype, tokens, documents
        self._between = "\n\n" if by.eos_token_id is None else ""
        end = tokenizer.encode(by, [self._between], dtype)[0] if self._between else [by.eos_token_id]
        self._end = np.array(end, dtype=dtype)
        self._begin = np.array(tokenizer.beginning(by), dtype=dtype)
        self._open: tuple[int, hashlib.blake2b] | None = None  # first token, and hash of the text until now
        self.counts = np.zeros(len(by), dtype=np.int64)
        self.tokens = self.bytes = 0

    def write(self, pieces: list[str | None]) -> None:
        """Write the next pieces; None ends a document."""
        import numpy as np

        encoded = iter(tokenizer.encode(self._by, [p for p in pieces if p is not None], self._dtype))
        rows, index = [], []
        for piece in pieces:
            if self._open is None:
                self._open = self.tokens, hashlib.blake2b(digest_size=8)
                rows.append(self._begin)
                self.tokens += len(self._begin)
            start, digest = self._open
            raw = (self._between if piece is None else piece).encode()
            rows.append(self._end if piece is None else next(encoded))
            self.tokens += len(rows[-1])
            self.bytes += len(raw)
            digest.update(raw)
            if piece is None:
                index.append((start, int.from_bytes(digest.digest(), "little", signed=True)))
                self._open = None
        ids = np.concatenate(rows)
        ids.tofile(self._tokens)
        self.counts += np.bincount(ids, minlength=len(self.counts))
        np.array(index, dtype=np.int64).tofile(self._documents)
