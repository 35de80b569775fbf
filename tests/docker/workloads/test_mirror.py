"""A mirror has whole checkpoints or none, on a disk and in a bucket that fails: what is sent, gone on with, fetched."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import pytest
from workloads import checkpoint_folder, digests, mirror, mirror_files
from workloads.checkpoint_folder import Identity, Progress

from tests.docker.workloads import s3_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OURS = Identity("gpt2 (7 parameters)", "m", "bytes (256 tokens)", "t", 2, 1, "bf16")
NAMES = (
    "mp_rank_00_model_states.pt",
    "zero_pp_rank_0_optim_states.pt",
    "critic/zero_pp_rank_1_optim_states.pt",
)
NOTHING: Any = lambda text: None  # noqa: E731


def save(folder: Path, step: int, content: str = "") -> Path:
    """A complete checkpoint, as `checkpoints.save` marks it."""
    path = folder / f"step-{step:08d}"
    for name in NAMES:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(f"{name} of {step} {content}" * 50)
    progress = dataclasses.asdict(Progress(step, step * 4, step * 64))
    carried = {"progress": progress, "identity": dataclasses.asdict(OURS)}
    checkpoint_folder.mark(path, carried, {name: digests.of(path / name) for name in NAMES})
    return path


def content(path: Path) -> dict[str, bytes]:
    return {str(f.relative_to(path)): f.read_bytes() for f in sorted(path.rglob("*")) if f.is_file()}


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[s3_server.Server]:
    pytest.importorskip("s3fs", reason="the test extra is not installed")
    monkeypatch.setattr(mirror_files, "PAUSES", (0.0, 0.0, 0.0))
    with s3_server.Server() as server:
        for name, value in server.variables.items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture(params=["file", "s3"])
def there(request: pytest.FixtureRequest, tmp_path: Path) -> mirror_files.Mirror:
    """A run's mirror on a disk, and one in a bucket."""
    if request.param == "file":
        return mirror_files.at(f"file://{tmp_path}/archive", "run-1")
    request.getfixturevalue("s3")
    return mirror_files.at(f"s3://{s3_server.BUCKET}/archive", "run-1")


@pytest.mark.heavy
def test_what_is_sent_comes_back(there: mirror_files.Mirror, tmp_path: Path) -> None:
    folder, again = tmp_path / "checkpoints", tmp_path / "again"
    mirror.probe(there)
    assert there.files() == {}
    path = save(folder, 2)
    sent = mirror.push(there, path, keep=2)
    assert sent == sum((path / name).stat().st_size for name in NAMES)
    assert set(there.files("step-00000002")) == {*NAMES, "complete.json"}
    assert mirror.push(there, path, keep=2) == 0  # it is there already
    assert mirror.pull(there, again, above=2, say=NOTHING) is None
    assert mirror.pull(there, again, above=1, say=NOTHING) == "step-00000002"
    assert content(again / "step-00000002") == content(path)
    assert [p.name for p in again.iterdir()] == ["step-00000002"]


@pytest.mark.heavy
def test_old_ones_go_and_half_ones_before_them(there: mirror_files.Mirror, tmp_path: Path) -> None:
    there.write("step-00000001/incoming.json", b"{}")
    there.write("step-00000009/incoming.json", b"{}")  # newer than all: perhaps being written
    for step in (2, 3, 4):
        mirror.push(there, save(tmp_path, step), keep=2)
    assert there.complete() == ["step-00000004", "step-00000003"]
    assert {name.split("/")[0] for name in there.files()} == {
        "step-00000003",
        "step-00000004",
        "step-00000009",
    }


