"""Settings for all tests: which examples Hypothesis tries, which tests are quick, and how long they take.

Owns the two profiles of Hypothesis: `gate`, whose examples are the same in every run, and `fuzz` (`make fuzz`); the
marker `quick`; and the account of processor time, which is the same on a busy machine.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import re
import signal
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture import providers

if TYPE_CHECKING:
    from collections.abc import Iterator

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
# tests that want a hub have one of their own
os.environ["HF_HUB_OFFLINE"] = "1"
# Containers often set it. Then pytest rewrites its plugins' assertions, and each program that a test starts compiles
# what it imports, every time anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

if TYPE_CHECKING:
    from collections.abc import Generator

# markers; a test with none of them is quick. `heavy` is also what takes a second with all its cases.
SLOW = {"apiserver", "deepspeed", "heavy", "image", "slurm", "torch"}
# fixtures that start processes: servers, node entries, local runs
STARTS = {"fake_server", "new_job", "nodes", "user"}
# packages that take seconds to read: no test that reads one is quick
HEAVY = {"accelerate", "datasets", "deepspeed", "matplotlib", "mlflow", "pandas", "torch", "transformers"}
CORES = 2  # budgets are for a machine with so many, and nothing else to do
_STARTED = time.monotonic()
_LAST_OF_FILE = pytest.StashKey[bool]()
_before: list[float] = []  # what was spent when the file of tests began
_TOOK: defaultdict[str, float] = defaultdict(float)  # file → processor seconds


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-apiserver", action="store_true", help="fail, not skip, where there is no kube-apiserver"
    )

    parser.addoption(
        "--budget",
        type=int,
        metavar="SECONDS",
        help=f"say what the tests took of so many seconds on {CORES} cores",
    )


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # as a shell's `&` and nohup start it: programs that are interrupted in tests would inherit that
        signal.signal(signal.SIGINT, signal.default_int_handler)
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


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Of a file that is slow as a whole `make quick` needs not even the imports, which are torch and DeepSpeed."""
    if config.getoption("markexpr") != "quick" or collection_path.suffix != ".py":
        return None
    whole = re.search(r"^pytestmark = .*", collection_path.read_text(encoding="utf-8"), re.MULTILINE)
    return True if whole and SLOW & set(re.findall(r"mark\.(\w+)", whole[0])) else None


# A worker takes a file at a time, the longest first: what a file shares is made once, and no worker is left alone with
# an image build. Two workers build an image each; the other files that need one come when it is there. (--dist
# loadgroup has no effect: pytest 9 does not read the names that xdist 3.8 gives its groups.)
LONGEST_FIRST = (
    "tests/real/image/test_cuda",
    "tests/real/image/test_cpu",
    "tests/docker/workloads/test_memory",
    "tests/test_readme",
    "tests/docker/workloads",
    "tests/real/image",
    "tests/real",
    "tests/launcher/schedulers/kubernetes/test_pods",
    *("tests/test_golden", "tests/test_errors", "tests/launcher/files/test_load"),
    *("tests/launcher/schedulers/kubernetes", "tests/launcher/schedulers/test_sbatch"),
    *("tests/launcher/discovery", "tests/launcher/cli", "tests/test_architecture"),
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        path = item.path.relative_to(config.rootpath).as_posix()
        return next(
            (n for n, folder in enumerate(LONGEST_FIRST) if path.startswith(folder)), len(LONGEST_FIRST)
        )

    items.sort(key=rank)
    for item in items:
        searches = getattr(getattr(item, "function", None), "is_hypothesis_test", False)
        if searches or STARTS & set(getattr(item, "fixturenames", ())):
            item.add_marker("heavy")
        if not SLOW & {mark.name for mark in item.iter_markers()}:
            item.add_marker("quick")


def pytest_collection_finish() -> None:
    gc.freeze()  # thousands of tests and their modules are no garbage, and need not be searched for any


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    item.stash[_LAST_OF_FILE] = nextitem is None or nextitem.path != item.path
    if not _before:
        _before.append(_processor())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """A quick test fails when it is the first to read a heavy package in its process."""
    before = HEAVY & sys.modules.keys()
    result = yield
    read = sorted((HEAVY & sys.modules.keys()) - before)
    if read and item.get_closest_marker("quick"):
        pytest.fail(f"this reads {', '.join(read)}: mark it torch or heavy", pytrace=False)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What a file's tests took travels with the last report of them, also from a worker."""
    report = yield
    if report.when == "teardown" and item.stash[_LAST_OF_FILE]:
        now = _processor()
        report.user_properties.append(("processor", now - _before[0]))
        _before[:] = [now]
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    for name, seconds in report.user_properties:
        if name == "processor" and isinstance(seconds, float):
            _TOOK[report.nodeid.partition("::")[0]] += seconds


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    budget = config.getoption("--budget")
    if not budget:
        return
    most = sorted(_TOOK.items(), key=lambda entry: -entry[1])[:15]
    terminalreporter.section("processor seconds, most first")
    for path, seconds in most:
        terminalreporter.write_line(f"{seconds:7.1f}  {path}")
    total, wall = sum(_TOOK.values()), time.monotonic() - _STARTED
    says = "within" if total <= budget * CORES else "ABOVE"
    terminalreporter.write_line(
        f"{total:.0f} processor seconds, {wall:.0f} by the clock: {says} the budget of {budget} s on {CORES} cores"
    )


def _processor() -> float:
    """Seconds of this process and of all below it, whether they have ended or not: servers, clusters, forks (Linux)."""
    spent, below = dict[int, int](), defaultdict[int, list[int]](list)
    for pid in (int(place.name) for place in Path("/proc").iterdir() if place.name.isdigit()):
        with contextlib.suppress(OSError):  # it has ended
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            below[int(fields[1])].append(pid)
            spent[pid] = sum(map(int, fields[11:15]))  # its own, and those of its children that have ended
    ticks, waiting = 0, [*below[os.getpid()]]
    while waiting:
        pid = waiting.pop()
        ticks += spent[pid]
        waiting += below[pid]
    return sum(os.times()[:4]) + ticks / os.sysconf("SC_CLK_TCK")
