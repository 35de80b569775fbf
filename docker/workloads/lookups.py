"""Whether a package is installed, looked up once.

accelerate 1.15 reads the metadata of peft and of DeepSpeed from disk whenever it unwraps a model (`is_peft_available`,
`is_deepspeed_available`): three times a micro batch of TRL's trainers, 2 ms of processor time.
"""

from __future__ import annotations

import functools


def look_up_once() -> None:
    """Have accelerate keep what it found for the rest of this process: nothing is installed while a job runs."""
    from accelerate.utils import imports

    if not hasattr(imports._is_package_available, "cache_info"):
        imports._is_package_available = functools.cache(imports._is_package_available)
