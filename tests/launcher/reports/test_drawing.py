"""Pictures: bars to scale, lines of every run in its own look, names as they are written, whatever they hold."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import pytest

from launcher.planning import plan
from launcher.reports import bars, drawing, estimate
from launcher.reports.curves import Chart
from tests import samples

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.heavy
matplotlib = pytest.importorskip("matplotlib", reason="it draws")
NAMES = ["a<b>&", "$x^2$", "$", "'q\" --", "_under", r"\frac{", "100%", "日本", "x" * 300]


def texts(draw: Callable[[], Any]) -> list[str]:
    """The words of a picture, as they are drawn."""
    svg = ElementTree.fromstring(drawing.encoded(draw, ["svg"])["svg"])
    return ["".join(element.itertext()) for element in svg.iter("{http://www.w3.org/2000/svg}text")]


def drawn(draw: Callable[[], Any]) -> Any:
    with matplotlib.rc_context(drawing.STYLE):
        return draw()


def chart(title: str, *lines: list[tuple[float, float]]) -> Chart:
    return Chart(title, "nats", list(lines), [line[:2] for line in lines])


def test_bars_are_to_scale() -> None:
    group = bars.Group(
        "memory", 40 * 10**9, (bars.Bar("a", {"x": 10**10, "y": 5 * 10**9}), bars.Bar("b", {"x": 10**11}))
    )
    (axes,) = drawn(lambda: drawing.memory("title", [group])).axes
    widths = [(patch.get_x(), patch.get_width()) for patch in axes.patches]
    assert widths == [(0, 10), (0, 100), (10, 5), (100, 0)]
    assert axes.get_xlim() == (0, 80)  # twice the capacity: the second bar is cut
    assert [text.get_text() for text in axes.texts] == ["15.0 GB", "» 100 GB"]
    assert axes.lines[0].get_xdata() == [40, 40]


@pytest.mark.parametrize("name", ["llama-70b", "quickstart"])
def test_every_part_has_a_colour_of_its_own(name: str) -> None:
    fit = plan.make(samples.loaded(f"jobs/{name}.yaml"), samples.SITE).estimate
    assert fit is not None
    for group in estimate.groups(fit):
        assert len(group.names) <= len(drawing.COLOURS)


def test_the_selected_configuration_and_the_capacity_are_named() -> None:
    group = bars.Group(
        "memory per GPU", 10**10, (bars.Bar("zero1", {"x": 1}), bars.Bar("zero2", {"y": 1}, "", True))
    )
    said = texts(lambda: drawing.memory("title", [group]))
    assert {"title", "memory per GPU", "→ zero2", "zero1", "x", "y", "GB", "capacity, 10.0 GB"} <= set(said)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_drawn_as_it_is(name: str) -> None:
    lines = [(1.0, 2.0), (2.0, 1.0)]
    assert name in "".join(texts(lambda: drawing.runs(name, [name], [chart("Loss", lines)])))
    keys = texts(lambda: drawing.runs("", [name, "other"], [chart("Loss", lines, lines)]))
    assert name in keys
    assert name in texts(lambda: drawing.memory("t", [bars.Group("m", None, (bars.Bar(name, {name: 1}),))]))


def test_axes_say_what_they_show() -> None:
    lines = [(1.0, 2.0), (2.0, 1.0)]
    said = texts(lambda: drawing.runs("run", ["run"], [chart("Loss", lines)]))
    assert {"Loss", "nats", "optimizer steps", "validation loss"} <= set(said)


def test_runs_that_share_a_colour_differ_in_their_dashes() -> None:
    looks = [tuple(drawing._look(run).values()) for run in range(28)]
    assert len(set(looks)) == len(looks)


@pytest.mark.parametrize(
    "points", [[(1.0, 3.4e38), (2.0, -3.4e38)], [(1.0, 5.0)], [(1e18, 0.0), (2.0, 1e-300)], [(1.0, 1.0)] * 3]
)
def test_extreme_values_are_drawn(points: list[tuple[float, float]]) -> None:
    contents = drawing.encoded(
        lambda: drawing.runs("r", ["r"], [chart("Loss", points)]), ["png", "svg", "pdf"]
    )
    assert contents["png"].startswith(b"\x89PNG")
    assert contents["pdf"].startswith(b"%PDF-")
    assert not re.search(rb"\b(nan|inf)\b", contents["svg"])


def test_the_same_picture_has_the_same_bytes() -> None:
    def draw() -> Any:
        return drawing.runs("r", ["r"], [chart("Loss", [(1.0, 2.0), (2.0, 1.0)])])

    kinds = ["png", "svg", "pdf"]
    assert drawing.encoded(draw, kinds) == drawing.encoded(draw, kinds)
