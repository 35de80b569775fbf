"""Which tokens a rank sees at which step, for training and for evaluation.

Owns the order of samples and the fixed set of windows that is evaluated; the tokens are corpus.py's, and what is done
with a batch is the workload's.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from workloads import architectures, corpus, mixture, packing, shuffle, sources
from workloads.session import Stop

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    import numpy as np
    import torch
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from workloads import engines
    from workloads.corpus import Corpus
    from workloads.session import Session

ORDER = 3  # of the samples: a change makes positions of older checkpoints mean other samples
IGNORED = -100  # a label that has no part in the loss (torch's cross_entropy)


class Batch(NamedTuple):
    """Samples: their tokens and, for each, the token that follows; int64 [samples, length]."""

    inputs: torch.Tensor
    labels: torch.Tensor
    positions: torch.Tensor | None = None  # in the document, with --document-masks


@dataclass(frozen=True)
class Evaluation:
    """The held-out windows in this rank's batches, and what all ranks evaluate together."""

    batches: list[Batch]  # as many on every rank, each full: windows without labels fill the last ones
    tokens: int
    bytes: int  # of the text that these tokens stand for


@dataclass(frozen=True)
class Data:
    """What a rank trains and is evaluated on."""

    tokenizer: PreTrainedTokenizerBase
    corpus: Corpus
    samples: Samples
    evaluation: Evaluation | None  # None without --eval-every
    order: str  # of the samples: the same for the same text, weights, sample length and seed


def load(
    session: Session,
    args: argparse.Namespace,
    settings: PretrainedConfig,
    *,
    size: engines.BatchSize,
    reader: Session,
) -> Data:
    """The data that the options of `data_options.text` ask for, to train this model with this batch; all ranks call it.

    `reader` is the session as the data sees it: ranks with the same one read the same samples. Raises Stop when there
    is no such data or tokenizer, or when it does not fit the model or the batch.
    """
    import numpy as np

    tokenizer, tokens = corpus.tokenized(session, args, architectures.vocabulary(settings))
    held_out = tokens.split()[1]
    samples = of(tokens, args)
    check_lengths(samples, size.total, settings)
    evaluated = None
    if args.eval_every:
        count = held_out_windows(len(held_out), args)
        batches = evaluation(
            held_out, count, args.seq_length, micro=size.micro, session=reader, masked=args.document_masks
        )
        predicted = held_out[1 + np.arange(count * args.seq_length)]
        bytes_ = session.first(lambda: len(tokenizer.decode(predicted, skip_special_tokens=True).encode()))
        evaluated = Evaluation(batches, len(predicted), bytes_)
    order = f"{ORDER}:{Path(tokens.path).name}:{args.seq_length}:{args.seed}{samples.mixed}"
    return Data(tokenizer=tokenizer, corpus=tokens, samples=samples, evaluation=evaluated, order=order)


def of(tokens: Corpus, args: argparse.Namespace) -> Samples:
    """The samples for training: of all sources as one text, or of each by weight. Raises Stop for a short source."""
    given = sources.parse(args.data)
    weights = [source.weight for source in given if source.weight is not None]
    if not weights:
        return Samples(tokens.split()[0], args.seq_length, args.seed, args.document_masks)
    parts = [Samples(one, args.seq_length, args.seed, args.document_masks) for one in tokens.training()]
    for source, part in zip(given, parts, strict=True):
        if not part.per_epoch:
            raise Stop(
                f"--data {source.path}: too short for one sample of {args.seq_length} tokens: give it more text, a "
                "smaller --seq-length, or leave it out"
            )
    return Mixture(parts, weights)


