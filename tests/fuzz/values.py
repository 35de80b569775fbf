"""Values that programs forget, as YAML and JSON write them, and damage to whole texts.

Owns the hostile values; where they are put is files.py's, records.py's and commands.py's.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable
    from random import Random


class Raw(str):
    """Text that stands in a file as it is, without quotes."""

    __slots__ = ()


NUMBERS = (
    *(
        "0",
        "-1",
        "1",
        "2",
        "3",
        "7",
        "64",
        "65536",
        "2147483647",
        "2147483648",
        "9223372036854775808",
        "1e400",
    ),
    *(
        "-9223372036854775809",
        "18446744073709551616",
        "0.1",
        "1.5",
        "-0.0",
        "1e-400",
        "1e308",
        "1e-5",
        "1e12",
    ),
    *("1" + "0" * 400, "-1" + "0" * 400, "9" * 5000, "1." + "0" * 5000),
)
YAML_NUMBERS = (
    *(
        ".inf",
        "-.inf",
        ".nan",
        "007",
        "1_000",
        "+5",
        "0x1F",
        "0x" + "f" * 4000,
        "0o17",
        "0b1",
        "1e",
        "1.",
        ".5",
    ),
    *(
        "٢",
        "８",
        "²",
        "1e1000000000",
        "!!int ''",
        "!!float ''",
        "!!float x",
        "!!int 1.5",
        "!!bool x",
        "!!null x",
    ),
)
JSON_NUMBERS = ("NaN", "Infinity", "-Infinity")
WORDS = (
    *(
        "",
        " ",
        "a",
        "x" * 64,
        "x" * 256,
        "x" * 5000,
        "x" * 140_000,
        "é",
        "😀",
        "\u2028",
        "\x85",
        "\x7f",
        "\x1b[31m",
    ),
    *(
        "\t",
        "\n",
        "a\nb",
        "\r\n",
        "a\r\nb\r\n",
        "\ufeff",
        "\u202e",
        "ä",
        "ﬁ",
        "İ",
        "null",
        "true",
        "yes",
        "~",
        "1",
    ),
    *(
        "$HOME",
        "$(touch x)",
        "`touch x`",
        "; touch x",
        "${X",
        "'",
        '"',
        "\\",
        "#",
        " # x",
        "%j",
        "%s",
        "{}",
        "{0}",
    ),
    *(
        "{{ plan }}",
        "{# x",
        "{% x",
        "a,b",
        "a:b",
        "a=b",
        "=",
        ":",
        "::",
        "@",
        "a@b",
        "[",
        "]",
        "*",
        "?",
        "&a",
        "|",
    ),
    *(
        "-",
        "--",
        "-x",
        "--help",
        "---",
        "...",
        ".",
        "..",
        "../..",
        "/",
        "./",
        "a/",
        "a/b",
        "a/b/c",
        "/etc",
        "//",
    ),
    *(
        "~",
        "~/x",
        "~nosuchuser/x",
        "C:\\x",
        "http://h/x",
        "file:///x",
        "/dev/stdin",
        "/proc/self/mem",
        "/dev/zero",
    ),
    *(
        "0s",
        "1s",
        "2m",
        "1h",
        "-1h",
        "9999999d",
        "1h1",
        "1e3s",
        "48:00:00",
        "٢h",
        "1ms",
        "0GB",
        "1GB",
        "80GB",
        "1KB",
    ),
    *(
        "1e9TB",
        "٢GB",
        "999999999999999TB",
        "1 GB",
        "1GiB",
        "inf",
        "nan",
        "2024-01-01",
        "2024_05",
        "1.50",
        "0x10",
    ),
    *(
        "a..b/x:1",
        "a b:1",
        "--privileged",
        "-x:1",
        "localhost:5000/a",
        "h:99999/a",
        "a@sha256:0",
        "täg",
        "A/B:C",
    ),
)
DEPTHS = (5, 30, 300, 400, 450, 990, 3000, 100_000)
TAGGED = (
    "!!binary eA==",
    "!!set {a}",
    "!!omap [a: 1]",
    "!x y",
    "!!python/object:os.system x",
    "*nope",
    "&a [*a]",
)


def number(random: Random) -> Raw:
    return Raw(random.choice(NUMBERS))


def word(random: Random) -> str:
    if random.random() < 0.15:
        return "".join(random.choice(WORDS)[:20] for _ in range(random.randint(2, 4)))
    return random.choice(WORDS)


def deep(random: Random) -> Raw:
    """Brackets in brackets, closed or not."""
    depth = random.choice(DEPTHS)
    opened, closed = random.choice((("[", "]"), ("{a: ", "}"), ('{"a":', "}"), ("[{a: ", "}]")))
    inner = random.choice(("", "1", "x"))
    return Raw(opened * depth + inner + closed * (depth if random.random() < 0.8 else 0))


def hostile(random: Random, kind: str = "yaml") -> Any:
    """A value of any type, for a file of `kind` yaml or json."""
    pick = random.random()
    if pick < 0.3:
        return word(random)
    if pick < 0.5:
        return number(random)
    if pick < 0.62:
        return Raw(random.choice(YAML_NUMBERS if kind == "yaml" else JSON_NUMBERS))
    if pick < 0.72:
        return random.choice((None, True, False))
    if pick < 0.77:
        return deep(random)
    if pick < 0.8 and kind == "yaml":
        return Raw(random.choice(TAGGED))
    if pick < 0.9:
        return [hostile(random, kind) for _ in range(random.choice((0, 1, 1, 2, 3)))]
    return {word(random)[:300]: hostile(random, kind) for _ in range(random.choice((0, 1, 1, 2, 3)))}


def text(value: Any) -> str:
    """`value` as JSON, which YAML reads too; what is Raw stands as it is."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{text(key)}: {text(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(text, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def lines(value: dict[str, Any]) -> str:
    """A mapping as lines of YAML: `key: value`, with the values on one line each."""
    return "".join(
        f"{key if key.isidentifier() else text(key)}: {text(entry)}\n" for key, entry in value.items()
    )


