"""Files and folders are told apart at a bounded cost, and what cannot be read is no fingerprint."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from launcher.runs import fingerprints

if TYPE_CHECKING:
    from pathlib import Path

LARGE = fingerprints.PIECE * fingerprints.PIECES + 12_345


def test_a_small_file_is_told_by_its_content_alone(tmp_path: Path) -> None:
    path = tmp_path / "it's $(a) file"
    path.write_text("one")
    before = fingerprints.of(path)
    os.utime(path, (1, 1))
    assert not fingerprints.differ(before, fingerprints.of(path)), "the same content at another time"
    path.write_text("two")
    assert fingerprints.differ(before, fingerprints.of(path))


def test_of_a_large_file_pieces_are_read(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(LARGE)
    os.utime(path, (1000, 1000))
    before = fingerprints.of(path)
    assert before
    assert before["hashed"] == "16 pieces of 1048576 bytes"
    for place in (0, LARGE - 1):
        with path.open("r+b") as file:
            file.seek(place)
            file.write(b"x")
        os.utime(path, (1000, 1000))
        after = fingerprints.of(path)
        assert fingerprints.differ(before, after), "its start and its end are read"
        before = after
    os.utime(path, (2000, 2000))
    assert fingerprints.differ(before, fingerprints.of(path)), "what was not read may have changed by then"


def test_a_folder_is_told_by_names_and_contents(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "a.txt").write_text("one")
    before = fingerprints.of(folder)
    assert before
    assert (before["kind"], before["files"], before["hashed"]) == ("folder", 1, "all")
    (folder / "deep" / "a.txt").write_text("two")
    changed = fingerprints.of(folder)
    assert fingerprints.differ(before, changed)
    (folder / "deep" / "a.txt").rename(folder / "deep" / "b.txt")
    assert fingerprints.differ(changed, fingerprints.of(folder))


def test_what_is_no_file_has_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert fingerprints.of(tmp_path / "pipe") is None, "reading it would wait for ever"
    assert fingerprints.of(tmp_path / "absent") is None
    assert not fingerprints.differ(None, None)
    assert fingerprints.differ(None, {"sha256": ""})


def test_the_hash_of_code_leaves_out_what_python_compiled(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("one")
    (tmp_path / "link").symlink_to("a.py")
    before = fingerprints.folder_hash(tmp_path)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "a.pyc").write_text("compiled")
    assert fingerprints.folder_hash(tmp_path) == before
    (tmp_path / "note.txt").write_text("no code")
    assert fingerprints.folder_hash(tmp_path) != before
    assert fingerprints.folder_hash(tmp_path, (".py",)) == fingerprints.folder_hash(tmp_path, (".py",))
    assert fingerprints.folder_hash(tmp_path / "absent") is None
