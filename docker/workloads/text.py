"""Text as training data: where it comes from, its tokens in a file, and which of them a rank sees at which step.

Owns sources, the token files and the order of samples. Tokens are made once, by rank 0, into a file of small integers
that every rank maps into memory; what is done with a batch is the workload's.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import platform
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workloads import metrics, tokenizer
from workloads.session import Stop

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    import numpy as np
    import torch
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from workloads import engines
    from workloads.session import Session

    Batch = tuple[
        torch.Tensor, torch.Tensor
    ]  # inputs and the tokens that follow them: int64 [samples, length]

SUFFIXES = (".txt", ".md", ".jsonl")
PIECE = 1 << 16  # characters read and tokenized as one, cut at a line's end
AT_ONCE = 256  # pieces tokenized in parallel
HELD_OUT = 4 << 20  # tokens held out for evaluation at most
FORMAT = 1  # of the token files; part of their key


@dataclass(frozen=True)
class Corpus:
    """The tokens of some sources: `path` holds `tokens` integers of type `dtype`."""

    path: str
    dtype: str
    tokens: int
    bytes: int
    unigram_entropy: float  # nats per token: the loss of a model that knows the frequencies only

    def split(self) -> tuple[np.ndarray, np.ndarray]:
        """The tokens for training and those held out (the last twentieth, at most 4 Mi), mapped into memory."""
        import numpy as np

        tokens = np.memmap(self.path, dtype=self.dtype, mode="r")
        kept = len(tokens) - min(len(tokens) // 20, HELD_OUT)
        return tokens[:kept], tokens[kept:]


@dataclass(frozen=True)
class Data:
    """What a rank trains and is evaluated on."""

    tokenizer: PreTrainedTokenizerBase
    corpus: Corpus
    samples: Samples
    evaluation: list[Batch]  # empty without --eval-every


def load(
    session: Session,
    args: argparse.Namespace,
    settings: PretrainedConfig,
    size: engines.BatchSize,
    reader: Session,
) -> Data:
    """The data that the options of `options.text` ask for, to train this model with this batch; all ranks call it.

    `reader` is the session as the data sees it: ranks with the same one read the same samples. Raises Stop when there
    is no such data or tokenizer, or when it does not fit the model or the batch.
    """
    by, corpus = tokenized(session, args, settings.vocab_size)
    training, held_out = corpus.split()
    samples = Samples(training, args.seq_length, args.seed)
    check_lengths(samples, size.total, settings)
    evaluated = evaluation(held_out, args, size.micro, reader) if args.eval_every else []
    return Data(by, corpus, samples, evaluated)


def tokenized(
    session: Session, args: argparse.Namespace, vocabulary: int
) -> tuple[PreTrainedTokenizerBase, Corpus]:
    """The tokenizer and the tokens that the options of `options.text` ask for; all ranks call it.

    Raises Stop when there is no such data or tokenizer, or when the model's vocabulary is too small for it.
    """

    def check() -> None:
        for source in args.data:
            if source != "builtin" and not source.startswith("hf:"):
                files(source)

    def texts() -> Iterator[str]:
        return (piece for piece in pieces(args.data) if piece is not None)

    session.first(check)
    by = tokenizer.make(session, args.tokenizer, args.model, vocabulary, texts)
    return by, prepare(session, args.data, by, Path(args.data_cache or session.run_dir / "data"))


def pieces(sources: list[str]) -> Iterator[str | None]:
    """The text of all sources in pieces of at most a few dozen kilobytes; None ends a document."""
    for source in sources:
        if source == "builtin":
            yield from _builtin()
        elif source.startswith("hf:"):
            yield from _hugging_face(source.removeprefix("hf:"))
        else:
            for path in files(source):
                yield from _file(path)


def prepare(session: Session, sources: list[str], by: PreTrainedTokenizerBase, cache: Path) -> Corpus:
    """The tokens of the sources, from the cache folder if they are there; ready on every host when it returns."""

    def make() -> Corpus:
        facts = [FORMAT, tokenizer.fingerprint(by), *map(_facts, sources)]
        key = hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
        known = cache / f"{key}.json"
        if known.exists():
            return Corpus(**json.loads(known.read_text(encoding="utf-8")))
        cache.mkdir(parents=True, exist_ok=True)
        corpus = _tokenize(sources, by, cache / f"{key}.tokens")
        metrics.write_atomically(known, asdict(corpus))
        return corpus

    corpus = session.first(make)
    # where the folder is not shared, each other host's first rank makes its own
    own = os.environ["LOCAL_RANK"] == "0" and not Path(corpus.path).exists()
    session.together(lambda: make() if own else None)
    return corpus


class Samples:
    """Training samples in a random order that depends on seed and position alone.

    Position p is the p-th sample since the run's first step. It is the same window of tokens in every run with the
    same text, sample length and seed, whatever the number of ranks and restarts. Each epoch has another order.
    """

    def __init__(self, tokens: np.ndarray, length: int, seed: int) -> None:
        self.length = length
        self._tokens, self._seed = tokens, seed
        self._orders: dict[int, np.ndarray] = {}
        self.per_epoch = max(0, (len(tokens) - 1) // length)

    def share(self, first: int, size: engines.BatchSize, session: Session) -> Iterator[Batch]:
        """This rank's micro batches of the step whose global batch begins at position `first`."""
        import numpy as np

        for index in range(size.accumulation):
            start = first + (index * session.world_size + session.rank) * size.micro
            yield self.batch(np.arange(start, start + size.micro))

    def batch(self, positions: np.ndarray) -> Batch:
        """The samples at these positions."""
        import numpy as np

        epochs, places = np.divmod(positions, self.per_epoch)
        starts = [self._starts(epoch)[place] for epoch, place in zip(epochs.tolist(), places, strict=True)]
        return windows(self._tokens, np.array(starts), self.length)

    def _starts(self, epoch: int) -> np.ndarray:
        import numpy as np

        if epoch not in self._orders:
            if len(self._orders) > 1:  # a step reaches from one epoch into the next at most
                self._orders.clear()
            random = np.random.default_rng([self._seed, epoch])
            shift = random.integers((len(self._tokens) - 1) % self.length + 1)
            starts = shift + self.length * np.arange(self.per_epoch, dtype=np.int64)
            self._orders[epoch] = random.permutation(starts)
        return self._orders[epoch]