def paths(value: Any, above: tuple[Any, ...] = ()) -> Iterable[tuple[Any, ...]]:
    """The path of every value inside `value`."""
    entries = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, entry in entries:
        yield (*above, key)
        yield from paths(entry, (*above, key))


def mutated(random: Random, value: Any, kind: str = "yaml") -> Any:
    """A copy of `value` in which one place is changed: replaced, taken out, renamed, wrapped or doubled."""
    every = list(paths(value))
    if not every:
        return hostile(random, kind)
    *above, last = random.choice(every)
    copy = copied(value)
    at = copy
    for key in above:
        at = at[key]
    action = random.random()
    if action < 0.65:
        at[last] = hostile(random, kind)
    elif action < 0.8:
        del at[last]
    elif isinstance(at, dict):
        key = random.choice((f"{last}s", str(last)[:-1], f"{last}.x", word(random)[:300]))
        at[key] = at[last] if random.random() < 0.5 else hostile(random, kind)
    else:
        at[last] = random.choice(([at[last]], {"a": at[last]}, at[last]))
    return copy


def copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: copied(entry) for key, entry in value.items()}
    return [copied(entry) for entry in value] if isinstance(value, list) else value


def damaged(random: Random, content: str) -> bytes:
    """`content` as an editor, another system or a crash may leave it."""
    raw = content.encode("utf-8", "surrogatepass")
    at = random.randrange(len(raw) + 1)
    split = content.splitlines(keepends=True) or [""]
    one = random.choice(split)
    return random.choice(
        (
            lambda: b"\xef\xbb\xbf" + raw,
            lambda: raw.replace(b"\n", b"\r\n"),
            lambda: raw.replace(b"\n", b"\r"),
            lambda: raw[:at] + b"\0" + raw[at:],
            lambda: raw[:at] + bytes([random.randrange(256)]) + raw[at:],
            lambda: raw[:at],
            lambda: content.encode("utf-16", "surrogatepass"),
            lambda: (
                raw[:at]
                + random.choice((b"\t", b"'", b'"', b"[", b"{", b"#", b"&a ", b"*a ", b"? ", b"- "))
                + raw[at:]
            ),
            lambda: raw + one.encode("utf-8", "surrogatepass"),
            lambda: raw + b"---\n" + raw,
            lambda: b"--- !x\n" + raw,
            lambda: raw.replace(b": ", b":", 1),
            lambda: b"",
            lambda: b"a: &a [x, x]\nb: &b [*a, *a, *a]\nc: [*b, *b, *b]\n" + raw,
        )
    )()
