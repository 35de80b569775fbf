"""A folder at the mirror is one run's: it is known again, also without its own folder, and another one is refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from workloads import mirror, mirror_files, mirror_owner, mirroring
from workloads.mirror_owner import ForeignError, claim

from tests.docker.workloads.test_mirror import save

if TYPE_CHECKING:
    from pathlib import Path

ANNA, BEN = "anna, /home/anna/runs", "ben, /home/ben/runs"


@pytest.fixture
def there(tmp_path: Path) -> mirror_files.Mirror:
    return mirror_files.at(f"file://{tmp_path}/archive", "demo-1a2b3c")


def test_a_run_is_known_again(there: mirror_files.Mirror) -> None:
    mine = claim(there, "", ANNA)
    assert len(mine) == 32
    assert claim(there, mine, ANNA) == mine
    assert claim(there, mine, BEN) == mine, "somebody else starts it again, in its own folder"
    assert claim(there, "", ANNA) == mine, "its folder is gone"


def test_another_run_of_the_same_id_is_refused(there: mirror_files.Mirror) -> None:
    claim(there, "", ANNA)
    words = (
        r"demo-1a2b3c there is of another run \(anna, /home/anna/runs, since 20.* UTC\): give this one a name of "
        r"its own \(--name NAME\), or another checkpoint.mirror. .* delete demo-1a2b3c/owner.json there"
    )
    for identity, owner in (("", BEN), ("0" * 32, ANNA), ("", "")):
        with pytest.raises(ForeignError, match=words):
            claim(there, identity, owner)


def test_the_place_of_a_run_that_is_gone_can_be_taken(there: mirror_files.Mirror) -> None:
    claim(there, "", ANNA)
    there.delete([mirror_owner.FILE])
    assert claim(there, "f" * 32, BEN) == "f" * 32


def test_of_two_that_come_at_once_one_has_it(
    there: mirror_files.Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other writes between this one's look and its own writing."""
    write = type(there).write

    def late(self: mirror_files.Mirror, name: str, content: bytes) -> None:
        write(self, name, content)
        write(self, name, json.dumps({"identity": "e" * 32, "owner": ANNA}).encode())

    with monkeypatch.context() as patch:
        patch.setattr(type(there), "write", late)
        with pytest.raises(ForeignError, match="demo-1a2b3c there is of another run"):
            claim(there, "", ANNA)


@pytest.mark.parametrize("content", [b"", b"[", b"[]", b"\xff"])
def test_an_owner_that_cannot_be_read_is_somebody(there: mirror_files.Mirror, content: bytes) -> None:
    there.write(mirror_owner.FILE, content)
    with pytest.raises(ForeignError, match=r"unknown: owner.json cannot be read"):
        claim(there, "", ANNA)


def test_a_foreign_folder_is_neither_restored_from_nor_uploaded_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    address = f"file://{tmp_path}/archive"
    for of, owner in (("anna", ANNA), ("ben", BEN)):
        save(tmp_path / of / "demo-1/checkpoints", 2, content=of)
        words = [address, f"--folder={tmp_path}/{of}/demo-1/checkpoints", "--run=demo-1", f"--owner={owner}"]
        for what in (["push", "--tag=step-00000002"], ["pull"]):
            told = mirror.run([what[0], *words, *what[1:]])
            assert ("foreign" in told, told.get("lasting", False)) == (of == "ben", of == "ben"), told
    assert "anna" in (tmp_path / "archive/demo-1/step-00000002" / "mp_rank_00_model_states.pt").read_text()


def test_the_runs_folder_keeps_its_identity(tmp_path: Path) -> None:
    assert mirroring.identity(tmp_path) == ""
    mirroring.note(tmp_path, "s3://b/a", {"tags": [], "identity": "d" * 32})
    assert mirroring.identity(tmp_path) == "d" * 32
    (tmp_path / mirroring.FILE).write_text("[]")
    assert mirroring.identity(tmp_path) == ""


def test_a_run_by_hand_has_an_owner(tmp_path: Path) -> None:
    assert mirror_owner.of_process(tmp_path / "run").endswith(f", {tmp_path}")
