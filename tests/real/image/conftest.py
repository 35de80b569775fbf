"""Fixtures for tests that build or run images, and the end of the folder that holds them.

The last pytest worker removes the folder (engines.FOLDER). With KEEP_IMAGES=1 it stays, and the next run takes its
images and layers again.
"""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

import pytest

from tests.real.image import engines

if TYPE_CHECKING:
    from pathlib import Path

    from tests.real.image.engines import Engine, Image


def pytest_collection_finish(session: pytest.Session) -> None:
    """Hold the folder from now on if any test here needs it, so that no other worker removes it too early."""
    if any(item.get_closest_marker("image") for item in session.items) and os.geteuid() == 0:
        engines.FOLDER.mkdir(exist_ok=True)
        session.config.stash[_HELD] = engines.lock("users", fcntl.LOCK_SH)


_HELD = pytest.StashKey[int]()


def pytest_sessionfinish(session: pytest.Session) -> None:
    held = session.config.stash.get(_HELD, None)
    if held is None:
        return
    with engines.exclusive("gate"):
        os.close(held)
        users = os.open(engines.FOLDER / "users", os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        finally:
            os.close(users)
        if not engines.KEEP:
            engines.remove()


@pytest.fixture(scope="session")
def engine() -> Engine:
    """buildah and podman that work on this machine; skips where they can't (in CI: fails)."""
    return engines.install()


@pytest.fixture(scope="session")
def cpu_image(engine: Engine) -> Image:
    """The train image, cpu flavour, built from the Dockerfile: the fixture for everything that runs containers."""
    return engines.make_image(engine, FLAVOUR="cpu", TARGET="train")


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A folder that the image's user, who is not root, may write to."""
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o777)
    return folder
