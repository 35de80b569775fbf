"""What this host is: its driver, GPUs and kernel, written into the run folder before its ranks start.

Owns <run>/hosts/<index>.json, which the launcher adds to the run's lock.json. Nothing depends on it: where it cannot be
written the run goes on. The driver is read where it says so itself, because nvidia-smi takes seconds on some hosts.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
from pathlib import Path

NVIDIA = Path("/proc/driver/nvidia")


def write(run: Path, index: int, host: str, attempt: str) -> None:
    """Write what host number `index`, called `host`, is in this attempt."""
    with contextlib.suppress(OSError):
        folder = run / "hosts"
        folder.mkdir(exist_ok=True)
        draft = folder / f".{index}.{os.getpid()}"
        draft.write_text(json.dumps(facts(host, attempt), indent=1) + "\n", encoding="utf-8")
        draft.replace(folder / f"{index}.json")


def facts(host: str, attempt: str) -> dict[str, object]:
    """The host's name, kernel, NVIDIA driver ('' without one), and its GPUs."""
    return {
        "host": host,
        "attempt": attempt,
        "kernel": platform.release(),
        "driver": driver(),
        "gpus": gpus(),
        "python": platform.python_version(),
    }


def driver() -> str:
    """The version of NVIDIA's kernel module: `NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  …`."""
    with contextlib.suppress(OSError):
        found = re.search(
            r"Kernel Module.*?\s(\d+(?:\.\d+)+)\s", (NVIDIA / "version").read_text(errors="replace")
        )
        return found[1] if found else ""
    return ""


def gpus() -> list[str]:
    """The GPUs' names, in the order of their PCI addresses."""
    with contextlib.suppress(OSError):
        texts = [path.read_text(errors="replace") for path in sorted(NVIDIA.glob("gpus/*/information"))]
        return [name[1].strip() for text in texts if (name := re.search(r"^Model:(.*)$", text, re.MULTILINE))]
    return []
