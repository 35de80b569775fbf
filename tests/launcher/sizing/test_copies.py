"""The copies of a checkpoint are as large as what a host's ranks write of it, and count where memory is compared."""

from __future__ import annotations

from typing import Any

import pytest

from launcher.sizing import copies, memory, models, zero
from launcher.sizing.architecture import Architecture
from launcher.sizing.setup import Setup

EXACT = 0  # pinned memory that is never rounded up


def llama() -> Architecture:
    found = models.load("llama-7b")
    assert isinstance(found, Architecture)
    return found


def settings(stage: int, **keys: Any) -> zero.Zero:
    return zero.read({"bf16": {"enabled": True}, "zero_optimization": {"stage": stage, **keys}})


def test_llama_7b_worked_by_hand() -> None:
    psi, setup = llama().trained, Setup(64, 8, 1, 2048, pinned_round=EXACT)
    own = -(-psi // 64)
    assert copies.host([llama()], settings(3), setup) == 8 * 12 * own
    assert copies.host([llama()], settings(2), setup) == 8 * 12 * own + 2 * psi, "and the weights, of rank 0"
    assert copies.host([llama()], settings(0), setup) == 12 * psi + 2 * psi, "rank 0 alone writes"
    assert copies.rank([llama()], settings(3), setup) == 12 * own


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("slots", [1, 4])
def test_of_one_host_they_are_a_whole_checkpoint(stage: int, slots: int) -> None:
    whole = memory.checkpoint(llama(), settings(stage))
    found = copies.host([llama()], settings(stage), Setup(slots, slots, 1, 128, pinned_round=EXACT))
    assert whole <= found <= whole + 12 * slots, "the last part is padded"


def test_two_models_are_copied_at_once() -> None:
    one, two = ([llama()] * number for number in (1, 2))
    setup = Setup(8, 8, 1, 128)
    assert copies.host(two, settings(2), setup) == 2 * copies.host(one, settings(2), setup)


@pytest.mark.parametrize(
    ("size", "most", "bytes"),
    [(0, None, 0), (1, None, 1), (5, None, 8), (8, None, 8), (9, 8, 9), (5, 8, 8), (2**33 + 1, None, 2**34)],
)
def test_pinned_memory_is_rounded_up_to_a_power_of_two(size: int, most: int | None, bytes: int) -> None:
    assert copies.rounded(size, most) == bytes


def test_they_are_in_the_host_or_without_a_gpu_in_the_rank() -> None:
    model, setup = llama(), Setup(8, 8, 1, 128, pinned_round=EXACT)
    plain, copied = (memory.estimate(model, settings(2), setup._replace(copies=c)) for c in (False, True))
    assert plain.host.copies == 0
    assert copied.host.total - plain.host.total == copied.host.copies > 12 * model.trained
    assert copied.slot == plain.slot
    cpu = setup._replace(device="cpu")
    plain, copied = (memory.estimate(model, settings(2), cpu._replace(copies=c)) for c in (False, True))
    assert copied.host == plain.host
    assert copied.slot.total - plain.slot.total == copies.rank([model], settings(2), cpu)
