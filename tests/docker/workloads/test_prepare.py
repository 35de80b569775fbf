"""Tokens are prepared whole or not at all: killed, interrupted, by several processes and by two jobs at once."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

np = pytest.importorskip("numpy", reason="the train extra is not installed")
pytest.importorskip("transformers", reason="the train extra is not installed")

from workloads import (  # noqa: E402
    cache,
    claims,
    completing,
    cores,
    cutting,
    prepare,
    progress,
    readers,
    session,
    tokenizer,
    tokenizing,
)

from launcher.runs import claims as launcher_claims  # noqa: E402
from tests.docker.workloads import preparing, ranks  # noqa: E402

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.torch

ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": f"{ranks.DOCKER}{os.pathsep}{ranks.DOCKER.parent}",
    "HF_HUB_OFFLINE": "1",
}


def outcome(mode: str, folder: Path) -> dict[str, Any]:
    words = [sys.executable, "-m", "tests.docker.workloads.preparing", mode, str(folder)]
    done = subprocess.run(words, env=ENVIRONMENT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.mark.heavy
def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    result = outcome("kill", tmp_path)
    assert result["codes"] == [0]
    assert result["shards"] > 8
    assert len(result["tries"]) == preparing.MOMENTS
    for code, _, again, same in result["tries"]:
        assert code == -signal.SIGKILL
        assert again == 0
        assert same, result
    assert len({shards for _, shards, *_ in result["tries"]}) > 4  # the moments were different ones


@pytest.mark.heavy
def test_two_at_once_do_the_work_once(tmp_path: Path) -> None:
    result = outcome("twice", tmp_path)
    assert result["codes"] == [0, 0]
    one, two = map(set, result["written"])
    assert one
    assert two
    assert not one & two
    assert len(one | two) == result["shards"]
    assert result["same"]


def test_the_end_token_is_part_of_the_key(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("some words")
    by, other = tokenizer.existing("bytes"), tokenizer.existing("bytes")
    other.eos_token = "x"
    keys = {cache.key([str(tmp_path / "a.txt")], one) for one in (by, other, by)}
    assert len(keys) == 2


@pytest.mark.parametrize("name", ["a.txt", "saved", ""])
def test_the_spelling_of_a_path_is_no_part_of_the_key(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "folder"
    (folder / "saved").mkdir(parents=True)
    (folder / "saved" / "state.json").write_text("{}")  # as save_to_disk leaves it
    (folder / "a.txt").write_text("some words")
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    spelled = [f"{tmp_path}/{way}/{name}" for way in ("folder", "./folder", "folder/", "x/../folder", "link")]
    by = tokenizer.existing("bytes")
    (tmp_path / "x").mkdir()
    assert len({cache.key([word], by) for word in (*spelled, f"folder/{name}", f"./link/{name}")}) == 1


@pytest.mark.parametrize("name", ["00000.bin", "00000.idx"])
def test_a_cache_that_lost_a_file_is_told(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("some words " * 100)
    by, within = tokenizer.existing("bytes"), tmp_path / "cache"
    folder = cache.make([str(tmp_path / "a.txt")], by, within, cache.Making(1))
    (folder / name).unlink()
    with pytest.raises(session.Stop, match=r"00000\.bin or its \.idx is gone or not whole"):
        cache.make([str(tmp_path / "a.txt")], by, within, cache.Making(1))


@pytest.mark.heavy
def test_memory_does_not_grow_with_the_text(tmp_path: Path) -> None:
    result = outcome("memory", tmp_path)
    (small, large), (few, many) = result["grown"], result["bytes"]
    assert many > 3.9 * few
    assert large - small < (many - few) / 4, result


@pytest.mark.heavy
def test_processes_make_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "SMALLEST", preparing.SHARD)
    given, by = preparing.words(tmp_path), tokenizer.existing("bytes")
    for processes in (1, 3):
        cache.make(given, by, tmp_path / str(processes), cache.Making(processes))
    assert preparing.contents(tmp_path / "3") == preparing.contents(tmp_path / "1")


@pytest.mark.heavy
def test_a_mistake_that_another_process_finds_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cutting, "SMALLEST", preparing.SHARD)
    given, by = preparing.words(tmp_path), tokenizer.existing("bytes")
    with (tmp_path / "lines.jsonl").open("a") as file:
        file.write('\n{"text": 5}')
    with pytest.raises(session.Stop, match=r'lines.jsonl:401: "text" is a number, not a string'):
        cache.make(given, by, tmp_path / "cache", cache.Making(2))
    assert list((tmp_path / "cache").iterdir()) == []


def run(folder: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "workloads.prepare", f"--run-dir={folder / 'run'}", "--model=byte-gpt"]
    return subprocess.run(
        [*command, *words], env={**ENVIRONMENT, **env}, capture_output=True, text=True, timeout=600
    )


@pytest.mark.heavy
def test_the_workload_says_what_it_made_where_training_looks(tmp_path: Path) -> None:
    done = run(tmp_path, "--processes=2", DATA_CACHE=str(tmp_path / "shared"))
    assert done.returncode == 0, done.stderr
    assert "79 documents, " in done.stdout
    assert "tokens a byte" in done.stdout
    (folder,) = (tmp_path / "shared").iterdir()
    facts = json.loads((folder / "corpus.json").read_text())
    assert facts["format"] == 3
    assert facts["shards"] == [["00000", facts["tokens"], facts["documents"]]]
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["folder"] == str(folder)
    assert summary["tokens"] == facts["tokens"]
    events = [json.loads(line)["event"] for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert events == ["start", "tokenized", "end"]
    bad = run(tmp_path, "--data=/no/such.txt", RANK="0")
    assert bad.returncode == 64
    assert bad.stderr.startswith("prepare: error: --data /no/such.txt: no such file or folder")


def test_it_needs_no_accelerator() -> None:
    assert not prepare.TRAITS.needs_accelerator


def test_a_signal_stops_it_and_what_is_whole_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "SMALLEST", preparing.SHARD)
    monkeypatch.setattr(tokenizing, "LOOK", 0.0)
    given, by = preparing.words(tmp_path), tokenizer.existing("bytes")
    (tmp_path / "cache").mkdir()

    def asked() -> str | None:
        return "SIGTERM" if len(list((tmp_path / "cache").rglob("*.idx"))) == 2 else None

    monkeypatch.setattr(session, "asked_to_stop", asked)
    with pytest.raises(session.Stop, match="stopped by SIGTERM while tokenizing: run it again") as stop:
        cache.make(given, by, tmp_path / "cache", cache.Making(1))
    assert stop.value.code == 75
    (folder,) = (tmp_path / "cache").iterdir()
    assert sorted(path.name for path in folder.glob("*.idx")) == ["00000.idx", "00001.idx"]
    assert not list(folder.glob("*.claim"))
    monkeypatch.undo()
    monkeypatch.setattr(cutting, "SMALLEST", preparing.SHARD)
    cache.make(given, by, tmp_path / "cache", cache.Making(1))
    cache.make(given, by, tmp_path / "whole", cache.Making(1))
    assert preparing.contents(tmp_path / "cache") == preparing.contents(tmp_path / "whole")


class Lines:
    """A log that keeps what it is given."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.events: list[dict[str, Any]] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def event(self, event: str, _step: int, **values: Any) -> None:
        self.events.append({"event": event, **values})


