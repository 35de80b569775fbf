"""A rank that leaves at once while a data loader of its has a worker, whose process id it prints."""

from __future__ import annotations

import os

from torch.utils.data import DataLoader

if __name__ == "__main__":
    loader: DataLoader[int] = DataLoader(range(4), num_workers=1, persistent_workers=True)
    batches = iter(loader)
    next(batches)
    (worker,) = batches._workers
    print(worker.pid, flush=True)
    os._exit(0)
