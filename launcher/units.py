"""Durations, sizes and texts as people write them, and as people read them.

Owns both directions for seconds and bytes; which field holds which is said in `files`.
"""

from __future__ import annotations

import re

# Patterns for editors too, so in the syntax that ECMAScript and Python share.
DURATION = r"(?:([0-9]{1,7})d)?(?:([0-9]{1,7})h)?(?:([0-9]{1,7})m)?(?:([0-9]{1,7})s)?"
# Slurm's own forms: https://slurm.schedmd.com/sbatch.html#OPT_time
CLOCK = r"(?:([0-9]{1,7})-)?([0-9]{1,7}):([0-5][0-9]):([0-5][0-9])"
SIZE = r"([0-9]{1,15}(?:\.[0-9]{1,15})?)\s*([KMGTP]i?)B?"
_LARGEST = 2**60  # bytes
_POWER = {"K": 1, "M": 2, "G": 3, "T": 4, "P": 5}


def seconds(text: str) -> int:
    """`48h`, `1d12h`, `90m`, `48:00:00` or `1-12:00:00` as seconds. Raises ValueError."""
    for pattern in (DURATION, CLOCK):
        match = re.fullmatch(pattern, text.strip())
        if match and any(match.groups()):
            days, hours, minutes, secs = (int(g or 0) for g in match.groups())
            return ((days * 24 + hours) * 60 + minutes) * 60 + secs
    raise ValueError(f"{text!r} is not a duration; write 48h, 90m, 1d12h or 48:00:00")


def clock(total: int) -> str:
    """Seconds as Slurm reads them, rounded up to a minute: `2-00:00:00`, `00:30:00`."""
    minutes = -(-total // 60)
    days, minutes = divmod(minutes, 24 * 60)
    text = f"{minutes // 60:02}:{minutes % 60:02}:00"
    return f"{days}-{text}" if days else text


def brief(total: float) -> str:
    """Seconds for a person: `9 s`, `4 min 10 s`, `2 h 05 min`, `3 d 4 h`."""
    left = round(total)
    if left < 60:
        return f"{left} s"
    if left < 3600:
        return f"{left // 60} min {left % 60:02} s"
    if left < 86400:
        return f"{left // 3600} h {left % 3600 // 60:02} min"
    return f"{left // 86400} d {left % 86400 // 3600} h"


def size(text: str) -> int:
    """`80GB` (powers of 1000) or `80GiB` (powers of 1024) as bytes. Raises ValueError."""
    match = re.fullmatch(SIZE, text.strip())
    if not match:
        raise ValueError(f"{text!r} is not a size; write it with its unit, such as 80GB or 512GiB")
    number, unit = float(match[1]), match[2]
    step = 1024 if unit.endswith("i") else 1000
    amount = number * float(step ** _POWER[unit[0]])
    if amount > _LARGEST:
        raise ValueError(f"{text!r} is more than 1 EiB")
    return round(amount)


def gigabytes(count: float) -> str:
    """Bytes for a person, in powers of 1000 as the ZeRO paper and GPU data sheets count them."""
    for unit, power in (("TB", 4), ("GB", 3), ("MB", 2), ("kB", 1)):
        if count >= 1000**power:
            return f"{count / 1000**power:.{1 if count < 100 * 1000**power else 0}f} {unit}"
    return f"{count:.0f} B"


def distinct(one: float, other: float) -> tuple[str, str]:
    """Two figures with nine digits, all that a float32 has, or as many more as tell them apart."""
    short = (f"{one:.9g}", f"{other:.9g}")
    return short if short[0] != short[1] else (repr(one), repr(other))


def count(number: int) -> str:
    """A number of parameters for a person: `1.9 million`, `6.74 billion`."""
    if number < 10**6:
        return f"{number:,}"
    rounded = int(float(f"{number:.3g}"))  # first, or 999.9 million would be 1e+03 million
    word, power = next(u for u in (("trillion", 12), ("billion", 9), ("million", 6)) if rounded >= 10 ** u[1])
    amount = rounded / 10**power
    return f"{amount:.3g} {word}" if amount < 1000 else f"{amount:,.0f} {word}"


def printable(text: str) -> str:
    """`text` on one line for a terminal or a picture: control characters and broken UTF-8 as backslash escapes."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def escaped(text: str) -> str:
    """`text`, which is JSON, in UTF-8: what is none, such as a byte of a path, is an escape that JSON reads back."""
    return text.encode("utf-8", "backslashreplace").decode()
