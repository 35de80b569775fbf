"""Settings for all tests: Hypothesis without a deadline (the machine is shared), and options of the command line."""

import pytest
from hypothesis import settings

settings.register_profile("shared", deadline=None)
settings.load_profile("shared")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-apiserver", action="store_true", help="fail, not skip, where there is no kube-apiserver"
    )
