"""A rank whose freed memory goes back at once, so that what is resident is what is in use: `…returning WORDS MODULE`.

MODULE is the workload, WORDS are its own. The C library is told what its variables tell one that starts, and a session
leaves it at that: https://man7.org/linux/man-pages/man3/mallopt.3.html
"""

from __future__ import annotations

import ctypes
import os
import runpy
import sys

PARAMETERS = {"MALLOC_TRIM_THRESHOLD_": -1, "MALLOC_MMAP_THRESHOLD_": -3}  # their numbers are malloc.h's
BYTES = 131072


def main() -> None:
    library = ctypes.CDLL(None)
    for name, parameter in PARAMETERS.items():
        os.environ[name] = str(BYTES)
        assert library.mallopt(parameter, BYTES) == 1
    runpy.run_module(sys.argv.pop(), run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
