"""The prompts of a file: what each line holds, its tokens, and whether the model has place for them.

Owns the file's format and every complaint about it, each with its line; what is generated is generate.py's.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workloads import tokenizer
from workloads.session import Stop

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase

SHOWN = 20  # complaints of one kind that are printed


@dataclass(frozen=True)
class Prompt:
    """A row of a prompts file: `index` counts prompts from 0, `line` the file's lines from 1."""

    index: int
    line: int
    row: dict[str, Any]

    @property
    def text(self) -> str:
        text: str = self.row["prompt"]
        return text


def read(path: Path) -> list[Prompt]:
    """The prompts of a file: .jsonl with a "prompt" in each object, else a text file with one on each line.

    Lines of white space are passed over. Raises Stop, naming every line that holds no prompt.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, ValueError) as error:
        raise Stop(f"--prompts {path}: {error}") from error
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    rows = [
        (number, _row(line) if path.suffix == ".jsonl" else {"prompt": line}) for number, line in numbered
    ]
    broken = [f"{path}:{number}: {row}" for number, row in rows if isinstance(row, str)]
    if broken:
        raise Stop(_listed(broken, "correct these lines of --prompts"))
    if not rows:
        raise Stop(f"--prompts {path}: there is no prompt in the file")
    return [Prompt(index, number, row) for index, (number, row) in enumerate(rows) if isinstance(row, dict)]


def fingerprint(prompts: Iterable[Prompt]) -> str:
    """A hash of all rows."""
    content = json.dumps([prompt.row for prompt in prompts], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def check_lengths(
    path: Path,
    prompts: list[Prompt],
    own_tokenizer: PreTrainedTokenizerBase,
    *,
    positions: int | None,
    new_tokens: int,
) -> None:
    """Raise Stop, naming every line, for prompts without tokens or too long for the model's positions.

    Places are needed for the prompt and all `new_tokens`; a model without `positions` has no limit.
    """
    sizes = [len(tokenizer.prompt_ids(own_tokenizer, prompt.text)) for prompt in prompts]
    empty = [prompt for prompt, size in zip(prompts, sizes, strict=True) if not size]
    if empty:
        lines = [f"{path}:{prompt.line}: the tokenizer gives no token for this prompt" for prompt in empty]
        raise Stop(_listed(lines, "change these prompts, or --tokenizer"))
    if positions is None or max(sizes) + new_tokens <= positions:
        return
    too_long = [
        f"{path}:{prompt.line}: {size:,} tokens and --max-new-tokens {new_tokens:,} are {size + new_tokens:,}"
        for prompt, size in zip(prompts, sizes, strict=True)
        if size + new_tokens > positions
    ]
    room = positions - max(sizes)
    lower = f", lower --max-new-tokens to {room:,}" if room > 0 else ""
    advice = f"the model has {positions:,} positions: shorten these prompts{lower}, or take a model with more"
    raise Stop(_listed(too_long, advice))


def _row(line: str) -> dict[str, Any] | str:
    """The line's object, or why it is no prompt."""
    try:
        row = json.loads(line)
        if "\\u" in line:
            json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return "half of a surrogate pair, which is no character"
    except (ValueError, RecursionError):
        row = None
    fits = isinstance(row, dict) and isinstance(row.get("prompt"), str) and row["prompt"]
    return row if fits else 'not a JSON object with a "prompt" that is text'


def _listed(lines: list[str], advice: str) -> str:
    more = [f"… and {len(lines) - SHOWN:,} more lines"] if len(lines) > SHOWN else []
    return "\n".join([f"{len(lines):,} prompts cannot be used", *lines[:SHOWN], *more, advice])
