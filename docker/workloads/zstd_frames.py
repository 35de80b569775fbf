"""A .zst file as a stream of bytes that ends with an error where the file is cut off.

zstandard's own stream_reader ends a file that is cut off as if it were whole (0.25).
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

CHUNK = 1 << 17


class Frames(io.RawIOBase):
    """The frames of a file, unpacked one after the other. Raises OSError for what is not zstd, or not whole."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._frame: Any = None
        self._packed = self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer as far as one chunk reaches; 0 at the end."""
        while not self._ready:
            self._packed = self._packed or self._file.read(CHUNK)
            if not self._packed:
                if self._frame is not None:
                    raise OSError("the last frame does not end")
                return 0
            self._unpack()
        taken = min(len(buffer), len(self._ready))
        buffer[:taken] = self._ready[:taken]
        self._ready = self._ready[taken:]
        return taken

    def _unpack(self) -> None:
        import zstandard

        self._frame = self._frame or zstandard.ZstdDecompressor().decompressobj()
        try:
            self._ready = self._frame.decompress(self._packed)
        except zstandard.ZstdError as error:
            raise OSError(str(error)) from error
        self._packed = b""
        if self._frame.eof:
            self._packed, self._frame = self._frame.unused_data, None

    def close(self) -> None:
        self._file.close()
        super().close()
