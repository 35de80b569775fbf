"""Switches for speed change no result: each gives the losses of the plain run."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import pytest

from tests.docker.workloads import ranks

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.deepspeed

CONFIG = ranks.deepspeed(2, stage=1)
ARGS = ("--seq-length=32", "--log-every=1", "--max-steps=3", "--lr=5e-3")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[int, float]:
    run = ranks.start(tmp_path_factory.mktemp("plain"), 2, CONFIG, *ARGS, model=ranks.LLAMA)
    assert run.wait() == [0, 0], run.output()
    return run.losses()


@pytest.mark.parametrize(
    "switches",
    # aot_eager traces forward and backward as inductor does, without its compiler
    [("--attention=eager", "--activation-checkpointing"), ("--attention=sdpa", "--compile=aot_eager")],
)
def test_the_losses_are_those_of_the_plain_run(
    switches: tuple[str, ...], plain: dict[int, float], tmp_path: Path
) -> None:
    run = ranks.start(tmp_path, 2, CONFIG, *ARGS, *switches, model=ranks.LLAMA)
    assert run.wait() == [0, 0], run.output()
    assert run.losses() == pytest.approx(plain, abs=1e-4)


def test_what_is_not_there_is_told_in_one_line(tmp_path: Path) -> None:
    one = ranks.deepspeed(1, stage=0)
    cases = [
        ("--compile=indctor", "--compile indctor: torch has no such backend, only"),
        ("--compile=inductor", "--compile inductor needs the compiler g++, which is not here"),
    ]
    if importlib.util.find_spec("flash_attn") is None:
        cases.append(("--attention=flash_attention_2", "--attention flash_attention_2: "))
    if importlib.util.find_spec("liger_kernel") is None:
        cases.append(("--liger", "--liger: the package liger_kernel is not installed"))
    runs = [
        ranks.start(tmp_path / str(n), 1, one, *ARGS, case[0], model=ranks.LLAMA)
        for n, case in enumerate(cases)
    ]
    for run, (_, message) in zip(runs, cases, strict=True):
        assert run.wait() == [64], run.output()
        assert message in run.output().splitlines()[-1]
