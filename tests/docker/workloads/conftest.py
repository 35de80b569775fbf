"""A trained model that several tests start from, and a session of one rank in the test's own process."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.docker.workloads import ranks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from workloads.session import Session


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


@pytest.fixture(scope="session")
def talkative(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaMA of random weights so large that each token depends on all before it, with a tokenizer of bytes."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from workloads import tokenizer

    folder = tmp_path_factory.mktemp("talkative") / "model"
    torch.manual_seed(0)
    settings = AutoConfig.for_model(
        **ranks.LLAMA | {"vocab_size": 260, "initializer_range": 0.3, "max_position_embeddings": 256},
        bos_token_id=None,
        eos_token_id=None,
    )
    AutoModelForCausalLM.from_config(settings).save_pretrained(folder)
    tokenizer.existing("bytes").save_pretrained(folder)
    return folder


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    """A session of one rank in this process."""
    torch = pytest.importorskip("torch", reason="the train extra is not installed")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("LOCAL_RANK", "0")
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield place(0, 1, tmp_path / "run")
    torch.distributed.destroy_process_group()


def place(rank: int, world_size: int, run_dir: Path = Path()) -> Session:
    """A session as the data sees it."""
    import torch
    from workloads import session

    return session.Session(rank, world_size, torch.device("cpu"), run_dir)
