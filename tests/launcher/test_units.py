"""Durations and sizes go both ways."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher import units

UNITS = {"K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("48h", 172_800),
        ("1d12h", 129_600),
        ("90m", 5_400),
        ("30s", 30),
        ("48:00:00", 172_800),
        ("1-12:00:00", 129_600),
        (" 2h ", 7_200),
    ],
)
def test_seconds(text: str, seconds: int) -> None:
    assert units.seconds(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "48", "2 days", "48:00", "1h1d", "h", "-1h", "1.5h", "00:60:00", "00:00:60", "1" * 5000 + "h", "²h"],
)
def test_not_seconds(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration; write 48h"):
        units.seconds(text)


@given(st.integers(0, 99), st.integers(0, 99), st.integers(0, 99), st.integers(1, 99))
def test_parts_add_up(days: int, hours: int, minutes: int, seconds: int) -> None:
    total = units.seconds(f"{days}d{hours}h{minutes}m{seconds}s")
    assert total == ((days * 24 + hours) * 60 + minutes) * 60 + seconds


@given(st.integers(0, 10**9))
def test_clock_is_read_back_rounded_up_to_a_minute(total: int) -> None:
    again = units.seconds(units.clock(total))
    assert again % 60 == 0
    assert total <= again < total + 60


@given(st.integers(0, 10**8))
def test_brief_is_right_to_its_last_unit(total: int) -> None:
    factor = {"s": 1, "min": 60, "h": 3600, "d": 86_400}
    words = units.brief(total).split()
    parts = list(zip(map(int, words[::2]), words[1::2], strict=True))
    assert len(parts) <= 2
    said = sum(count * factor[unit] for count, unit in parts)
    assert said <= total < said + factor[parts[-1][1]]


@given(st.integers(1, 10**6), st.sampled_from(sorted(UNITS)), st.sampled_from(["", "B"]))
def test_size(count: int, unit: str, end: str) -> None:
    assert units.size(f"{count}{unit}{end}") == count * UNITS[unit]
    assert units.size(f"{count} {unit}{end}") == count * UNITS[unit]


@pytest.mark.parametrize(
    ("text", "count"), [("1.5GB", 1_500_000_000), ("0.5KiB", 512), ("141.1GB", 141_100_000_000)]
)
def test_size_with_a_fraction(text: str, count: int) -> None:
    assert units.size(text) == count


@pytest.mark.parametrize(
    "text", ["", "80", "80 gigs", "80B", "-80GB", "80GBs", "80gb", ".5GB", "9" * 400 + "GB"]
)
def test_not_a_size(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size; write it with its unit"):
        units.size(text)


@given(st.integers(0, 10**15))
def test_gigabytes_are_read_back_within_what_is_shown(count: int) -> None:
    text = units.gigabytes(count)
    match = re.fullmatch(r"([0-9]+(?:\.[0-9])?) (TB|GB|MB|kB|B)", text)
    assert match, text
    factor = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}[match[2]]
    assert abs(float(match[1]) * factor - count) <= (0.05 if "." in match[1] else 0.5) * factor + 1


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (999_999, "999,999"),
        (10**6, "1 million"),
        (999_499_999, "999 million"),
        (999_500_001, "1 billion"),
        (10**9 - 1, "1 billion"),
        (6_738_415_616, "6.74 billion"),
        (10**12 - 1, "1 trillion"),
        (10**15, "1,000 trillion"),
    ],
)
def test_counts_are_rounded_before_their_unit_is_chosen(number: int, text: str) -> None:
    assert units.count(number) == text


@pytest.mark.parametrize("text", ["1153PB", "999999999999999PB", "1025PiB", "999999999999999.9TiB"])
def test_sizes_that_nothing_has(text: str) -> None:
    with pytest.raises(ValueError, match="is more than 1 EiB"):
        units.size(text)


def test_figures_that_differ_are_written_apart() -> None:
    assert units.distinct(0.5, 2.123456789) == ("0.5", "2.12345679")
    assert units.distinct(2.12345678901, 2.12345678902) == ("2.12345678901", "2.12345678902")