def interrupted(there: mirror_files.Mirror, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Upload all of a checkpoint but its last file and its marker."""
    real = there.system.put_file

    def put(source: str, target: str) -> None:
        if source.endswith(NAMES[2]):
            raise PermissionError("killed")
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(there.system, "put_file", put)
        with pytest.raises(PermissionError, match="killed"):
            mirror.push(there, path, keep=3)


@pytest.mark.heavy
def test_half_an_upload_is_nothing_and_is_gone_on_with(
    there: mirror_files.Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older, path = save(tmp_path / "a", 1), save(tmp_path / "a", 2)
    mirror.push(there, older, keep=3)
    interrupted(there, path, monkeypatch)
    assert NAMES[0] in there.files("step-00000002")
    assert there.complete() == ["step-00000001"]
    assert mirror.pull(there, tmp_path / "b", above=-1, say=NOTHING) == "step-00000001"
    assert mirror.push(there, path, keep=3) == (path / NAMES[2]).stat().st_size  # what was missing alone
    assert mirror.pull(there, tmp_path / "b", above=1, say=NOTHING) == "step-00000002"


@pytest.mark.heavy
def test_files_of_two_attempts_are_never_mixed(
    there: mirror_files.Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(there, save(tmp_path / "a", 2, content="x"), monkeypatch)
    other = save(tmp_path / "b", 2, content="y")  # the same names and sizes
    mirror.push(there, other, keep=1)
    mirror.push(there, save(tmp_path / "c", 2, content="z"), keep=1)  # over one that is whole
    assert mirror.pull(there, tmp_path / "d", above=-1, say=NOTHING) == "step-00000002"
    assert content(tmp_path / "d/step-00000002") == content(tmp_path / "c/step-00000002")


@pytest.mark.heavy
def test_a_byte_that_differs_at_the_mirror_is_found_and_the_one_before_taken(
    there: mirror_files.Mirror, tmp_path: Path
) -> None:
    for step in (1, 2):
        mirror.push(there, save(tmp_path / "a", step), keep=3)
    size = there.files("step-00000002")[NAMES[1]]
    there.write(f"step-00000002/{NAMES[1]}", b"x" * size)
    said: list[str] = []
    assert mirror.pull(there, tmp_path / "b", above=-1, say=said.append) == "step-00000001"
    assert (
        f"checkpoint step-00000002 of the mirror is passed over: {NAMES[1]} has other bytes than were written"
        in said
    )


@pytest.mark.heavy
def test_a_damaged_one_is_not_kept_in_the_place_of_sound_ones(
    there: mirror_files.Mirror, tmp_path: Path
) -> None:
    """With `keep: 1` each new one would be deleted after it was sent, and the one before it, until there is none."""
    for step in (9, 10):
        mirror.push(there, save(tmp_path / "a", step), keep=3)
    size = there.files("step-00000010")[NAMES[1]]
    there.write(f"step-00000010/{NAMES[1]}", b"x" * size)
    assert mirror.pull(there, tmp_path / "b", above=-1, say=NOTHING) == "step-00000009"
    mirror.push(there, tmp_path / "b/step-00000009", keep=1)
    assert mirror.pull(there, tmp_path / "c", above=-1, say=NOTHING) == "step-00000009"
    mirror.push(there, save(tmp_path / "b", 10, "again"), keep=1)
    assert there.complete() == ["step-00000010"]
    assert mirror.pull(there, tmp_path / "d", above=-1, say=NOTHING) == "step-00000010"


@pytest.mark.heavy
def test_a_marker_that_leads_elsewhere_is_not_followed(there: mirror_files.Mirror, tmp_path: Path) -> None:
    there.write("step-00000001/complete.json", json.dumps({"files": {"../../../escaped": 1}}).encode())
    said: list[str] = []
    assert mirror.pull(there, tmp_path / "b", above=-1, say=said.append) is None
    assert "complete.json is of another version" in said[0]


def test_what_was_fetched_of_one_is_not_fetched_again(tmp_path: Path) -> None:
    there = mirror_files.at(f"file://{tmp_path}/archive", "run-1")
    path = save(tmp_path / "a", 2)
    mirror.push(there, path, keep=1)
    half = tmp_path / "b/.restoring/step-00000002"
    half.mkdir(parents=True)
    (half / NAMES[0]).write_bytes((path / NAMES[0]).read_bytes())
    (tmp_path / f"archive/run-1/step-00000002/{NAMES[0]}").unlink()
    assert mirror.pull(there, tmp_path / "b", above=-1, say=NOTHING) == "step-00000002"


def test_what_is_damaged_or_gone_here_is_not_sent(tmp_path: Path) -> None:
    there = mirror_files.at(f"file://{tmp_path}/archive", "run-1")
    path = save(tmp_path, 2)
    (path / NAMES[0]).write_bytes(b"x" * (path / NAMES[0]).stat().st_size)
    with pytest.raises(mirror.Gone, match="has other bytes than were written"):
        mirror.push(there, path, keep=1)
    with pytest.raises(mirror.Gone, match="it was not finished"):
        mirror.push(there, tmp_path / "step-00000003", keep=1)
    assert there.complete() == []


@pytest.mark.parametrize("fault", ["503", "cut"])
@pytest.mark.heavy
def test_a_bucket_that_fails_now_and_then_gets_and_gives_all(
    fault: str, s3: s3_server.Server, tmp_path: Path
) -> None:
    there = mirror_files.at(f"s3://{s3_server.BUCKET}/archive", "run-1")
    s3.faults.extend([fault] * 2)
    path = save(tmp_path / "a", 2)
    mirror.push(there, path, keep=1)
    s3.faults.extend([fault] * 2)
    assert mirror.pull(there, tmp_path / "b", above=-1, say=NOTHING) == "step-00000002"
    assert content(tmp_path / "b/step-00000002") == content(path)
    assert not s3.faults


def test_how_it_ended_is_told_without_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "checkpoints", 2)
    words = [f"file://{tmp_path}/archive", f"--folder={tmp_path}/checkpoints", "--run=r", "--owner=me"]
    ended = mirror.run(["push", *words, "--tag=step-00000002"])
    assert (ended["done"], ended["tags"]) == ("step-00000002", ["step-00000002"])
    assert mirror.run(["pull", *words, "--above=2"])["done"] is None
    assert "complete.json is missing" in mirror.run(["push", *words, "--tag=step-00000003"])["gone"]
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")

    def refuse(*_: object) -> None:
        raise PermissionError("signature of wJalrXUtnFEMI\ndoes not match")

    monkeypatch.setattr(mirror, "probe", refuse)
    assert mirror.run(["pull", *words]) == {
        "failed": "signature of $AWS_SECRET_ACCESS_KEY",
        "lasting": True,
    }


@pytest.mark.heavy
def test_a_bucket_that_is_not_there_does_not_pass(s3: s3_server.Server, tmp_path: Path) -> None:
    ended = mirror.run(["pull", "s3://other/archive", f"--folder={tmp_path}", "--run=r"])
    assert ended["lasting"] is True
    assert "bucket" in ended["failed"].lower()


@pytest.mark.heavy
def test_what_builds_the_model_again_comes_with_a_checkpoint(
    there: mirror_files.Mirror, tmp_path: Path
) -> None:
    path, again = save(tmp_path / "a", 2), tmp_path / "b"
    model = tmp_path / "a" / checkpoint_folder.MODEL
    (model / "templates").mkdir(parents=True)
    (model / "config.json").write_text("{}")
    (model / "templates/one.jinja").write_text("x")
    mirror.push(there, path, keep=1)
    assert there.complete() == ["step-00000002"]
    mirror.fetch(there, again, "step-00000002", NOTHING)
    mirror.fetch(there, again, "model", NOTHING)
    assert content(again / "step-00000002") == content(path)
    assert content(model).items() <= content(again / "model").items()
    (model / "config.json").write_text("[]")  # the same size
    mirror.push(there, save(tmp_path / "a", 3), keep=1)
    assert there.read("model/config.json") == b"[]"


@pytest.mark.heavy
def test_one_that_is_not_whole_is_not_fetched_and_said_to_be(
    there: mirror_files.Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(there, save(tmp_path / "a", 2), monkeypatch)
    with pytest.raises(ValueError, match="step-00000002 is not there, or its upload was not finished"):
        mirror.fetch(there, tmp_path / "b", "step-00000002", NOTHING)
    assert mirror.damage(there, "step-00000002", NOTHING) == ["its upload was not finished"]
    mirror.push(there, save(tmp_path / "a", 3), keep=2)
    assert mirror.damage(there, "step-00000003", NOTHING) == []
    there.write(f"step-00000003/{NAMES[1]}", b"x" * there.files("step-00000003")[NAMES[1]])
    there.write(f"step-00000003/{NAMES[0]}", b"x")
    assert mirror.damage(there, "step-00000003", NOTHING) == [
        f"{NAMES[0]} has 1 bytes instead of {len(NAMES[0] + ' of 3 ') * 50}",
        f"{NAMES[1]} has other bytes than were written",
    ]


def test_what_only_reads_writes_nothing(tmp_path: Path) -> None:
    address = f"file://{tmp_path}/archive"
    assert mirror.run(["list", address, "--run=r"])["tags"] == []
    assert not (tmp_path / "archive").exists()
    save(tmp_path / "a", 2)
    mirror.run(["push", address, f"--folder={tmp_path}/a", "--tag=step-00000002", "--run=r"])
    (tmp_path / "archive/r/step-00000004").mkdir()
    (tmp_path / "archive/r/step-00000004/incoming.json").touch()
    told = mirror.run(["list", address, "--run=r"])
    assert (told["tags"], told["unfinished"]) == (["step-00000002"], ["step-00000004"])
