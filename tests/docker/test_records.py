"""The folder of a host's records: whose it is, and what becomes of those that killed node entries have left."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import heartbeat
import records

if TYPE_CHECKING:
    from pathlib import Path


def test_the_folder_is_the_users_alone_and_goes(tmp_path: Path) -> None:
    with records.folder(tmp_path) as variables:
        (folder,) = tmp_path.iterdir()
        assert variables == {heartbeat.VARIABLE: str(folder)}
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not list(tmp_path.iterdir())


def test_no_room_is_no_reason_not_to_train(tmp_path: Path) -> None:
    with records.folder(tmp_path / "gone") as variables:
        assert variables == {heartbeat.VARIABLE: ""}


def age(folder: Path) -> None:
    old = time.time() - 7200
    for path in (*folder.iterdir(), folder):
        os.utime(path, (old, old))


def test_what_a_killed_entry_left_is_removed(tmp_path: Path) -> None:
    left, young, busy = (tmp_path / f"heartbeat-{name}" for name in ("left", "young", "busy"))
    for folder in (left, young, busy):
        folder.mkdir()
        (folder / "rank-0").touch()
    age(left)
    age(busy)
    os.utime(busy / "rank-0")  # a rank of it writes
    (tmp_path / "heartbeat-link").symlink_to(young)
    with records.folder(tmp_path):
        assert not left.exists()
        assert (young / "rank-0").exists()
        assert (busy / "rank-0").exists()


def test_one_that_is_locked_stays(tmp_path: Path) -> None:
    with records.folder(tmp_path) as variables:
        folder = tmp_path / variables[heartbeat.VARIABLE]
        (folder / "rank-0").touch()
        age(folder)
        with records.folder(tmp_path):
            assert (folder / "rank-0").exists()
