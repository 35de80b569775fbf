"""A trained model that several tests start from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.docker.workloads import ranks

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What pretraining exports: a LLaMA that has seen twelve steps of bytes."""
    run = ranks.start(
        tmp_path_factory.mktemp("trained"),
        2,
        ranks.deepspeed(2, stage=3),
        *("--seq-length=64", "--lr=1e-2", "--max-steps=12", "--export"),
        model=ranks.LLAMA,
    )
    assert run.wait() == [0, 0], run.output()
    return run.run_dir / "export"
