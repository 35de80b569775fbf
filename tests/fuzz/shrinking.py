"""A finding's smallest input, and that input as text.

Owns what is tried to make it smaller; whether it is still the same finding is said by its key.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tests.fuzz import sandbox, verdicts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.fuzz.commands import Input

TRIES = 250


def smallest(given: Input, key: str, tries: int = TRIES) -> Input:
    """`given` with everything taken out that `key` does not need, as far as `tries` runs go."""
    left = tries
    changed = True
    while changed and left > 0:
        changed = False
        for other in _smaller(given):
            left -= 1
            if left <= 0:
                break
            found = verdicts.judge(other, sandbox.run(other))
            if found and found.key == key:
                given, changed = other, True
                break
    return given


def _smaller(given: Input) -> Iterator[Input]:
    """Inputs with one thing less, the largest things first."""
    yield from (replace(given, stdin=b"") for _ in "x" if given.stdin != b"")
    yield from (replace(given, streams=("file", "file")) for _ in "x" if given.streams != ("file", "file"))
    for name in ("environment", "answers", "links", "files"):
        kept: dict[str, Any] = getattr(given, name)
        yield from (replace(given, **{name: fewer}) for fewer in _fewer(kept))  # type: ignore[arg-type]
    for start in range(1, len(given.words)):
        for count in (2, 1):
            if start + count <= len(given.words):
                yield replace(given, words=(*given.words[:start], *given.words[start + count :]))
    for name, content in given.files.items():
        for shorter in _shorter(content):
            yield replace(given, files={**given.files, name: shorter})


def _fewer(kept: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if kept:
        yield {}
    if len(kept) > 1:
        yield from ({k: v for k, v in kept.items() if k != key} for key in kept)


def _shorter(content: bytes) -> Iterator[bytes]:
    lines = content.splitlines(keepends=True)
    if len(lines) > 1:
        yield b"".join(lines[: len(lines) // 2])
        yield b"".join(lines[len(lines) // 2 :])
        for at in range(min(len(lines), 60)):
            yield b"".join(lines[:at] + lines[at + 1 :])
    # an entry of a mapping or list on one line
    for match in list(
        re.finditer(rb'"?[\w.$-]+"?: ("[^"]*"|[^\[\]{},"\n]+|\[[^\[\]]*\]|\{[^{}]*\})(, )?', content)
    )[:40]:
        before = content[: match.start()].removesuffix(b", ") if not match[2] else content[: match.start()]
        yield before + content[match.end() :]


def text(given: Input) -> str:
    """The input as tests/errors/*.case writes one; long runs of a character are cut."""
    env = [f"{name}={shlex.quote(value)}" for name, value in given.environment.items()]
    words = [*env, "launcher", *map(shlex.quote, given.words)]
    notes = [f"stdin {'closed' if given.stdin is None else given.stdin[:40]!r}"] if given.stdin != b"" else []
    notes += (
        [f"stdout {given.streams[0]}, stderr {given.streams[1]}"] if given.streams != ("file", "file") else []
    )
    notes += [f"{name} answers {answer!r}" for name, answer in given.answers.items()]
    notes += [f"{name} is a link to {target}" for name, target in given.links.items()]
    made = "$ " + " ".join(words) + (f"   # {'; '.join(notes)}" if notes else "") + "\n"
    for name, content in given.files.items():
        made += f"--- {name}\n{_shown(content)}\n"
    return _cut(made)


def _shown(content: bytes) -> str:
    try:
        shown = content.decode()
    except UnicodeDecodeError:
        return repr(content)
    return shown.rstrip("\n") if shown.replace("\n", "").replace("\t", "").isprintable() else ascii(shown)


def _cut(shown: str) -> str:
    shown = re.sub(r"(.{1,12}?)\1{30,}", lambda m: f"⟨{m[1]!r} × {len(m[0]) // len(m[1])}⟩", shown)
    return shown.encode("utf-8", "backslashreplace").decode()


def keep(given: Input, folder: Path) -> None:
    """Write the input's files below `folder`, and its command line beside them, as they are."""
    for name, content in given.files.items():
        path = folder / "files" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "words.txt").write_text(
        ascii(given.words) + "\n" + ascii((given.environment, given.links)) + "\n"
    )
