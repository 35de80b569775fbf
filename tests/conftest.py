"""Settings for all tests: which examples Hypothesis tries, and options of the command line.

Owns the two profiles of Hypothesis: `gate`, whose examples are the same in every run, and `fuzz` (`make fuzz`).
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture import providers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_COUNT = itertools.count()

# the machine is shared, so no example has a deadline
settings.register_profile("gate", derandomize=True, database=None, deadline=None, max_examples=100)
settings.register_profile(
    "fuzz",
    database=None,
    deadline=None,
    max_examples=1000,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("gate")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-apiserver", action="store_true", help="fail, not skip, where there is no kube-apiserver"
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--hypothesis-profile") != "fuzz":
        # Hypothesis tries constants of the modules that are imported so far, so the examples would depend on which
        # tests this worker has run.
        same = providers._local_constants
        providers._get_local_constants = lambda: same


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
