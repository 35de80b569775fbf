"""Settings for all tests: Hypothesis without a deadline (the machine is shared), and options of the command line."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_COUNT = itertools.count()

settings.register_profile("shared", deadline=None)
settings.load_profile("shared")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-apiserver", action="store_true", help="fail, not skip, where there is no kube-apiserver"
    )


@pytest.fixture(scope="session", autouse=True)
def _state_of_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Runs of tests are not remembered among those of whoever runs them."""
    folder = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(folder / "session"))
        yield folder


@pytest.fixture(autouse=True)
def _state(_state_of_session: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test knows no runs of another one."""
    monkeypatch.setenv("XDG_STATE_HOME", str(_state_of_session / str(next(_COUNT))))