def windows(tokens: np.ndarray, starts: np.ndarray, length: int) -> Batch:
    """The samples whose inputs begin at `starts`."""
    import numpy as np
    import torch

    block = torch.from_numpy(tokens[starts[:, None] + np.arange(length + 1)].astype(np.int64))
    return block[:, :-1], block[:, 1:]


def check_lengths(samples: Samples, global_batch: int, settings: PretrainedConfig) -> None:
    """Raise Stop when the samples are too long for the model, or too few for one step."""
    longest = getattr(settings, "max_position_embeddings", samples.length)
    if samples.length > longest:
        raise Stop(f"--seq-length {samples.length} is more than the {longest} positions of the model")
    if samples.per_epoch < global_batch:
        raise Stop(
            f"the text is too short: {samples.per_epoch:,} samples of {samples.length} tokens, and a step takes "
            f"{global_batch:,}; give more text, a smaller batch or a smaller --seq-length"
        )


def evaluation(tokens: np.ndarray, args: argparse.Namespace, micro: int, session: Session) -> list[Batch]:
    """This rank's batches of held-out samples, at most `micro` in each; every rank has as many.

    Raises Stop when the tokens are not enough for one sample per rank.
    """
    import numpy as np

    length = args.seq_length
    rows = min(micro * args.eval_batches, (len(tokens) - 1) // length // session.world_size)
    if rows < 1:
        raise Stop(
            f"the held-out text has {len(tokens):,} tokens, too few for {session.world_size} ranks to evaluate "
            f"{length} each: give more text, a smaller --seq-length, or --eval-every 0"
        )
    starts = (np.arange(rows) * session.world_size + session.rank) * length
    return [windows(tokens, starts[first : first + micro], length) for first in range(0, rows, micro)]


def _tokenize(sources: list[str], by: PreTrainedTokenizerBase, path: Path) -> Corpus:
    import numpy as np

    dtype = next(name for name in ("uint8", "uint16", "uint32") if len(by) <= np.iinfo(name).max + 1)
    between = "\n\n" if by.eos_token_id is None else ""  # documents
    end = (
        np.array([by.eos_token_id], dtype=dtype) if not between else tokenizer.encode(by, [between], dtype)[0]
    )
    counts, size = np.zeros(len(by), dtype=np.int64), 0
    half = path.with_name(f"{path.name}.{os.getpid()}")
    read = pieces(sources)
    with half.open("wb") as file:
        while some := list(islice(read, AT_ONCE)):
            texts = [piece for piece in some if piece is not None]
            rows = iter(tokenizer.encode(by, texts, dtype))
            ids = np.concatenate([end if piece is None else next(rows) for piece in some])
            ids.tofile(file)
            counts += np.bincount(ids, minlength=len(counts))
            size += sum(len((between if piece is None else piece).encode()) for piece in some)
    if not counts.any():
        raise Stop(f"--data {' '.join(sources)}: there is no text in it")
    half.replace(path)
    share = counts[counts > 0] / counts.sum()
    return Corpus(str(path), dtype, int(counts.sum()), size, float(-(share * np.log(share)).sum()))


def _facts(source: str) -> Any:
    """What tells whether a source is still the one that was tokenized."""
    if source == "builtin":
        return source, platform.python_version()
    if source.startswith("hf:"):
        return source
    return [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files(source)]


def _builtin() -> Iterator[str | None]:
    from pydoc_data.topics import topics

    for text in topics.values():
        yield text
        yield None


def files(source: str) -> list[Path]:
    """The files of a path, a folder or a glob, sorted. Raises Stop when there are none."""
    path = Path(source).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        found = [file for file in path.rglob("*") if file.suffix in SUFFIXES and file.is_file()]
        if not found:
            raise Stop(f"--data {source}: no {', '.join(SUFFIXES)} file in this folder")
    else:
        found = [Path(name) for name in glob.glob(str(path), recursive=True) if Path(name).is_file()]  # noqa: PTH207
        if not found:
            raise Stop(f"--data {source}: no such file or folder (builtin and hf:NAME are the other sources)")
    return sorted(found)


def _file(path: Path) -> Iterator[str | None]:
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        if path.suffix == ".jsonl":
            for number, line in enumerate(file, 1):
                try:
                    yield str(json.loads(line)["text"])
                except (ValueError, KeyError, TypeError) as error:
                    raise Stop(f'--data {path}:{number}: not a JSON object with a "text"') from error
                yield None
        else:
            while lines := file.readlines(PIECE):
                yield "".join(lines)
            yield None


def hugging_face(name: str, column: str = "") -> Iterator[dict[str, Any]]:
    """The rows of a Hugging Face data set NAME[@SUBSET][:SPLIT], or one column of them.

    Raises Stop if there is no such data set or column.
    """
    try:
        import datasets
    except ImportError as error:
        raise Stop(f"--data hf:{name}: the package datasets is not installed") from error

    place, split = [*name.split(":"), ""][:2]
    place, _, subset = place.partition("@")
    try:
        rows = datasets.load_dataset(place, subset or None, split=split or "train")
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise Stop(f"--data hf:{name}: {reason}") from error
    if column:
        if column not in rows.column_names:
            raise Stop(f"--data hf:{name}: no column {column!r} among {', '.join(rows.column_names)}")
        rows = rows.select_columns([column])
    yield from rows


def _hugging_face(name: str) -> Iterator[str | None]:
    place, split, column = [*name.split(":"), "", ""][:3]
    column = column or "text"
    for row in hugging_face(f"{place}:{split}", column):
        yield str(row[column])
        yield None
