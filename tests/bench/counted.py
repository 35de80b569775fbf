"""A rank of pretrain whose steps are timed in processor seconds: what others do on this machine changes little then.

Owns the clock that it puts in place; the last line of its output is what the whole rank has used (tune.py, beside it).
"""

from __future__ import annotations

import os
import runpy
import time
from typing import NoReturn

_leave = os._exit


def leave(status: int) -> NoReturn:
    print(f"\nprocessor {time.process_time():.3f}", flush=True)
    _leave(status)


if __name__ == "__main__":
    time.perf_counter = time.process_time
    os._exit = leave
    runpy.run_module("workloads.pretrain", run_name="__main__", alter_sys=True)