def work(folder: Path) -> tokenizing.Work:
    parts = tuple(cutting.Part("text", "a.txt", 0, 1000, 1000) for _ in range(1))
    shards = [cutting.Shard(f"{number:05}", 0, parts) for number in range(4)]
    return tokenizing.Work(folder, shards, None)  # type: ignore[arg-type]


def test_progress_counts_what_others_have_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, now = Lines(), [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    telling = progress.Progress(log, None)  # type: ignore[arg-type]
    telling.look(work(tmp_path))
    (tmp_path / "00000.idx").touch()
    (tmp_path / "00002.claim").write_text('{"done": 250}')
    now[0] += 30
    telling.look(work(tmp_path))
    assert log.said == []  # a minute has not passed
    now[0] += 70
    telling.look(work(tmp_path))
    assert log.said == ["tokenizing: 0.0 of 0.0 MB (31%), 0.00 MB/s, 0:03:40 left"]
    (event,) = log.events
    assert event["bytes"] == 1250
    assert event["total_bytes"] == 4000
    assert event["bytes_per_second"] == pytest.approx(12.5)
    assert event["seconds_left"] == pytest.approx(220)


def test_a_wait_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    telling = progress.Progress(None, 2)
    now[0] += 119
    telling.look(work(tmp_path))
    now[0] += 2
    with pytest.raises(progress.Late, match=r"not ready after 2 minutes.*workload: prepare"):
        telling.look(work(tmp_path))


def test_what_is_there_stays_when_the_wait_was_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cutting, "SMALLEST", preparing.SHARD)
    given, by = preparing.words(tmp_path), tokenizer.existing("bytes")
    with pytest.raises(session.Stop, match="not ready after 0 minutes"):
        cache.make(given, by, tmp_path / "cache", cache.Making(1, None, 0.0))
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_claim_of_a_process_that_is_gone_is_void(tmp_path: Path) -> None:
    path = tmp_path / "a.claim"
    number = os.fork()
    if not number:
        claims.Watch().claim(path)
        os._exit(0)
    os.waitpid(number, 0)
    watch = claims.Watch()
    claim = watch.claim(path)
    assert claim is not None
    claim.release()
    assert not path.exists()


