"""`launcher checkpoints`: what a run's folder holds is listed, verified, exported and deleted, and nothing else."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from workloads import checkpoint_folder, digests, mirror, mirroring
from workloads.checkpoint_folder import Identity, Progress

from launcher.cli import main
from launcher.runs import checkpoints, record

if TYPE_CHECKING:
    from collections.abc import Callable

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
    assert lines[1].split() == ["step-00000003", "complete", "3", "-", "-", "-", "mirror"]
    assert lines[2].endswith("run folder, mirror")
    assert lines[3].endswith("run folder")
    found = json.loads(launcher(capsys, "--json")[1])
    assert [saved["mirrored"] for saved in found] == [True, True, False]
    assert [saved["folder"] is None for saved in found] == [True, False, False]
    assert (found[0]["bytes"], found[0]["written"]) == (None, None)
    assert launcher(capsys, "--keep", "2")[2] == "nothing to delete\n"
    (run / "mirror.json").write_text("[")
    assert "WHERE" not in launcher(capsys)[1]


@pytest.fixture
def mirrored(run: Path, tmp_path: Path) -> Path:
    """The folder of the run at a mirror, where its steps 1 and 2 are whole; its own checkpoints are gone."""
    address = f"file://{tmp_path}/archive"
    (run / "checkpoints/model").mkdir(parents=True)
    (run / "checkpoints/model/config.json").write_text("{}")
    folder = f"--folder={run}/checkpoints"
    for step in (1, 2):
        tag = save(run, step).name
        told = mirror.run(["push", address, folder, f"--tag={tag}", "--run=demo-1", "--keep=3", "--owner=me"])
        mirroring.note(run, address, told)
    shutil.rmtree(run / "checkpoints")
    return tmp_path / "archive/demo-1"


@pytest.mark.heavy
def test_those_of_a_mirror_are_read_there(
    run: Path, mirrored: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = launcher(capsys, "--verify")
    assert (code, [line.split()[:2] for line in out.splitlines()[1:]]) == (
        0,
        [["step-00000002", "complete"], ["step-00000001", "complete"]],
    )
    damage(mirrored / "step-00000002")
    code, out, err = launcher(capsys, "--verify")
    assert code == 3
    assert "states.pt has other bytes than were written" in out
    assert err.startswith("error: 1 of 2 checkpoints are damaged; ")


def exporting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Stands for Python: it runs mirror.py, and of an export it keeps the words and what is to be read."""
    python = tmp_path / "python"
    keeps = 'printf "%s\\n" "$@" > "$0.words"; cp -r "$3/.." "$0.read"; [ -z "$REFUSE" ]'
    python.write_text(f'#!/bin/sh\n[ "$2" = workloads.mirror ] && exec {sys.executable} "$@"\n{keeps}\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(sys, "stderr", sys.__stderr__)  # a file, as a process needs it
    return python


@pytest.mark.parametrize(("words", "tag"), [((), "step-00000002"), (("--step", "1"), "step-00000001")])
@pytest.mark.heavy
def test_an_export_of_what_is_at_the_mirror_alone(
    words: tuple[str, ...],
    tag: str,
    run: Path,
    mirrored: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    python = exporting(monkeypatch, tmp_path)
    assert main.main(["checkpoints", "demo", "--export", str(tmp_path / "new"), *words]) == 0
    given = Path(f"{python}.words").read_text().splitlines()
    assert (given[:2], Path(given[2]).name, given[3]) == (
        ["-m", "workloads.export"],
        tag,
        str(tmp_path / "new"),
    )
    assert sorted(path.name for path in Path(f"{python}.read").iterdir()) == ["model", tag]
    assert Path(f"{python}.read/{tag}/states.pt").read_bytes() == b"12345678"
    assert not Path(given[2]).exists(), "what was fetched is gone"


@pytest.mark.parametrize(
    ("spoil", "words", "code", "message"),
    [
        (lambda there: None, ("--step", "7"), 5, "no complete checkpoint of step 7 in "),
        (
            lambda there: (there / "step-00000002/complete.json").unlink(),
            ("--step", "2"),
            5,
            "where the upload of step-00000002 was not finished; there are those of steps 1",
        ),
        (lambda there: damage(there / "step-00000002"), (), 3, "is damaged: states.pt has other bytes than"),
        (shutil.rmtree, (), 5, "demo-1 has no complete checkpoint in "),
    ],
)
@pytest.mark.heavy
def test_what_the_mirror_does_not_have_whole_is_not_exported(
    spoil: Callable[[Path], object],
    words: tuple[str, ...],
    code: int,
    message: str,
    run: Path,
    mirrored: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoil(mirrored)
    before = sorted(tmp_path.iterdir())
    got, out, err = launcher(capsys, "--export", str(tmp_path / "new"), *words)
    assert (got, out) == (code, "")
    assert message in err
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("told", "message"),
    [
        (
            {"failed": "Unable to locate credentials", "lasting": True},
            "error: the mirror s3://b/a cannot be read: Unable to locate credentials; this shell needs credentials "
            "too: the job's are in AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY",
        ),
        (
            {"failed": "Connection refused", "lasting": False},
            "error: the mirror s3://b/a does not answer: Connection refused; try again later",
        ),
        (None, "error: the mirror s3://b/a does not answer: its process ended with 1; try again later"),
    ],
)
def test_a_mirror_that_cannot_be_read_is_told_in_one_message(
    told: dict[str, object] | None,
    message: str,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its address is in the plan alone: the run's folder was lost with what its ranks knew."""
    secrets = [{"variable": "AWS_ACCESS_KEY_ID"}, {"variable": "AWS_SECRET_ACCESS_KEY"}]
    plan = {"job": {"checkpoint": {"mirror": "s3://b/a"}}, "secrets": secrets}
    (run / "plan.json").write_text(json.dumps(plan))
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho '{json.dumps(told)}'\n" if told else "#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    code, out, err = launcher(capsys, "--export", str(tmp_path / "new"))
    assert (code, out, err) == (3, "", f"{message}\n")


def test_a_package_that_a_mirror_needs_is_named(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (run / "mirror.json").write_text(json.dumps({"address": "gs://b/a", "tags": ["step-00000003"]}))
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gcsfs" else real(name))
    for words in (("--verify",), ("--export", str(tmp_path / "new"))):
        code, out, err = launcher(capsys, *words)
        assert (code, out) == (6, "")
        assert err.startswith(
            "error: reading the mirror gs://b/a needs gcsfs; `pip install gcsfs`, or run it "
        )
