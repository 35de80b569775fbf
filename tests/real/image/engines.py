"""Real container tools and real images for tests: the tools from Debian, and a storage of their own.

Everything lies in one folder, so no image or setting of this machine is touched; conftest.py says when it goes.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest
from imagebuild import check

from tests.real import packages

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGES = (
    *("aardvark-dns", "buildah", "catatonit", "charliecloud-runtime", "debootstrap", "iptables", "netavark"),
    *("nftables", "passt", "podman", "runc", "skopeo", "squashfs-tools", "squashfuse", "uidmap", "umoci"),
)
PROGRAMS = ("buildah", "podman", "runc", "debootstrap", "umoci", "ch-run", "nft", "skopeo", "mksquashfs")
FOLDER = Path("/var/tmp/deepspeed-job-images")
KEEP = bool(os.environ.get("KEEP_IMAGES"))


# buildah and podman start anew from a copy of themselves in memory, which Linux refuses to seal while it moves one of
# its pages (fcntl(2), F_ADD_SEALS: EBUSY): seldom, and more often where memory is short. Finished layers are kept.
_BUSY = "sealing memfd copy: Device or resource busy"


def tried(*command: str, env: dict[str, str], timeout: float) -> subprocess.CompletedProcess[str]:
    """The outcome of a command of the container tools, started again when the kernel was busy."""
    for left in (2, 1, 0):
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout, check=False)
        if not left or not done.returncode or _BUSY not in done.stdout + done.stderr:
            break
    return done


@dataclass(frozen=True)
class Engine:
    """Container tools that work here, and the environment that leads them to the tests' own storage."""

    env: dict[str, str]

    def run(self, *command: str, ok: bool = True, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """Run a command with its output captured; a failure fails the test with all of it, unless `ok` is False."""
        done = tried(*command, env=self.env, timeout=timeout)
        if ok and done.returncode:
            pytest.fail(
                f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}",
                pytrace=False,
            )
        return done


