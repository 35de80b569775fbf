"""Bars and curves as text, SVG and PNG: to scale, whole, and never in place of somebody's file."""

from __future__ import annotations

import io
import re
import sys
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.cli import main
from launcher.planning import plan
from launcher.reports import bars, charts, estimate, png
from tests import samples

if TYPE_CHECKING:
    from pathlib import Path

PARTS = st.dictionaries(st.sampled_from(["parameters", "gradients", "a<b>&"]), st.integers(0, 10**12))
BARS = st.builds(bars.Bar, st.sampled_from(["zero1", "zero3 + checkpointing", '"<&>']), PARTS)
GROUPS = st.builds(
    bars.Group,
    st.sampled_from(["memory of a GPU", "a & b"]),
    st.none() | st.integers(1, 10**12),
    st.lists(BARS, min_size=1, max_size=5).map(tuple),
)


def shipped(name: str, *settings: str) -> plan.Plan:
    return plan.make(samples.loaded(f"jobs/{name}.yaml", None, settings), samples.SITE)


# In a terminal


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
        assert (" too much" in line) == (group.capacity is not None and bar.total > group.capacity)


def test_bars_of_text() -> None:
    group = bars.Group(
        "memory",
        40,
        (bars.Bar("a", {"x": 10, "y": 10}, marked=True), bars.Bar("long", {"x": 90}, "a host is small")),
    )
    assert list(bars.text(group)) == [
        "memory (│ is what there is, 40 B)",
        "→ a    [████▓▓▓▓········│               ]     20 B",
        "  long [████████████████│██████████████»]     90 B  50 B too much; a host is small",
    ]


# As SVG


def drawing(group: bars.Group) -> ElementTree.Element:
    return ElementTree.fromstring(charts.stacked(group).replace("<p>", "<p xmlns=''>"))


@given(GROUPS)
def test_a_drawing_is_to_scale(group: bars.Group) -> None:
    figure = drawing(group)
    rects = list(figure.iter("rect"))
    wide = charts.BARS - charts.BAR_LEFT - charts.BAR_RIGHT
    for row, bar in enumerate(group.bars):
        top = str(charts.BAR_TOP + charts.ROW * row + 4)
        drawn = sum(float(r.attrib["width"]) for r in rects if r.attrib["y"] == top)
        assert drawn == pytest.approx(wide * min(bar.total / group.scale, 1.0), abs=0.5)
    lines = [p for p in figure.iter("path") if p.attrib["class"] == "capacity"]
    assert len(lines) == (1 if group.capacity else 0)
    texts = [t.text for t in figure.iter("text")]
    assert all(bar.name in texts for bar in group.bars)


def test_every_part_has_a_colour_of_its_own() -> None:
    made = shipped("llama-70b")
    assert made.fit is not None
    for group in estimate.groups(made.fit):
        assert len(group.names) <= len(charts.COLOURS)
        figure = drawing(group)
        shown = {r.attrib["fill"] for r in figure.iter("rect")}
        assert len(shown) <= len(group.names)


def test_the_page_says_what_the_terminal_says() -> None:
    made = shipped("llama-7b")
    assert made.fit is not None
    page = estimate.html(made.fit, "llama-7b <on> 4 hosts")
    assert "<title>llama-7b &lt;on&gt; 4 hosts</title>" in page
    assert page.count("<figure>") == len(estimate.groups(made.fit)) == 2
    assert "verdict               it fits" in page
    assert not re.search(r"<script|src=|href=|url\(", page)


def test_nvme_is_drawn_where_it_is_used() -> None:
    made = shipped("llama-70b", "deepspeed=zero3-nvme", "cluster.nvme={path: /nvme, size: 8TB}")
    assert made.fit is not None
    *_, last = estimate.groups(made.fit)
    assert (last.title, last.capacity) == ("NVMe of a host", 8 * 10**12)
    assert [bar.marked for bar in last.bars] == [True]


# As PNG


def colours(picture: bytes) -> set[str]:
    image = pytest.importorskip("matplotlib.image", reason="it draws")
    pixels = image.imread(io.BytesIO(picture))
    found = {tuple(round(float(v) * 255) for v in pixel[:3]) for row in pixels[::3] for pixel in row[::3]}
    return {"#{:02x}{:02x}{:02x}".format(*pixel) for pixel in found}


def test_a_picture_has_the_bars() -> None:
    pytest.importorskip("matplotlib", reason="it draws")
    group = bars.Group("memory", 10, (bars.Bar("a", {"x": 5, "y": 5}), bars.Bar("b", {"y": 9}, marked=True)))
    found = colours(png.stacked("title", [group], "note"))
    assert {charts.colour(0), charts.colour(1), "#ffffff"} <= found
    assert charts.colour(2) not in found


def test_a_picture_has_the_lines() -> None:
    pytest.importorskip("matplotlib", reason="it draws")
    points = [(float(x), float(x * x)) for x in range(50)]
    figures = [
        (name, [charts.Line("a", points), charts.Line("b", points[::-1])], [points[:2], ()]) for name in "pqr"
    ]
    assert charts.colour(1) in colours(png.lines("t", figures, ["a", "b"]))


# Files


def run(*words: str) -> int:
    return main.main(["plan", "jobs/quickstart.yaml", *words])


def test_both_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="it draws")
    page, picture = tmp_path / "a.html", tmp_path / "a.png"
    assert run("--html", str(page), "--png", str(picture)) == 0
    assert page.read_bytes().startswith(b"<!doctype html>")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert run("--html", str(page), "--png", str(picture)) == 0  # its own pictures may be drawn anew
    assert f"wrote {page}\nwrote {picture}\n" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--html", "--png"])
def test_nothing_of_the_users_is_replaced(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib", reason="it draws")
    mine = tmp_path / "job.yaml"
    mine.write_text("name: mine\n")
    assert run(option, str(mine)) == 2
    assert mine.read_text() == "name: mine\n"
    assert f"{option} {mine}: the file is there and is no picture; it stays" in capsys.readouterr().err
    assert run(option, str(tmp_path)) == 2
    assert run(option, str(tmp_path / "absent" / "a")) == 2


def test_without_matplotlib_the_way_to_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run("--png", str(tmp_path / "a.png")) == 6
    assert not (tmp_path / "a.png").exists()
    said = capsys.readouterr().err.splitlines()[-1]
    assert (
        said
        == "error: --png needs matplotlib, which is not here; pip install matplotlib; --html needs nothing"
    )


def test_without_an_estimate_there_is_nothing_to_draw(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["plan", "jobs/startup.yaml", "--html", str(tmp_path / "a.html")]) == 3
    assert "jobs/startup.yaml:4:1: there is nothing to draw" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
