"""What `data` prints of prepared texts: a table, all of one, and machine-readable output (README.md has the keys)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from launcher import units
from launcher.reports import tables

if TYPE_CHECKING:
    from collections.abc import Sequence

    from launcher.runs.metrics import Record
    from launcher.runs.prepared import Prepared

_HEAD = ("KEY", "STATE", "SIZE", "TOKENS", "LAST USED", "TOKENIZER", "SOURCES")


def table(texts: Sequence[Prepared]) -> str:
    """A line a text."""
    rows = [
        (
            text.key,
            text.state,
            units.gigabytes(text.bytes),
            _number(text.tokens),
            tables.moment(text.last_used),
            text.tokenizer or "-",
            _short(text.sources),
        )
        for text in texts
    ]
    return tables.table(rows, _HEAD)


def one(text: Prepared) -> str:
    """All that is known of a text."""
    facts = text.facts or {}
    rows = [
        ("key", text.key),
        ("state", text.state),
        ("folder", str(text.folder)),
        ("size", units.gigabytes(text.bytes)),
        ("last used", tables.moment(text.last_used)),
    ]
    if text.facts is not None:
        rows += [
            ("tokens", f"{_number(text.tokens)}, as {facts.get('dtype', '-')}"),
            ("documents", _number(text.documents)),
            ("text", "-" if text.text_bytes is None else units.gigabytes(text.text_bytes)),
            ("tokenizer", f"{text.tokenizer or '-'}, vocabulary {facts.get('vocabulary', '-')}"),
            ("shards", _number(_length(facts.get("shards")))),
            ("created", str(facts.get("created", "-"))),
            *(("source", source) for source in text.sources),
        ]
    return tables.table(rows)


def data(text: Prepared) -> dict[str, Any]:
    """A text, machine-readable."""
    return {
        "key": text.key,
        "state": text.state,
        "folder": str(text.folder),
        "bytes": text.bytes,
        "last_used": text.last_used,
        "sources": list(text.sources),
        "tokenizer": text.tokenizer,
        "tokens": text.tokens,
        "documents": text.documents,
        "text_bytes": text.text_bytes,
    }


def as_json(content: Any) -> str:
    """One document."""
    return tables.dump(content)


def _number(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _length(value: object) -> int | None:
    return len(value) if isinstance(value, list) else None


def _short(sources: Sequence[str]) -> str:
    text = " ".join(sources) or "-"
    return text if len(text) <= 60 else f"{text[:57]}..."


def progress(records: Sequence[Record]) -> str:
    """How far tokenizing is, or what it made; empty where nothing is known of it."""
    told = [record for record in records if record.event in ("tokenizing", "tokenized")]
    if not told:
        return ""
    known = told[-1].figures
    if told[-1].event == "tokenized":
        return f"tokenized: {known.get('documents', 0):,.0f} documents, {known.get('tokens', 0):,.0f} tokens"
    parts = [f"tokenizing: {share(told[-1]):.0%} of {units.gigabytes(int(known.get('total_bytes', 0)))}"]
    if rate := known.get("bytes_per_second"):
        parts.append(f"{rate / 1e6:,.1f} MB/s")
    if "seconds_left" in known:
        parts.append(f"{units.brief(known['seconds_left'])} left")
    return ", ".join(parts)


def share(record: Record) -> float:
    """The share of the text that an event of tokenizing tells of."""
    whole = record.figures.get("total_bytes", 0.0)
    return min(1.0, max(0.0, record.figures.get("bytes", 0.0) / whole)) if whole > 0 else 0.0
