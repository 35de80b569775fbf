"""The files of a run at its mirror, by fsspec: listed, read, written and deleted, each tried again where that helps.

Owns what passes and what does not of the errors of all backends, and their words without secrets; what the files are
is mirror.py's.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from workloads import checkpoint_folder, keeping

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

T = TypeVar("T")
PAUSES = (0.2, 1.0, 4.0, 15.0)  # seconds before an operation that failed is tried again
# What is not cured by trying again: of Python, and of botocore and google.auth, which have no common base
_LASTING = (PermissionError, FileNotFoundError, NotADirectoryError, ImportError, ValueError)
_LASTING_NAMES = {"NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError"}
_SECRETS = re.compile(r"KEY|SECRET|TOKEN|PASS|CREDENTIAL", re.I)


@dataclass(frozen=True)
class Mirror:
    """A run's folder at the mirror; names are relative to it."""

    system: Any  # fsspec's AbstractFileSystem
    base: str
    disk: bool = False  # a folder, where files can be half written

    def files(self, below: str = "") -> dict[str, int]:
        """Name → bytes of all files below a folder, as they are now."""
        folder = f"{self.base}/{below}".rstrip("/")
        try:
            found = steadily(lambda: self.system.find(folder, detail=True))
        except FileNotFoundError:
            return {}
        cut = len(folder) + 1
        return {path[cut:]: int(facts["size"]) for path, facts in found.items() if len(path) > cut}

    def read(self, name: str) -> bytes:
        content: bytes = steadily(lambda: self.system.cat_file(f"{self.base}/{name}"))
        return content

    def write(self, name: str, content: bytes) -> None:
        """Write a small file, whole or not at all."""
        path = f"{self.base}/{name}"
        half = f"{path}.half" if self.disk else path
        steadily(lambda: self.system.pipe_file(half, content))
        if self.disk:
            Path(half).replace(path)

    def delete(self, names: Iterable[str]) -> None:
        """Delete files; one that is not there is gone already."""
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                steadily(functools.partial(self.system.rm_file, f"{self.base}/{name}"))

    def remove(self, tag: str) -> None:
        """Delete a checkpoint, its marker first: half deleted must not look whole."""
        names = sorted(self.files(tag), key=lambda name: name != checkpoint_folder.MARKER)
        self.delete(f"{tag}/{name}" for name in names)
        if self.disk:
            shutil.rmtree(f"{self.base}/{tag}", ignore_errors=True)  # buckets have no folders

    def complete(self) -> list[str]:
        """The tags of what is whole there, the newest first."""
        marked = (
            name.split("/")[0] for name in self.files() if name.endswith(f"/{checkpoint_folder.MARKER}")
        )
        return sorted(
            (tag for tag in marked if checkpoint_folder.step_of(tag) >= 0),
            key=checkpoint_folder.step_of,
            reverse=True,
        )


def at(address: str, run: str) -> Mirror:
    """The mirror of a run. Raises ImportError without the package of its scheme, ValueError for a wrong address."""
    import fsspec

    if wrong := keeping.problem(address):
        raise ValueError(wrong)
    scheme = address.partition("://")[0]
    # what others wrote is seen at once; folders on a disk are made as they are needed, and buckets never
    more = {"auto_mkdir": True} if scheme == "file" else {"use_listings_cache": False}
    system = fsspec.filesystem(scheme, skip_instance_cache=True, **more)
    return Mirror(system, f"{system._strip_protocol(address).rstrip('/')}/{run}", disk=scheme == "file")


def steadily(work: Callable[[], T]) -> T:
    """What work returns, tried again after pauses: a mirror answers 503, or cuts connections. Raises its last error."""
    for pause in PAUSES:
        try:
            return work()
        except Exception as error:  # of any backend
            if lasting(error):
                raise
        time.sleep(pause)
    return work()


def lasting(error: BaseException) -> bool:
    """Whether trying again is of no use."""
    return isinstance(error, _LASTING) or type(error).__name__ in _LASTING_NAMES


def reason(error: BaseException) -> str:
    """What failed in one line, without any value of a variable that may be a secret."""
    words = str(error).strip()
    text = words.splitlines()[0] if words else type(error).__name__
    for name, value in os.environ.items():
        if len(value) >= 8 and _SECRETS.search(name):
            text = text.replace(value, f"${name}")
    return text
