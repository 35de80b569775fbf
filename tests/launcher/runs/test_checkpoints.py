"""`launcher checkpoints`: what a run's folder holds is listed, verified, exported and deleted, and nothing else."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from typing import TYPE_CHECKING

import pytest
from workloads import checkpoint_folder, digests
from workloads.checkpoint_folder import Identity, Progress

from launcher.cli import main
from launcher.runs import checkpoints, record

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

OURS = Identity("gpt2 (7 parameters)", "m", "bytes (256 tokens)", "t", 2, 1, "bf16")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run that has ended."""
    monkeypatch.setenv("LAUNCHER_RUNS", str(tmp_path))
    folder = tmp_path / "demo-1"
    folder.mkdir()
    content = {"id": "demo-1", "scheduler": "local", "native_id": "99999999:1", "submitted": 1.0}
    content |= {"nodes": 1, "slots": 2, "place": {}}
    (folder / "run.json").write_text(json.dumps(content))
    (folder / "exit_code").write_text("0\n")
    return folder


def save(run: Path, step: int, marked: bool = True) -> Path:
    path = run / "checkpoints" / f"step-{step:08d}"
    path.mkdir(parents=True)
    (path / "states.pt").write_bytes(b"12345678")
    carried = {
        "progress": dataclasses.asdict(Progress(step, step * 4, step * 64)),
        "identity": dataclasses.asdict(OURS),
    }
    if marked:
        checkpoint_folder.mark(path, carried, {"states.pt": digests.of(path / "states.pt")})
    return path


def damage(path: Path) -> None:
    (path / "states.pt").write_bytes(b"12345679")


