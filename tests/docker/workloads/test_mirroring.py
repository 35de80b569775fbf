"""Uploads beside training: one process at a time, told once for each cause, and never the end of a run."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

import pytest
from ending import SAVED
from workloads import checkpoint_folder, mirroring, session
from workloads.session import Stop

from tests.docker.workloads import s3_server
from tests.docker.workloads.test_mirror import NAMES, save

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WAIT = 240.0  # seconds, which nothing here takes
ADDRESS = f"s3://{s3_server.BUCKET}/archive"


class Asked:
    """Stands for mirror.py's process: `answers` are what it tells, one an upload; each waits for `going`."""

    def __init__(self, *answers: dict[str, Any]) -> None:
        self.answers, self.tags = list(answers), list[str]()
        self.going, self.entered = threading.Semaphore(0), threading.Semaphore(0)

    def __call__(self, words: list[str], *_: object) -> dict[str, Any]:
        tag = next(word.removeprefix("--tag=") for word in words if word.startswith("--tag="))
        self.tags.append(tag)
        self.entered.release()
        assert self.going.acquire(timeout=WAIT)
        answer = self.answers.pop(0) if self.answers else {}
        return answer or {"done": tag, "bytes": 8, "seconds": 1.0, "tags": [tag]}


@pytest.fixture
def uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Asked], mirroring.Uploads]:
    def made(asked: Asked) -> mirroring.Uploads:
        monkeypatch.setattr(mirroring, "ask", asked)
        return mirroring.Uploads(ADDRESS, tmp_path, keep=2, pause=0.0)

    return made


