"""Stacked bars in a terminal: to scale, with the capacity marked, and the figures of a plan."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from launcher.reports import bars

PARTS = st.dictionaries(st.sampled_from(["parameters", "gradients", "a<b>&"]), st.integers(0, 10**12))
BARS = st.builds(bars.Bar, st.sampled_from(["zero1", "zero3 + checkpointing", '"<&>']), PARTS)
GROUPS = st.builds(
    bars.Group,
    st.sampled_from(["memory per GPU", "a & b"]),
    st.none() | st.integers(1, 10**12),
    st.lists(BARS, min_size=1, max_size=5).map(tuple),
)


@given(GROUPS)
def test_a_bar_of_text_is_to_scale(group: bars.Group) -> None:
    for bar in group.bars:
        cells = bars.strip(group, bar)
        assert len(cells) == bars.WIDTH
        filled = sum(cell in bars.SHADES for cell in cells)
        wanted = bars.WIDTH * min(bar.total / group.scale, 1.0)
        assert abs(filled - wanted) <= 2.5
        assert ("»" in cells) == (round(min(bars.WIDTH * bar.total / group.scale, 99)) > bars.WIDTH)


@given(GROUPS)
def test_the_capacity_is_marked(group: bars.Group) -> None:
    first, *lines = bars.text(group)
    assert ("│" in first) == bool(group.capacity)
    assert len(lines) == len(group.bars)
    for bar, line in zip(group.bars, lines, strict=True):
        assert ("over by " in line) == (group.capacity is not None and bar.total > group.capacity)


def test_bars_of_text() -> None:
    group = bars.Group(
        "memory",
        40,
        (bars.Bar("a", {"x": 10, "y": 10}, selected=True), bars.Bar("long", {"x": 90}, "a host is small")),
    )
    assert list(bars.text(group)) == [
        "memory (│ = capacity, 40 B)",
        "→ a    [████▓▓▓▓········│               ]     20 B",
        "  long [████████████████│██████████████»]     90 B  over by 50 B; a host is small",
    ]
