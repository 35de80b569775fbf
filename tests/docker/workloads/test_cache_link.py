"""RUN_DIR/data leads to the cache, and never takes the place of something."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workloads import cache_link

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_it_leads_to_the_cache(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for cache in ("cache", "cache", "other"):  # the second and third are later attempts
        cache_link.lead(tmp_path / "run", tmp_path / cache)
        assert (tmp_path / "run" / "data").readlink() == tmp_path / cache


def test_the_default_is_no_link(tmp_path: Path) -> None:
    cache_link.lead(tmp_path, tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    cache_link.lead(tmp_path, tmp_path / "cache")
    assert not (tmp_path / "data").is_symlink()


def test_a_relative_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    cache_link.lead(tmp_path / "run", tmp_path.relative_to(tmp_path) / "cache")
    assert (tmp_path / "run" / "data").readlink() == tmp_path / "cache"
