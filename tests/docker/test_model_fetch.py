"""A model comes from a hub that refuses, is cut off or is not there: fetched once, by a real process."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import ending
import model_fetch
import pytest

from launcher import ROOT
from tests.docker import fakehub

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PROGRAM = ROOT / "docker" / "model_fetch.py"
# As it stands, but that the hub's own client, which waits a second after each cut, waits less.
HURRIED = """import runpy, sys, time
sleep = time.sleep
time.sleep = lambda seconds: sleep(min(seconds, 0.01))
sys.path[0], sys.argv = sys.argv[1], sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def hub() -> Iterator[fakehub.Hub]:
    with fakehub.running() as hub:
        yield hub


def environment(home: Path, hub: fakehub.Hub | None, **more: str) -> dict[str, str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))}
    address = {"HF_ENDPOINT": hub.address} if hub else {}
    return {**clean, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", **address, **more}


def fetch(
    home: Path, hub: fakehub.Hub | None, *words: str, model: str = fakehub.MODEL, **more: str
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", HURRIED, str(PROGRAM.parent), str(PROGRAM)]
    command += [f"--model={model}", "--pause", "0.01", *words]
    return subprocess.run(
        command, env=environment(home, hub, **more), capture_output=True, text=True, timeout=120
    )


def snapshot(home: Path) -> Path:
    return home / "hub" / "models--team--tiny" / "snapshots" / fakehub.COMMIT


def check(home: Path) -> None:
    """All files that workloads read are there, whole, and no others."""
    kept = {
        path.relative_to(snapshot(home)).as_posix(): path.read_bytes()
        for path in snapshot(home).rglob("*")
        if path.is_file()
    }
    names = ("config.json", "model.safetensors", "tokenizer.json")
    assert kept == {name: fakehub.FILES[name] for name in names}
    assert (snapshot(home).parents[1] / "refs" / "main").read_text() == fakehub.COMMIT


def test_what_workloads_read_comes_once(tmp_path: Path, hub: fakehub.Hub) -> None:
    done = fetch(tmp_path, hub)
    assert done.returncode == 0, done.stderr
    check(tmp_path)
    assert "3 files, 0.00 GB" in done.stderr
    assert "ready after" in done.stderr
    assert fetch(tmp_path, hub).returncode == 0
    assert hub.asked["get model.safetensors"] == 1


def test_too_many_requests_are_waited_out(tmp_path: Path, hub: fakehub.Hub) -> None:
    hub.refusals = {"info": [429, 429, 503], "tree": [429], "head": [429], "get": [429, 500]}
    done = fetch(tmp_path, hub)
    assert done.returncode == 0, done.stderr
    check(tmp_path)
    assert "the next try is in" in done.stderr


def test_a_cut_file_goes_on_where_it_was_cut(tmp_path: Path, hub: fakehub.Hub) -> None:
    hub.cuts = [300_000, 300_000, 0, 0, 0, 0, 0, 0, 0]  # more in a row than the hub's client tries
    done = fetch(tmp_path, hub)
    assert done.returncode == 0, done.stderr
    check(tmp_path)
    assert hub.cuts == []


def test_a_hub_that_never_answers_ends_the_run(tmp_path: Path, hub: fakehub.Hub) -> None:
    hub.refusals = {"info": [429] * 100}
    done = fetch(tmp_path, hub, "--tries", "3")
    assert done.returncode == ending.NOT_STARTED
    assert "3 tries without progress" in done.stderr
    assert len(hub.refusals["info"]) <= 97


def test_what_no_try_would_mend_is_said_at_once(tmp_path: Path, hub: fakehub.Hub) -> None:
    done = fetch(tmp_path, hub, model="team/other")
    assert done.returncode == ending.BAD_INPUT
    assert "the hub has none of this name, or shows it only to who has a token" in done.stderr
    hub.refusals = {"info": [403]}
    assert fetch(tmp_path, hub).returncode == ending.BAD_INPUT
    assert hub.asked["info"] == 1


def test_offline_is_honoured(tmp_path: Path, hub: fakehub.Hub) -> None:
    done = fetch(tmp_path, hub, HF_HUB_OFFLINE="1")
    assert done.returncode == ending.BAD_INPUT
    assert "HF_HUB_OFFLINE is set, and it is not in the cache" in done.stderr
    assert not hub.asked
    assert fetch(tmp_path, hub).returncode == 0
    asked = sum(hub.asked.values())
    assert fetch(tmp_path, hub, HF_HUB_OFFLINE="1").returncode == 0
    assert sum(hub.asked.values()) == asked


def test_a_model_that_is_there_needs_no_hub(tmp_path: Path, hub: fakehub.Hub) -> None:
    assert fetch(tmp_path, hub).returncode == 0
    done = fetch(tmp_path, None, HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 0, done.stderr
    assert "the ranks use what is in" in done.stderr
    (snapshot(tmp_path) / "model.safetensors").unlink()
    done = fetch(tmp_path, None, "--tries", "2", HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == ending.NOT_STARTED


def test_hosts_with_one_cache_fetch_once(tmp_path: Path, hub: fakehub.Hub) -> None:
    words = [sys.executable, str(PROGRAM), f"--model={fakehub.MODEL}"]
    started = [subprocess.Popen(words, env=environment(tmp_path, hub)) for _ in range(3)]
    assert [process.wait(120) for process in started] == [0, 0, 0]
    check(tmp_path)
    assert hub.asked["get model.safetensors"] == 1


def test_of_a_tokenizer_no_weights_come(tmp_path: Path, hub: fakehub.Hub) -> None:
    alone = [sys.executable, str(PROGRAM), f"--tokenizer={fakehub.MODEL}"]
    for _ in range(2):
        assert subprocess.run(alone, env=environment(tmp_path, hub), timeout=120).returncode == 0
    names = {path.name for path in snapshot(tmp_path).iterdir()}
    assert names == {"config.json", "tokenizer.json"}
    offline = subprocess.run(alone, env=environment(tmp_path, None, HF_HUB_OFFLINE="1"), timeout=120)
    assert offline.returncode == 0
    assert fetch(tmp_path, hub).returncode == 0, "the weights come when they are wanted"
    check(tmp_path)


def test_each_of_several_is_fetched_or_told(tmp_path: Path, hub: fakehub.Hub) -> None:
    done = fetch(tmp_path, hub, "--model=team/other", "--tokenizer=team/third")
    assert done.returncode == ending.BAD_INPUT
    check(tmp_path)
    for what in ("model team/other", "tokenizer team/third"):
        assert f"error: {what}: the hub has none of this name" in done.stderr


def test_a_folder_is_no_model_of_the_hub(tmp_path: Path, hub: fakehub.Hub) -> None:
    assert fetch(tmp_path, hub, model=str(tmp_path)).returncode == 0
    assert not hub.asked


def test_no_token_is_said(tmp_path: Path, hub: fakehub.Hub) -> None:
    hub.refusals = {"info": [429, 403]}
    done = fetch(tmp_path, hub, HF_TOKEN="hf_" + "secretsecret")
    assert "secretsecret" not in done.stdout + done.stderr


def test_progress_has_a_rate_and_the_time_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    args, ended = model_fetch.arguments(["--news", "0.05"]), threading.Event()
    thread = threading.Thread(
        target=model_fetch._tell, args=(args, model_fetch.Wanted("m", True, tmp_path), 4_000_000_000, ended)
    )
    thread.start()
    told = ""
    while " s left" not in told:  # each line follows a growth
        with (blobs / "a.incomplete").open("ab") as file:
            file.write(b"\0" * 1_000_000)
        time.sleep(0.01)
        told += capsys.readouterr().err
    ended.set()
    thread.join()
    assert "of 4.00 GB" in told
    assert "MB/s" in told


def test_a_full_disk_is_not_tried_again() -> None:
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/cache/blob")
    assert model_fetch._hopeless(error) == "/cache/blob: No space left on device"
    assert model_fetch._hopeless(OSError("Consistency check failed")) == ""
    assert model_fetch._hopeless(ConnectionResetError(errno.ECONNRESET, "reset")) == ""
