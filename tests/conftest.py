"""Settings for all tests: which examples Hypothesis tries, and options of the command line.

Owns the two profiles of Hypothesis: `gate`, whose examples are the same in every run, and `fuzz` (`make fuzz`).
"""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture import providers

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
