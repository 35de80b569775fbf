"""The fixtures of tests on a real Slurm: `slurm_session`, one cluster per test process, and `slurm_cluster`.

Owns when a cluster starts and when tests are skipped; `tests/real/slurm/cluster.py` owns the cluster.
Under pytest-xdist each worker has its own cluster, on a network of its own.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from tests.real.slurm import cluster, requirements
from tests.real.slurm import site as sites

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def slurm_requirements() -> None:
    """Skip where a real Slurm cannot be had. In CI that is a failure: no test may get lost there unseen."""
    why = requirements.obstacle()
    if why:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"no Slurm cluster here: {why}")


@pytest.fixture(scope="session")
def slurm_session(slurm_requirements: None) -> Iterator[cluster.Cluster]:
    """A running cluster. Set KEEP_SLURM=1 to keep its directory and logs."""
    with cluster.Cluster(keep=bool(os.environ.get("KEEP_SLURM"))) as running:
        yield running


@pytest.fixture
def slurm_cluster(
    slurm_session: cluster.Cluster, monkeypatch: pytest.MonkeyPatch
) -> Iterator[cluster.Cluster]:
    """The cluster with every node idle; this process's own srun, sbatch and sacct talk to it too."""
    for name in [name for name in os.environ if name.startswith(("SLURM", "SBATCH", "SRUN"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SLURM_CONF", str(slurm_session.conf))
    yield slurm_session
    slurm_session.reset()


@pytest.fixture
def site(slurm_cluster: cluster.Cluster, tmp_path: Path) -> sites.Site:
    """A user's folder on that cluster."""
    return sites.Site(tmp_path, slurm_cluster)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Show the end of the daemons' logs with a failure."""
    report = yield
    running = getattr(item, "funcargs", {}).get("slurm_session")
    if report.failed and running:
        for log in sorted((running.folder / "log").glob("slurm*.log")):
            report.sections.append((log.name, log.read_text(errors="replace")[-2000:]))
    return report
