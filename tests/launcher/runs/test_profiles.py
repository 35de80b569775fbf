"""Where profiles lie in a run folder, and names that no node entry gives."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from launcher.errors import SubmitError
from launcher.runs import profiles

if TYPE_CHECKING:
    from pathlib import Path


def found(name: str = "0-1", file: str = "rank-0.pt.trace.json.gz") -> dict[str, Any]:
    return {"name": name, "ranks": [{"rank": 0, "file": file}]}


def test_what_came_is_kept_and_what_is_there_stays(tmp_path: Path) -> None:
    assert profiles.newest(tmp_path) is None
    folder = profiles.keep(tmp_path, found())
    assert folder == tmp_path / "profiles" / "0-1" == profiles.newest(tmp_path)
    assert json.loads((folder / "profile.json").read_text()) == found()
    (folder / "profile.json").write_text("mine")
    assert profiles.keep(tmp_path, found()) == folder
    assert (folder / "profile.json").read_text() == "mine"


@pytest.mark.parametrize("wrong", [found(name="../0"), found(name=""), found(file="../../x")])
def test_no_name_leads_out_of_it(wrong: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(SubmitError, match="names that are none"):
        profiles.keep(tmp_path, wrong)
    assert list(tmp_path.iterdir()) == []