class Samples:
    """Training samples in a random order that depends on seed and position alone.

    Position p is the p-th sample since the run's first step. It is the same window of tokens in every run with the
    same text, sample length and seed, whatever the number of ranks and restarts. Each epoch has another order.
    """

    mixed = ""  # what a mixture adds to the name of the order

    def __init__(self, tokens: Any, length: int, seed: int, masked: bool = False) -> None:
        """`tokens` is an array, or something that has a length and takes arrays of places as one does.

        `masked` keeps documents apart; `tokens` is then a corpus.Stream.
        """
        self.length, self._masked = length, masked
        self._tokens, self._seed = tokens, seed
        self.per_epoch = max(0, (len(tokens) - 1) // length)

    def share(self, first: int, size: engines.BatchSize, session: Session) -> Iterator[Batch]:
        """This rank's micro batches of the step whose global batch begins at position `first`."""
        import numpy as np

        for index in range(size.accumulation):
            start = first + (index * session.world_size + session.rank) * size.micro
            yield self.batch(np.arange(start, start + size.micro))

    def onward(self, first: int, size: engines.BatchSize, session: Session) -> Iterator[Batch]:
        """This rank's micro batches of that step and of all that follow it."""
        while True:
            yield from self.share(first, size, session)
            first += size.total

    def batch(self, positions: np.ndarray) -> Batch:
        """The samples at these positions."""
        import numpy as np

        epochs, places = np.divmod(positions, self.per_epoch)
        starts = np.empty_like(places)
        for epoch in np.unique(epochs):
            now = epochs == epoch
            starts[now] = self._starts(int(epoch), places[now])
        return windows(self._tokens, starts, self.length, self._masked)

    def epochs(self, position: int) -> dict[str, Any]:
        """How often the text has been seen before this position, as metrics.jsonl tells it."""
        return {"epoch": position / self.per_epoch}

    def _starts(self, epoch: int, places: np.ndarray) -> np.ndarray:
        import numpy as np

        random = np.random.default_rng([self._seed, epoch])
        shift = random.integers((len(self._tokens) - 1) % self.length + 1)
        order = int(random.integers(2**63))
        starts: np.ndarray = shift + self.length * shuffle.permuted(places, self.per_epoch, order)
        return starts


class Mixture(Samples):
    """Samples of several sources, each with its own order and epochs; its weight is its share of them."""

    def __init__(self, parts: list[Samples], weights: list[float]) -> None:
        self._parts, self._schedule = parts, mixture.Schedule(weights)
        self.length, self.per_epoch = parts[0].length, sum(part.per_epoch for part in parts)
        self.mixed = ":" + ",".join(map(str, self._schedule.quotas))

    def batch(self, positions: np.ndarray) -> Batch:
        """The samples at these positions."""
        import numpy as np
        import torch

        source, index = self._schedule.locate(positions)
        places = [np.flatnonzero(source == number) for number in range(len(self._parts))]
        batches = [
            part.batch(index[place]) for part, place in zip(self._parts, places, strict=True) if len(place)
        ]
        order = torch.from_numpy(np.concatenate(places).argsort())
        columns = zip(*batches, strict=True)
        return Batch(*(None if column[0] is None else torch.cat(column)[order] for column in columns))

    def epochs(self, position: int) -> dict[str, Any]:
        """The same, of the source that was seen most often and of each."""
        taken = self._schedule.taken(position)
        each = [count / part.per_epoch for count, part in zip(taken, self._parts, strict=True)]
        return {"epoch": max(each), "source_epochs": each}


def ahead(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """The same batches, each prepared in a thread while the one before is in use; page-locked where there is a GPU."""
    from deepspeed.accelerator import get_accelerator

    def prepare() -> Batch | None:
        batch = next(batches, None)
        if batch is None or device.type == "cpu":
            return batch
        return Batch(*(None if part is None else get_accelerator().pin_memory(part) for part in batch))

    with ThreadPoolExecutor(1, "samples") as thread:
        coming = thread.submit(prepare)
        while (batch := coming.result()) is not None:
            coming = thread.submit(prepare)
            yield batch


def windows(tokens: Any, starts: np.ndarray, length: int, masked: bool = False) -> Batch:
    """The samples whose inputs begin at `starts`; `masked` as of Samples."""
    import numpy as np
    import torch

    places = starts[:, None] + np.arange(length + 1)
    block = torch.from_numpy(tokens[places].astype(np.int64))
    apart = torch.from_numpy(packing.positions(tokens.document(places[:, :-1]))) if masked else None
    return Batch(block[:, :-1], block[:, 1:].clone(), apart)


def check_lengths(samples: Samples, global_batch: int, settings: PretrainedConfig) -> None:
    """Raise Stop when the samples are too long for the model, or too few for one step."""
    longest = getattr(settings.get_text_config(), "max_position_embeddings", samples.length)
    if samples.length > longest:
        raise Stop(f"--seq-length {samples.length} is more than the {longest} positions of the model")
    if samples.per_epoch < global_batch:
        raise Stop(
            f"the text is too short: {samples.per_epoch:,} samples of {samples.length} tokens, and a step takes "
            f"{global_batch:,}; give more text, a smaller batch or a smaller --seq-length"
        )


def held_out_windows(tokens: int, args: argparse.Namespace) -> int:
    """How many windows are evaluated: --eval-samples, or as many as there are. Raises Stop when there is none."""
    count: int = min(args.eval_samples, (tokens - 1) // args.seq_length)
    if count < 1:
        raise Stop(
            f"the held-out text has {tokens:,} tokens, too few to evaluate {args.seq_length} at once: give more text, "
            "a smaller --seq-length, or --eval-every 0"
        )
    return count


def evaluation(
    tokens: Any, count: int, length: int, *, micro: int, session: Session, masked: bool = False
) -> list[Batch]:
    """This rank's share of the first `count` windows, `micro` in each batch, as many batches on every rank."""
    import numpy as np

    batches = []
    for first in range(0, count, micro * session.world_size):
        numbers = first + session.rank * micro + np.arange(micro)
        batch = windows(tokens, np.where(numbers < count, numbers, 0) * length, length, masked)
        batch.labels[numbers >= count] = IGNORED
        batches.append(batch)
    return batches