def test_a_claim_of_another_host_is_void_when_nobody_touches_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    path, watch = tmp_path / "a.claim", claims.Watch()
    owner = {"host": "there", "kernel": "other", "process": 1, "started": "5"}
    path.write_text(json.dumps(owner))
    for second in range(0, 300, 50):
        now[0] = float(second)
        assert watch.claim(path) is None
        os.utime(path, (second + 1, second + 1))  # it works
    now[0] += claims.VOID + 1
    assert watch.claim(path) is None  # the last touch is seen now
    now[0] += claims.VOID + 1
    assert watch.claim(path) is not None


def test_a_touch_that_hangs_keeps_nobody_from_leaving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "_PATIENCE", 0.01)
    ended, answer = threading.Event(), threading.Event()
    thread = threading.Thread(target=answer.wait, daemon=True)
    thread.start()
    claim = claims.Watch().claim(tmp_path / "a.reader")
    assert claim
    readers._release(claim, ended, thread)
    assert ended.is_set()
    assert claim.path.exists(), "the folder does not answer"
    answer.set()


@pytest.mark.parametrize("rank", [0, 1])
def test_the_first_rank_removes_what_killed_readers_have_left(
    rank: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", str(rank))
    with contextlib.ExitStack() as ours:
        monkeypatch.setattr(session, "at_end", ours)
        old = tmp_path / "old.reader"
        old.touch()
        os.utime(old, (1e9, 1e9))
        readers.hold(tmp_path)
        assert old.exists() == (rank != 0)


def test_who_reads_says_so_until_it_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = contextlib.ExitStack()
    monkeypatch.setattr(session, "at_end", ours)
    monkeypatch.setattr(claims, "BEAT", 0.01)
    if not (number := os.fork()):
        readers.hold(tmp_path)
        os._exit(0)  # killed, as far as anybody sees
    os.waitpid(number, 0)
    (left,) = tmp_path.iterdir()
    assert launcher_claims.held(tmp_path) is None, "its process is gone"
    readers.hold(tmp_path)
    readers.hold(tmp_path / "not there")
    (own,) = tmp_path.iterdir()
    assert own != left
    assert launcher_claims.held(tmp_path) == own
    completing.tidy(tmp_path)  # as another job does that finds the corpus complete
    os.utime(own, (1e9, 1e9))
    end = time.monotonic() + 60
    while own.stat().st_mtime == 1e9:  # other hosts see nothing but this
        assert time.monotonic() < end
        time.sleep(0.01)
    ours.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("quota", "expected"), [("max 100000", None), ("150000 100000", 2), ("50000 100000", 1)]
)
def test_no_more_cores_than_the_container_may_use(
    quota: str, expected: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores, "QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    (tmp_path / "cpu.max").write_text(quota)
    assert cores.usable() == (expected or 8)
    (tmp_path / "cpu.max").unlink()
    assert cores.usable() == 8