def launcher(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main.main(["checkpoints", "demo", *words])
    return code, *capsys.readouterr()


def test_they_are_listed_the_newest_first(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert launcher(capsys) == (0, f"no checkpoints in {run}\n", "")
    save(run, 500)
    save(run, 1000)
    save(run, 1500, marked=False)
    (run / "checkpoints/step-00002000").symlink_to(run)
    code, out, _ = launcher(capsys)
    assert code == 0
    lines = [line.split() for line in out.splitlines()]
    assert [line[:3] for line in lines[1:]] == [
        ["step-00001500", "unfinished", "1,500"],
        ["step-00001000", "complete", "1,000"],
        ["step-00000500", "complete", "500"],
    ]
    assert "it was not finished (complete.json is missing)" in out


def test_a_damaged_one_is_found_by_reading_it(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(run, 1)
    assert launcher(capsys, "--verify")[0] == 0
    damage(save(run, 2))
    assert "damaged" not in launcher(capsys)[1]  # sizes are right
    code, out, err = launcher(capsys, "--verify")
    assert code == 3
    assert "states.pt has other bytes than were written" in out
    assert err.startswith("error: 1 of 2 checkpoints are damaged; ")


def test_one_older_than_digests_is_said_to_be(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save(run, 1)
    marker = json.loads((path / "complete.json").read_text())
    del marker["seal"], marker["xxh3_128"]
    (path / "complete.json").write_text(json.dumps(marker))
    code, out, _ = launcher(capsys, "--verify")
    assert code == 0
    assert "written before there were digests" in out


def test_old_ones_are_deleted_on_wish(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for step in (1, 2, 3):
        save(run, step)
    code, out, err = launcher(capsys, "--keep", "2")
    assert (code, out) == (0, "")
    assert err.startswith("demo-1: step-00000001 deleted, ")
    assert launcher(capsys, "--keep", "2")[2] == "nothing to delete\n"
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step-00000002", "step-00000003"]


def test_a_sound_one_is_not_deleted_for_a_damaged_one(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(run, 1)
    damage(save(run, 2))
    code, _, err = launcher(capsys, "--keep", "1")
    assert code == 3
    assert "step-00000002 of demo-1 is damaged" in err
    assert "nothing was deleted" in err
    assert len(list((run / "checkpoints").iterdir())) == 2


def test_none_is_deleted_of_a_run_that_goes_on(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from launcher.runs.status import Status
    from launcher.schedulers import local

    monkeypatch.setattr(local, "status", lambda _: Status("RUNNING"))
    save(run, 1)
    save(run, 2)
    code, _, err = launcher(capsys, "--keep", "1")
    assert code == 3
    assert "demo-1 is RUNNING: its ranks write and delete checkpoints themselves" in err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--keep", "0"), 2, "--keep 0: at least the newest is kept"),
        (("--step", "1"), 2, "--step needs --export"),
        (("--export", "new", "--step", "3"), 5, "demo-1 has no complete checkpoint of step 3 in "),
        (("--export", "."), 2, "--export . exists; nothing is overwritten"),
    ],
)
def test_mistakes(
    words: tuple[str, ...], code: int, message: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(run, 1)
    got, out, err = launcher(capsys, *words)
    assert (got, out) == (code, "")
    assert message in err


def test_an_export_without_torch_says_where_to_run_it(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import importlib.util

    path = save(run, 1)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    code, _, err = launcher(capsys, "--export", str(tmp_path / "new"))
    assert code == 6
    assert err.startswith("error: an export needs torch, transformers, deepspeed; run it where they are")
    assert f"python -m workloads.export {path} {tmp_path / 'new'}" in err


def test_an_export_is_the_programs_own(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path, python = save(run, 1), tmp_path / "python"
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$PYTHONPATH" "$@" > "$0.words"\n[ -z "$REFUSE" ]\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(sys, "stderr", sys.__stderr__)  # a file, as a process needs it
    new = str(tmp_path / "a b")
    assert main.main(["checkpoints", "demo", "--export", new]) == 0
    words = (tmp_path / "python.words").read_text().splitlines()
    assert words[0].endswith("/docker")
    assert words[1:] == ["-m", "workloads.export", str(path), new]
    monkeypatch.setenv("REFUSE", "1")
    assert main.main(["checkpoints", "demo", "--export", new]) == 3


ODD: dict[str, Callable[[Path], object]] = {
    "text": lambda marker: marker.write_text("{"),
    "list": lambda marker: marker.write_text("[]"),
    "deep": lambda marker: marker.write_text("[" * 100_000),
    "no files": lambda marker: marker.write_text('{"files": 3}'),
    "another folder": lambda marker: marker.write_text('{"files": {"../../run.json": 3}}'),
    "absolute": lambda marker: marker.write_text('{"files": {}, "xxh3_128": {"/etc/passwd": "x"}}'),
    "words": lambda marker: marker.write_text(
        json.dumps({"files": {}, "progress": {"step": "1"}, "identity": dataclasses.asdict(OURS)})
    ),
    "binary": lambda marker: marker.write_bytes(b"\xff\xfe\x00"),
    "pipe": os.mkfifo,
    "folder": lambda marker: marker.mkdir(),
}


@pytest.mark.parametrize("odd", ODD)
def test_a_foreign_marker_hides_no_other(odd: str, run: Path) -> None:
    save(run, 1)
    ODD[odd](save(run, 2, marked=False) / "complete.json")
    found = checkpoints.listed(record.find(run.parent, "demo-1"))
    assert [saved.state for saved in found] == ["damaged", "complete"]
    assert found[0].reason


def test_what_is_at_the_mirror_too_is_said(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(run, 1)
    save(run, 2)
    told = {"address": "s3://bucket/runs", "tags": ["step-00000002", "step-00000003"], "time": 1.0}
    (run / "mirror.json").write_text(json.dumps(told))
    code, out, _ = launcher(capsys)
    assert code == 0
    lines = out.splitlines()
    assert "WHERE" in lines[0]
    assert lines[1].endswith("run folder, mirror")
    assert lines[2].endswith("run folder")
    assert lines[3] == "at the mirror s3://bucket/runs alone: step-00000003"
    assert [saved["mirrored"] for saved in json.loads(launcher(capsys, "--json")[1])] == [True, False]
    (run / "mirror.json").write_text("[")
    assert "WHERE" not in launcher(capsys)[1]
