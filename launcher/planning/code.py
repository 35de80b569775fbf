"""The user's own code as a plan has it: the folder that travels to the ranks, and which of its files do.

Owns the data alone; code_files.py looks at the disk, and submission/snapshot.py makes the copy.
"""

from __future__ import annotations

from typing import NamedTuple

NONE = "none"  # the field's word for a program that is where the ranks are: in the image, or mounted


class File(NamedTuple):
    """A file below the code's folder. `link`: what a symbolic link that stays one points to."""

    path: str
    source: str
    size: int
    executable: bool = False
    link: str = ""
    content: bytes | None = None  # read where all files together are small enough for a ConfigMap


class Code(NamedTuple):
    """What travels. `program`: the job's script below `root`; '' where the job starts something else."""

    root: str
    program: str
    files: tuple[File, ...]
    left_out: tuple[str, ...] = ()  # why each of what does not travel stays, in words

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def largest(self, most: int = 3) -> str:
        """The largest files with their sizes, in words."""
        files = sorted(self.files, key=lambda file: -file.size)[:most]
        return ", ".join(f"{file.path} ({file.size:,} bytes)" for file in files)
