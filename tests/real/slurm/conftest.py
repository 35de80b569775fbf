"""The fixtures of tests on a real Slurm: `slurm_session`, one cluster per test process, and `slurm_cluster`.

Owns when a cluster starts and when tests are skipped; `tests/real/slurm/cluster.py` owns the cluster.
Under pytest-xdist each worker has its own cluster, on a network of its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.real.slurm import cluster
from tests.real.slurm import site as sites

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

_PACKAGES = (
    *("slurm-wlm", "slurmdbd", "slurm-wlm-mysql-plugin", "munge", "mariadb-server-core"),
    *("iproute2", "util-linux"),
)
_PROGRAMS = ("slurmctld", "slurmd", "slurmdbd", "munged", "mariadbd", "ip", "unshare", "nsenter", "setpriv")


@pytest.fixture(scope="session")
def slurm_requirements() -> None:
    """Skip where a real Slurm cannot be had. In CI that is a failure: no test may get lost there unseen."""
    why = _obstacle()
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


def _obstacle() -> str:
    """Why no cluster can run here; empty when it can. Installs Debian's packages where that is allowed."""
    if os.geteuid() != 0:
        return "it needs root, for namespaces and a bridge"
    # In an unprivileged container root may do neither.
    probe = subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "true"],
        capture_output=True,
        text=True,
    )
    if probe.returncode:
        return f"no namespaces: {probe.stderr.strip()}"
    if _missing() and shutil.which("apt-get"):
        _install()
    return f"missing programs: {', '.join(_missing())} (Debian: {' '.join(_PACKAGES)})" if _missing() else ""


def _missing() -> list[str]:
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    return [name for name in _PROGRAMS if not shutil.which(name, path=path)]


def _install() -> None:
    # The lock's time limit is for a second test process that installs at the same moment.
    apt = ("apt-get", "-q", "-o", "DPkg::Lock::Timeout=300")
    install = (*apt, "install", "-y", "--no-install-recommends", *_PACKAGES)
    for command in (install, (*apt, "update"), install):
        env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(command, env=env, capture_output=True, timeout=600, check=False)
        if not _missing():
            return