def test_the_newest_goes_first_and_what_goes_is_not_deleted(
    uploads: Callable[[Asked], mirroring.Uploads], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = Asked()
    mine = uploads(asked)
    mine.want("step-1")
    assert asked.entered.acquire(timeout=WAIT)
    assert mine.busy == "step-1"
    for step in (2, 3, 4):  # two are kept
        mine.want(f"step-{step}")
    assert mine.missing == ["step-1", "step-3", "step-4"]
    asked.going.release(3)
    assert mine.finish(WAIT) == []
    assert asked.tags == ["step-1", "step-4", "step-3"]
    told = json.loads((tmp_path / "mirror.json").read_text())
    assert (told["address"], told["tags"]) == (ADDRESS, ["step-3"])
    assert "checkpoint step-3 is at the mirror: 8 bytes" in capsys.readouterr().out


def test_a_failure_is_told_once_for_each_cause_and_tried_again(
    uploads: Callable[[Asked], mirroring.Uploads], capsys: pytest.CaptureFixture[str]
) -> None:
    busy, cut = {"failed": "503"}, {"failed": "cut", "lasting": False}
    asked = Asked(busy, busy, cut, busy)
    mine = uploads(asked)
    mine.want("step-1")
    asked.going.release(5)
    assert mine.finish(WAIT) == []
    assert asked.tags == ["step-1"] * 5
    said = capsys.readouterr().out
    assert said.count(f"step-1 could not be uploaded to {ADDRESS}: 503; it is tried again") == 1
    assert said.count(": cut; it is tried again, and training goes on") == 1


def test_what_is_gone_is_not_tried_again(uploads: Callable[[Asked], mirroring.Uploads]) -> None:
    asked = Asked({"gone": "it was not finished"})
    mine = uploads(asked)
    mine.want("step-1")
    asked.going.release()
    assert mine.finish(WAIT) == []
    assert asked.tags == ["step-1"]


def test_the_end_does_not_wait_for_ever_and_says_what_is_missing(
    uploads: Callable[[Asked], mirroring.Uploads],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = Asked()
    mine = uploads(asked)
    mine.want("step-1")
    assert asked.entered.acquire(timeout=WAIT)
    monkeypatch.setattr(mirroring, "_mine", mine)
    monkeypatch.setattr(mirroring, "AFTER_SIGNAL", 0.0)
    mirroring._finish(SAVED)
    said = capsys.readouterr().out
    assert "waiting for the upload of step-1, 0 s at most" in said
    assert f"checkpoint step-1 was not uploaded whole to {ADDRESS}: the next start" in said
    asked.going.release()


def test_a_run_folder_that_fails_at_the_end_does_not_undo_what_is_done(
    uploads: Callable[[Asked], mirroring.Uploads], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(mirroring, "_mine", uploads(Asked()))
    monkeypatch.setattr(checkpoint_folder, "prune", broken)
    mirroring._finish(0)


def test_what_does_not_pass_is_not_waited_for(uploads: Callable[[Asked], mirroring.Uploads]) -> None:
    refused = {"failed": "403", "lasting": True}
    asked = Asked(*[refused] * 50)
    mine = uploads(asked)
    mine.pause = WAIT
    mine.want("step-1")
    asked.going.release()
    assert mine.finish(WAIT) == ["step-1"]


@pytest.mark.parametrize(
    ("answer", "above", "code", "words"),
    [
        ({"failed": "no such bucket", "lasting": True}, 5, 64, "cannot be used: no such bucket. Check that"),
        ({"failed": "503", "lasting": False}, -1, 74, "does not answer: 503. Whether it has a checkpoint"),
        (
            {"foreign": "r there is of another run", "lasting": True},
            5,
            64,
            "archive: r there is of another run",
        ),
    ],
)
def test_a_mirror_that_cannot_be_used_is_told_before_training(
    answer: dict[str, Any],
    above: int,
    code: int,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mirroring, "ask", lambda *_, **__: answer)
    with pytest.raises(Stop) as stop:
        mirroring.restore(ADDRESS, tmp_path, above)
    assert stop.value.code == code
    assert words in stop.value.message


def test_one_that_does_not_answer_is_no_reason_to_stop_with_a_checkpoint_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(mirroring, "ask", lambda *_, **__: {"failed": "503", "lasting": False})
    assert mirroring.restore(ADDRESS, tmp_path, above=5) is None
    assert "does not answer: 503; training goes on" in capsys.readouterr().out


@pytest.mark.heavy
def test_a_killed_upload_goes_on_with_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The real process, killed while its last file is on its way."""
    pytest.importorskip("s3fs", reason="the test extra is not installed")
    save(tmp_path / "run" / checkpoint_folder.FOLDER, 2)
    with s3_server.Server() as s3:
        for name, value in s3.variables.items():
            monkeypatch.setenv(name, value)
        s3.where = NAMES[2]
        s3.gate.clear()
        mine = mirroring.Uploads(ADDRESS, tmp_path / "run", keep=2, owner="me", pause=0.0)
        mine.want("step-00000002")
        assert s3.waiting.wait(WAIT)
        while f"archive/run/step-00000002/{NAMES[1]}" not in s3.puts:
            threading.Event().wait(0.02)
        assert s3.tags() == []  # half an upload
        assert mine._process is not None
        mine._process.kill()
        s3.gate.set()
        assert mine.finish(WAIT) == []
        assert s3.tags() == ["step-00000002"]
    sent = [key.rpartition("step-00000002/")[2] for key in s3.puts]
    assert (sent.count(NAMES[0]), sent.count(NAMES[1])) == (1, 1)
    assert sent[-1] == "complete.json"
    said = capsys.readouterr().out
    assert "step-00000002 could not be uploaded" in said
    assert s3.variables["AWS_SECRET_ACCESS_KEY"] not in said


def test_uploads_begin_with_what_an_earlier_attempt_left(
    uploads: Callable[[Asked], mirroring.Uploads], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Asked()
    monkeypatch.setattr(mirroring, "ask", asked)
    monkeypatch.setattr(mirroring, "_mine", None)
    monkeypatch.setattr(session, "before_leaving", [])
    mirroring.completed("step-00000001")  # nobody asked for a mirror
    assert mirroring.in_use() is None
    save(tmp_path / checkpoint_folder.FOLDER, 7)
    mirroring.start(ADDRESS, tmp_path, keep=1)
    asked.going.release()
    for work in session.before_leaving:
        work(0)
    assert asked.tags == ["step-00000007"]
