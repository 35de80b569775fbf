"""Pictures in files: the suffix says which kind, whole or not there, and never in place of somebody's file."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pytest

from launcher.cli import main
from launcher.reports import pictures

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.heavy


def plot(*paths: Path, job: str = "quickstart") -> int:
    return main.main(
        ["plan", f"jobs/{job}.yaml", *(word for path in paths for word in ("--plot", str(path)))]
    )


def test_each_kind_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="it draws")
    paths = [tmp_path / f"a{suffix}" for suffix in pictures.STARTS]
    assert plot(*paths) == 0
    first = [path.read_bytes() for path in paths]
    assert all(
        content.startswith(pictures.STARTS[path.suffix]) for path, content in zip(paths, first, strict=True)
    )
    assert capsys.readouterr().err.splitlines()[-len(paths) :] == [f"wrote {path}" for path in paths]
    assert plot(*paths) == 0  # its own pictures may be drawn anew, and are the same
    assert [path.read_bytes() for path in paths] == first
    assert sorted(tmp_path.iterdir()) == sorted(paths)


def test_the_page_holds_the_picture_and_what_the_terminal_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib", reason="it draws")
    assert plot(tmp_path / "a.html", job="llama-7b") == 0
    text = (tmp_path / "a.html").read_text()
    assert "verdict               fits" in text
    assert not re.search(r"<script|src=|href=\"(?!#)|@import|url\((?!#)", text)
    svg = ElementTree.fromstring(text[text.index("<svg") : text.index("</svg>") + 6])
    assert "memory per GPU" in "".join(svg.itertext())
    assert "wrote" in capsys.readouterr().err


def test_a_run_of_any_name(tmp_path: Path) -> None:
    """A folder is named by whoever made it: names are shown as they are, in text, XML and pictures."""
    pytest.importorskip("matplotlib", reason="it draws")
    name = "a<script>&$x^2$'\"\x1b[31m"
    folder = tmp_path / name.replace("/", "")
    folder.mkdir()
    (folder / "metrics.jsonl").write_text(json.dumps({"step": 1, "loss": 2.0}) + "\n")
    page = tmp_path / "a.html"
    assert main.main(["report", str(folder), "--plot", str(page)]) == 0
    text = page.read_text()
    assert "<script" not in text
    assert "\x1b" not in text
    svg = ElementTree.fromstring(text[text.index("<svg") : text.index("</svg>") + 6])
    assert "a<script>&$x^2$'\"\\x1b[31m" in "".join(svg.itertext())


def test_steps_without_a_figure_are_not_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": "x"}\n')
    assert main.main(["report", f"{tmp_path}/", "--plot", str(tmp_path / "a.html")]) == 5
    assert "there is nothing to draw" in capsys.readouterr().err
    assert not (tmp_path / "a.html").exists()


@pytest.mark.parametrize("what", [["--plot", "a.svg"], ["--html", "a.html"], ["--serve"]])
def test_where_no_run_has_begun_there_is_nothing_to_draw(
    what: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As of a pipeline whose first stage is not recorded yet."""
    monkeypatch.chdir(tmp_path)
    stage = {"stage": "a", "run": "chain-a", "needs": []}
    (tmp_path / "runs" / "chain").mkdir(parents=True)
    (tmp_path / "runs" / "chain" / "pipeline.json").write_text(json.dumps({"id": "chain", "stages": [stage]}))
    assert main.main(["report", "chain", *what]) == 5
    assert "there is nothing to draw: there is no run yet" in capsys.readouterr().err
    assert main.main(["report", "chain"]) == 0
    assert capsys.readouterr().out == "nothing was measured\n"


@pytest.mark.parametrize("suffix", pictures.STARTS)
def test_nothing_of_the_users_is_replaced(
    suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine, new = tmp_path / f"notes{suffix}", tmp_path / f"new{suffix}"
    mine.write_text("name: mine\n")
    assert plot(new, mine) == 2
    assert mine.read_text() == "name: mine\n"
    assert not new.exists(), "nothing is half done"
    assert f"--plot {mine}: the file exists and is no picture; it is left" in capsys.readouterr().err
    os.mkfifo(tmp_path / f"pipe{suffix}")
    assert plot(tmp_path / f"pipe{suffix}") == 2
    (tmp_path / f"folder{suffix}").mkdir()
    assert plot(tmp_path / f"folder{suffix}") == 2


def test_a_folder_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="it draws")
    assert plot(tmp_path / "absent" / "a.png") == 2
    assert f"there is no folder {tmp_path / 'absent'}; make it first" in capsys.readouterr().err


def test_a_home_that_cannot_be_written_is_no_word_on_the_screen(tmp_path: Path) -> None:
    """matplotlib keeps its fonts elsewhere then, and removes them."""
    pytest.importorskip("matplotlib", reason="it draws")
    (tmp_path / "tmp").mkdir()
    env = {k: v for k, v in os.environ.items() if not k.startswith(("XDG_", "MPL"))}
    env |= {"HOME": "/proc/absent", "TMPDIR": str(tmp_path / "tmp")}
    words = ["plan", "jobs/quickstart.yaml", "--plot", str(tmp_path / "a.svg")]
    done = subprocess.run(
        [sys.executable, "-m", "launcher", *words], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert "atplotlib" not in done.stderr
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize("name", ["a", "a.gif", "job.yaml", ".png"])
def test_a_suffix_says_which_kind(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["plan", "jobs/quickstart.yaml", "--plot", name]) == 2
    assert "name a file that ends in .html, .png, .svg, .pdf" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", pictures.STARTS)
def test_without_matplotlib_the_way_to_it_is_said(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert plot(tmp_path / f"a{suffix}") == 6
    assert list(tmp_path.iterdir()) == []
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines()[-1] == (
        "error: --plot needs matplotlib, which is not installed; pip install 'matplotlib>=3.8'"
    )


def test_without_an_estimate_there_is_nothing_to_draw(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plot(tmp_path / "a.html", job="startup") == 3
    assert "jobs/startup.yaml:4:1: there is nothing to draw" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("limit", [["--max-model", "llama"], ["--min-nodes"]])
def test_limits_are_drawn_too(limit: list[str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="it draws")
    words = ["plan", "jobs/llama-7b.yaml", *limit, "--json", "--plot", str(tmp_path / "a.png")]
    assert main.main(words) == 0
    assert (tmp_path / "a.png").stat().st_size