@dataclass(frozen=True)
class Image:
    """A built image: its name, the engine that has it, and how many seconds the build took (0: it was there)."""

    name: str
    engine: Engine
    seconds: float

    def run(self, *words: str, ok: bool = True, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """`podman run --rm` with these words: options, the image's name, the command."""
        return self.engine.run("podman", "run", "--rm", *words, ok=ok, timeout=timeout)

    def inside(
        self, *command: str, options: tuple[str, ...] = (), ok: bool = True, timeout: float = 300
    ) -> str:
        """Return what a command prints in a fresh container of the image."""
        done = self.run(*options, self.name, *command, ok=ok, timeout=timeout)
        return done.stdout + done.stderr

    @property
    def facts(self) -> dict[str, object]:
        """The image's /opt/image.json."""
        read: dict[str, object] = json.loads(self.run(self.name, "cat", "/opt/image.json").stdout)
        return read


def unavailable(reason: str) -> NoReturn:
    """Skip for a reason that this machine gives; in CI, where the images must be proven, fail instead."""
    if os.environ.get("CI"):
        pytest.fail(f"images can't be built here: {reason}", pytrace=False)
    pytest.skip(reason)


def lock(name: str, kind: int) -> int:
    descriptor = os.open(FOLDER / name, os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, kind)
    return descriptor


@contextlib.contextmanager
def exclusive(name: str) -> Iterator[None]:
    descriptor = lock(name, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(descriptor)


def environment() -> dict[str, str]:
    """Write the tools' settings into the folder and return the environment that names them."""
    for part in ("tmp", "networks", "run"):
        (FOLDER / part).mkdir(parents=True, exist_ok=True)
    # root without CAP_SYS_RESOURCE can't raise limits, and the tools' defaults are above the machine's.
    files, processes = (
        resource.getrlimit(kind)[1] for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC)
    )
    (FOLDER / "containers.conf").write_text(
        f'[containers]\ndefault_ulimits = ["nofile={files}:{files}", "nproc={processes}:{processes}"]\n'
        f'[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\n'
        f'[network]\nnetwork_config_dir = "{FOLDER}/networks"\n'
    )
    (FOLDER / "storage.conf").write_text(
        f'[storage]\ndriver = "overlay"\ngraphroot = "{FOLDER}/storage"\nrunroot = "{FOLDER}/run"\n'
    )
    return {
        **os.environ,
        "CONTAINERS_CONF": str(FOLDER / "containers.conf"),
        "CONTAINERS_STORAGE_CONF": str(FOLDER / "storage.conf"),
        "PODMAN_IGNORE_CGROUPSV1_WARNING": "1",
        "BUILDAH_ISOLATION": "chroot",
        "STORAGE": str(FOLDER),
        "TMPDIR": str(FOLDER / "tmp"),
        "PYTHONPATH": str(check.HERE),
        "PYTHON": sys.executable,
    }


def cpu_bases(engine: Engine) -> str:
    """Make the bases of the cpu flavour, and with them Debian's, of which all are made; return their two names."""
    with exclusive("bases"):
        return engine.run(str(check.HERE / "local/base.sh"), "cpu", timeout=1200).stdout.splitlines()[-1]


def make_image(engine: Engine, context: Path = check.HERE, **settings: str) -> Image:
    """Build an image of `context` as `make image` does, with bases made here, or take the one that is there already.

    The flavours are built side by side: a build waits for packages half of the time. With REBUILD among the settings it
    is built in any case; layers that did not change are taken again.
    """
    cpu_bases(engine)
    with exclusive(settings["FLAVOUR"]):
        command = [sys.executable, "-m", "imagebuild.build"]
        own = {"PYTHONPATH": str(context), "BASE_IMAGE": "local", "ENGINE": "buildah"}
        env = {**engine.env, **own, **settings}
        name = subprocess.run([*command, "--check"], env=env, capture_output=True, text=True, check=False)
        if name.returncode:
            pytest.fail(name.stderr, pytrace=False)
        image = name.stdout.strip()
        there = engine.run("buildah", "inspect", "--type", "image", image, ok=False).returncode == 0
        # Other workers find it by its name, which says nothing of the files where git's hash is not in it.
        marker = (
            FOLDER / f"{image.replace(':', '-')}-{os.environ.get('PYTEST_XDIST_TESTRUNUID', os.getpid())}"
        )
        hashed = not {"dirty", "unversioned"} & set(re.split("[:-]", image))
        if "REBUILD" not in settings and (marker.exists() or (there and KEEP and hashed)):
            return Image(image, engine, 0.0)
        done = tried(*command, env=env, timeout=3000)
        if done.returncode:
            pytest.fail(
                f"the build of {image} failed:\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}", pytrace=False
            )
        marker.touch()
        seconds = float(done.stderr.rsplit(" built in ", 1)[1].split()[0])
        return Image(image, engine, seconds)


def copied(folder: Path) -> Path:
    """Return a copy of docker/ below `folder`, to change and to build; no hash of git's names it."""
    copy = folder / "docker"
    shutil.copytree(check.HERE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def rebuild_changed(image: Image, folder: Path) -> subprocess.CompletedProcess[str]:
    """Build the cpu image `image` again in `folder`, after a change in one workload; stdout is the new one's name."""
    copy = copied(folder)
    with (copy / "workloads" / "pretrain.py").open("a") as file:
        file.write("\n# changed\n")
    settings = {"PYTHONPATH": str(copy), "FLAVOUR": "cpu", "BASE_IMAGE": "local", "ENGINE": "buildah"}
    return subprocess.run(
        [sys.executable, "-m", "imagebuild.build"],
        cwd=folder,
        env={**image.engine.env, **settings},
        capture_output=True,
        text=True,
        check=False,
    )


def install() -> Engine:
    """buildah and podman that work on this machine; installs them where root may, else skips (in CI: fails)."""
    if os.geteuid() != 0:
        unavailable("building images needs root")
    with exclusive("install"):
        missing = packages.missing(PROGRAMS, PACKAGES)
        if missing:
            unavailable(f"missing programs: {', '.join(missing)} (Debian: {' '.join(PACKAGES)})")
        problem = check.disk_problem("cpu", shutil.disk_usage(FOLDER).free / 1e9, str(FOLDER))
        if problem:
            unavailable(problem)
        return Engine(environment())


def remove() -> None:
    env = environment()
    if shutil.which("podman"):
        for command in (
            ["podman", "rm", "--all", "--force", "--time", "0"],
            ["podman", "network", "prune", "--force"],
        ):
            subprocess.run(command, env=env, capture_output=True, check=False)
    if shutil.which("buildah"):
        for command in (["buildah", "rm", "--all"], ["buildah", "rmi", "--all", "--force"]):
            subprocess.run(command, env=env, capture_output=True, check=False)
    subprocess.run(
        ["umount", "--recursive", str(FOLDER / "storage" / "overlay")], capture_output=True, check=False
    )
    shutil.rmtree(FOLDER, ignore_errors=True)
