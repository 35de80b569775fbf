"""Jobs as the node entry finds them, for its tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.docker import entries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def new_job(tmp_path: Path) -> Iterator[Callable[..., entries.Job]]:
    """Makes jobs; what they started has ended when the test has."""
    with entries.jobs(tmp_path) as make:
        yield make
