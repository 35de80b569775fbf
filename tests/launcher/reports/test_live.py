"""The report as a page that is drawn anew: on this machine alone, read again by the browser, and one at a time."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import pytest

from launcher import ROOT
from launcher.cli import main
from launcher.errors import LauncherError, RunNotFoundError, SpecError
from launcher.reports import live
from tests.launcher.reports import test_life

if TYPE_CHECKING:
    from pathlib import Path

LIMIT = 120  # seconds


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=LIMIT) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("0", ("127.0.0.1", 0)),
        ("8080", ("127.0.0.1", 8080)),
        ("0.0.0.0:8080", ("0.0.0.0", 8080)),
        ("gpu-1.a:65535", ("gpu-1.a", 65535)),
        ("gpu-1.a", ("gpu-1.a", 0)),
        ("1.2.3.4", ("1.2.3.4", 0)),
        ("[::1]:0", ("::1", 0)),
        ("[::1]", ("::1", 0)),
    ],
)
def test_where(text: str, where: tuple[str, int]) -> None:
    assert live.address(text) == where


@pytest.mark.parametrize("text", ["", "65536", "a:65536", ":80", "a:b", "::1", "[a]:1", "a b:80", "٣"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(SpecError, match="is no address"):
        live.address(text)


@pytest.mark.parametrize("host", ["192.0.2.1", "a..b"])
def test_a_host_that_is_not_this_machine(host: str) -> None:
    """192.0.2.0/24 is nobody's: https://www.rfc-editor.org/rfc/rfc5737"""
    with pytest.raises(SpecError, match="name a host or an address of this machine"):
        live.server((host, 0), live.Page(lambda: b""))


@pytest.mark.heavy
def test_a_page_is_drawn_once_for_all_who_look() -> None:
    drawn: list[int] = []
    page = live.Page(lambda: drawn.append(1) or b"page")  # type: ignore[func-returns-value]
    with live.server(("127.0.0.1", 0), page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        assert [get(f"{url}/") for _ in range(3)] == [(200, "page")] * 3
        assert get(f"{url}/etc/passwd") == (404, "the page is at /\n")
        server.shutdown()
    assert len(drawn) == 1


def test_the_last_page_stays_where_a_new_one_cannot_be_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "REFRESH", 0)
    pages: list[bytes | LauncherError] = [b"first", RunNotFoundError("gone")]

    def draw() -> bytes:
        page = pages.pop(0)
        if isinstance(page, LauncherError):
            raise page
        return page

    page = live.Page(draw)
    assert (page.content(), page.content()) == (b"first", b"first")
    with pytest.raises(RunNotFoundError):
        live.Page(lambda: (_ for _ in ()).throw(RunNotFoundError("gone"))).content()


def test_a_port_that_is_taken() -> None:
    with live.server(("127.0.0.1", 0), live.Page(lambda: b"")) as server:
        where = ("127.0.0.1", server.server_address[1])
        with pytest.raises(SpecError, match="Address already in use"):
            live.server(where, live.Page(lambda: b""))


@pytest.mark.heavy
def test_the_verb_serves_until_it_is_interrupted(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="it draws")
    test_life.write(tmp_path)
    words = [sys.executable, "-m", "launcher", "report", f"{tmp_path}/", "--serve"]
    with subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True, env={**os.environ}) as process:
        assert process.stderr
        url = process.stderr.readline().split()[0]
        try:
            assert url.startswith("http://127.0.0.1:")
            code, page = get(url)
            assert code == 200
            assert '<meta http-equiv="refresh" content="10">' in page
            for words_ in ("Time that each rank needs", "GPU hours", "slow rank", "WHERE THE TIME WENT"):
                assert words_ in page
            assert "<script" not in page
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT) == main.INTERRUPTED
        assert process.stderr.read() == "interrupted\n"


@pytest.mark.heavy
@pytest.mark.heavy
def test_a_browser_shows_it(tmp_path: Path) -> None:
    """Chromium without a window: the page's policy lets its picture be seen, and nothing is refused or fails."""
    chromium = shutil.which("chromium")
    if not chromium:
        pytest.skip("chromium is not installed")
    image = pytest.importorskip("matplotlib.image", reason="it draws")
    test_life.write(tmp_path)
    words = [sys.executable, "-m", "launcher", "report", f"{tmp_path}/", "--serve"]
    with subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True, env={**os.environ}) as process:
        assert process.stderr
        url = process.stderr.readline().split()[0]
        shot, profile = tmp_path / "shot.png", f"--user-data-dir={tmp_path / 'profile'}"
        look = [chromium, "--headless", "--no-sandbox", "--disable-gpu", profile, "--enable-logging=stderr"]
        look += [f"--screenshot={shot}", "--window-size=1200,3000", "--hide-scrollbars", url]
        done = subprocess.run(look, capture_output=True, text=True, timeout=240, cwd=tmp_path)
        process.send_signal(signal.SIGINT)
    assert shot.exists(), done.stderr
    assert "CONSOLE" not in done.stderr, done.stderr
    pixels = image.imread(shot)[..., :3]
    colored = (pixels.max(axis=2) - pixels.min(axis=2)) > 0.2
    assert colored.any(axis=1).sum() > 200, "rows with curves and bars"


def test_nothing_to_show_is_said_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["report", f"{tmp_path}/", "--serve"]) == 5
    assert "there is nothing to draw" in capsys.readouterr().err
    test_life.write(tmp_path)
    assert main.main(["report", f"{tmp_path}/", "--serve", "127.0.0.1:x"]) == 2
    assert "--serve '127.0.0.1:x' is no address; write 8080" in capsys.readouterr().err
