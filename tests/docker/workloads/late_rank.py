"""A rank of pretraining in which collectives have a time limit of LIMIT seconds and tokenizing takes longer.

Started as `python -m tests.docker.workloads.late_rank`, as workloads.pretrain is; test_waiting.py says what should come
of it.
"""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

LIMIT = 20.0


def main() -> None:
    from torch import distributed
    from workloads import pretrain, shard_writer

    begin: Callable[..., None] = distributed.init_process_group
    write = shard_writer.write

    def with_limit(*given: Any, **settings: Any) -> None:
        begin(*given, **{**settings, "timeout": timedelta(seconds=LIMIT)})

    def late(*given: Any) -> None:
        time.sleep(LIMIT + 5)
        write(*given)

    distributed.init_process_group = with_limit
    shard_writer.write = late  # type: ignore[assignment]
    sys.argv[0] = "pretrain"
    pretrain.main()


if __name__ == "__main__":
    main()
