"""The last step of a corpus: the figures of all shards, the choice of held-out documents, and corpus.json.

Owns the names of these files and the summary; what they mean is said in corpus.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from typing import TYPE_CHECKING, Any

from workloads import claims, held_out, megatron, metrics
from workloads.session import Stop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import numpy as np

    from workloads.metrics import Log
    from workloads.tokenizing import Work

FORMAT = 3  # of the files; part of their key
COMPLETE, HELD_OUT = "corpus.json", "held-out"


def complete(work: Work, words: list[str], by: str, beat: Callable[[], None]) -> None:
    """Write held-out and corpus.json of shards that are all there; `beat` is called for each.

    Raises Stop when there is no token.
    """
    import numpy as np

    folder, encoder = work.folder, work.encoder
    counts = np.zeros(encoder.vocabulary, dtype=np.int64)
    entries, continued, longest, last = [], [], 0, 0
    bytes_, seconds, documents = 0, 0.0, 0
    for shard in work.shards:
        beat()
        lengths = _lengths(folder, shard.name)
        with np.load(folder / f"{shard.name}.npz") as facts:
            counts += facts["counts"]
            bytes_ += int(facts["bytes"])
            seconds += float(facts["seconds"])
            goes_on = bool(facts["continues"])
        entries.append([shard.name, int(lengths.sum()), len(lengths)])
        documents += len(lengths) - goes_on
        if goes_on:
            continued.append(shard.name)
        if len(lengths):
            first = int(lengths[0]) + (last if goes_on else 0)
            last = first if len(lengths) == 1 else int(lengths[-1])
            longest = max(longest, first, int(lengths.max()))
    total = int(counts.sum())
    if not total:
        raise Stop(f"--data {' '.join(words)}: there is no text in it")
    _write_held_out(work, total, beat)
    share = counts[counts > 0] / total
    facts = {
        "format": FORMAT,
        "sources": list(words),
        "tokenizer": by,
        "dtype": encoder.dtype,
        "vocabulary": encoder.vocabulary,
        "tokens": total,
        "documents": documents,
        "bytes": bytes_,
        "unigram_entropy": float(-(share * np.log(share)).sum()),
        "longest_document": longest,
        "shards": entries,
        "source_shards": [sum(s.source == n for s in work.shards) for n in range(len(words))],
        "continued": continued,
        "seconds": seconds,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    metrics.write_atomically(folder / COMPLETE, facts)
    tidy(folder)


def _lengths(folder: Path, name: str) -> np.ndarray:
    import numpy as np

    return megatron.read_index(folder / f"{name}.idx").lengths.astype(np.int64)


def _write_held_out(work: Work, tokens: int, beat: Callable[[], None]) -> None:
    import numpy as np

    def shards() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for shard in work.shards:
            beat()
            with np.load(work.folder / f"{shard.name}.npz") as facts:
                yield _lengths(work.folder, shard.name), facts["keys"]

    half = work.folder / f".{HELD_OUT}.{socket.gethostname()}.{os.getpid()}"
    with half.open("wb") as file:
        held_out.choose(shards, tokens).tofile(file)
        file.flush()
        os.fsync(file.fileno())
    half.replace(work.folder / HELD_OUT)


def tidy(folder: Path) -> None:
    """Remove what a complete corpus does not need: figures of shards, half files and claims of killed processes."""
    for path in folder.iterdir():
        if path.suffix in (".npz", claims.SUFFIX) or path.name.startswith("."):
            with contextlib.suppress(OSError):  # somebody else's, or gone already
                path.unlink()


def check(folder: Path) -> None:
    """Raise Stop unless a complete folder still has every shard, whole: old files are purged, and copies cut off."""
    import numpy as np

    facts = json.loads((folder / COMPLETE).read_text(encoding="utf-8"))
    item = np.dtype(facts["dtype"]).itemsize
    for name, tokens, _ in facts["shards"]:
        path = folder / f"{name}.bin"
        size = path.stat().st_size if path.exists() else -1
        if size != item * tokens or not path.with_suffix(".idx").exists():
            raise Stop(
                f"{path} or its .idx is gone or not whole (a purge of old files, a copy that was cut off): remove "
                f"{folder}, and its tokens are made again"
            )


def tell(folder: Path, log: Log) -> None:
    """Say and log what is in a complete folder."""
    facts = json.loads((folder / COMPLETE).read_text(encoding="utf-8"))
    log.say(summary(facts, folder))
    names = ("tokens", "documents", "bytes", "unigram_entropy", "longest_document", "seconds")
    log.event("tokenized", 0, folder=str(folder), shards=len(facts["shards"]), **{n: facts[n] for n in names})


def summary(facts: dict[str, Any], folder: Path) -> str:
    """What is in a corpus, in one line; `facts` are corpus.json's."""
    text = ""
    if facts["bytes"]:
        share, rate = facts["tokens"] / facts["bytes"], facts["bytes"] / max(facts["seconds"], 1e-9) / 1e6
        text = f" of {facts['bytes']:,} bytes of text, {share:.3f} tokens a byte, {rate:.1f} MB a processor second"
    return (
        f"{facts['documents']:,} documents, {facts['tokens']:,} tokens by {facts['tokenizer']}{text}; entropy "
        f"{facts['unigram_entropy']:.3f} nats a token, longest document {facts['longest_document']:,} tokens; "
        f"{len(facts['shards'])} shards in {folder}"
    )
