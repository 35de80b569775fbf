"""What the tests' container tools do when Linux is busy."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.real.image import engines

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.heavy


@pytest.mark.parametrize(
    ("words", "starts", "code"), [(engines._BUSY, 3, 1), ("no space left", 1, 1), (engines._BUSY, 2, 0)]
)
def test_a_command_is_started_again_when_its_copy_could_not_be_sealed(
    words: str, starts: int, code: int, tmp_path: Path
) -> None:
    tool = tmp_path / "tool"
    fails = 1 if code == 0 else 9
    tool.write_text(
        f"#!/bin/sh\necho x >> {tmp_path}/starts\n[ $(wc -l < {tmp_path}/starts) -gt {fails} ] && exit 0\n"
        f'echo "Close_Fd {words}" >&2\nexit 1\n'
    )
    tool.chmod(0o700)
    assert engines.tried(str(tool), env=dict(os.environ), timeout=60).returncode == code
    assert len((tmp_path / "starts").read_text().split()) == starts
