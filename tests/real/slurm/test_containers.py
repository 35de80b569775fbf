"""The container runtimes that Debian has, for real on several hosts: Slurm's own OCI support and charliecloud."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING

import pytest

from tests.real import packages
from tests.real.slurm import cluster, config, containers
from tests.real.slurm.site import Site

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slurm

WEIRD = """a'b"c $HOME `id` #x, y;&|\\ \t*~ é
second line"""
PROGRAM = f"""
import json, os, socket, sys, time
where = {{"image": os.path.exists({containers.MARK!r}), "host": socket.gethostname(), "env": dict(os.environ)}}
where |= {{"code": __import__("ranks").__file__, "argv": sys.argv[1:]}}
json.dump(where, open(os.environ["RUN_DIR"] + f"/rank-{{os.environ['RANK']}}.json", "w"))
time.sleep(float(os.environ.get("NAP", 0)))
raise SystemExit(int(os.environ.get("CODE", 0)))
"""


@pytest.fixture(scope="module")
def runtimes() -> None:
    """Skip where they cannot be had; in CI that is a failure."""
    missing = packages.missing(containers.PROGRAMS, containers.PACKAGES)
    if missing:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"missing programs: {', '.join(missing)}")


@pytest.fixture(scope="module")
def oci_cluster(
    slurm_requirements: None, runtimes: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[cluster.Cluster]:
    oci = containers.oci_conf(tmp_path_factory.mktemp("oci"))
    with cluster.Cluster(config.Settings(nodes=2, oci=oci)) as running:
        yield running


@pytest.fixture
def oci_site(oci_cluster: cluster.Cluster, tmp_path: Path) -> Iterator[Site]:
    # mounts are joined with commas and colons, so the launcher refuses stranger names
    yield Site(tmp_path, oci_cluster, "plain")
    oci_cluster.reset()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return containers.image(tmp_path / "deepspeed-train")


def path_of(runtime: str, rootfs: Path) -> Path:
    return rootfs.parent if runtime == "oci" else rootfs


@pytest.mark.parametrize("runtime", ["oci", "charliecloud"])
def test_hosts_meet_inside_and_values_arrive(oci_site: Site, image: Path, runtime: str) -> None:
    """Two hosts, preflight with its all-reduce, then the ranks: all of it inside the image."""
    site = oci_site
    run = site.submit(
        *site.program(PROGRAM),
        *containers.settings(runtime, path_of(runtime, image), site.folder),
        "preflight=true",
        f"env={json.dumps({'WEIRD': WEIRD})}",
        f"args={json.dumps({'text': WEIRD.replace('$', '$$')})}",
    )
    done = site.ended(run)
    assert done["state"] == "SUCCEEDED", site.all_logs(run)
    assert "GB/s" in (site.path(run) / "logs" / "job.log").read_text()
    ranks = [json.loads((site.path(run) / f"rank-{rank}.json").read_text()) for rank in (0, 1)]
    assert [r["host"] for r in ranks] == ["n1", "n2"]
    for rank in ranks:
        assert rank["image"], "not inside the image"
        assert rank["env"]["WEIRD"] == WEIRD
        assert rank["argv"] == [f"--text={WEIRD}"]
        assert rank["env"]["PATH"].startswith("/opt/venv/bin:")


@pytest.mark.parametrize("runtime", ["oci", "charliecloud"])
def test_exit_code_and_cancel_reach_through(oci_site: Site, image: Path, runtime: str) -> None:
    site = oci_site
    inside = (*site.program(PROGRAM), *containers.settings(runtime, path_of(runtime, image), site.folder))
    failed = site.submit(*inside, 'env={CODE: "7"}', "name=failed")
    assert site.ended(failed)["exit_code"] == 7, site.all_logs(failed)
    run = site.submit(*inside, 'env={NAP: "99"}', "name=napping")
    site.shown(run, lambda: (site.path(run) / "rank-1.json").exists())
    site.launcher("cancel", run)
    assert site.ended(run)["state"] == "CANCELLED"
    deadline = time.monotonic() + 120
    while left := [
        site.cluster.node_exec(n, "sh", "-c", "pgrep -f '[p]rogram-' || true") for n in ("n1", "n2")
    ]:
        if left == ["", ""]:
            break
        assert time.monotonic() < deadline, f"still there after the end: {left}"
        time.sleep(0.5)


PLAIN = f"""
import json, os, ranks, sys
said = {{"image": os.path.exists({containers.MARK!r}), "entry": ranks.__file__, "python": sys.executable}}
said |= {{"code": __file__}}
json.dump(said, open(os.environ["RUN_DIR"] + f"/rank-{{os.environ['RANK']}}.json", "w"))
"""


@pytest.mark.parametrize("runtime", ["oci", "charliecloud"])
def test_an_image_with_a_plain_python(oci_site: Site, tmp_path: Path, runtime: str) -> None:
    """No /opt/venv and no /opt/job: the run brings the node entry, and the image's own python3 runs it."""
    site, plain = oci_site, containers.image(tmp_path / "plain", ours=False)
    settings = containers.settings(runtime, path_of(runtime, plain), site.folder)
    run = site.submit(*site.program(PLAIN), *settings)
    assert site.ended(run)["state"] == "SUCCEEDED", site.all_logs(run)
    for rank in (0, 1):
        said = json.loads((site.path(run) / f"rank-{rank}.json").read_text())
        assert said["image"], "not inside the image"
        assert said["entry"] == "/opt/launcher/ranks.py"
        assert said["python"].startswith("/usr/")
        assert said["code"].startswith(f"{site.path(run)}/code/program-")
    missing = site.submit(*site.program(PLAIN), *settings, "cluster.image_python=python9", "name=missing")
    assert site.ended(missing)["exit_code"] == 64
    said = "node: error: the image has no python9; image_python in the cluster file names its Python"
    assert said in site.launcher("status", missing).stdout + site.all_logs(missing)
