"""A rank whose bits have changed in silence is named, and nothing of it is saved (faulty_rank.py is at fault)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from workloads import replicas
from workloads.session import Stop

from tests.docker.workloads import faulty_rank, ranks

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.deepspeed
OPTIONS = ("--seq-length=16", "--max-steps=8", "--checkpoint-every=3", "--verify-every=2", "--log-every=1")


@pytest.mark.parametrize(
    ("values", "odd"),
    [
        ("aab", ([2], True)),
        ("abbb", ([0], True)),
        ("abcbb", ([0, 2], True)),
        ("ab", ([0, 1], False)),
        ("aabb", ([0, 1, 2, 3], False)),
        ("abc", ([0, 1, 2], False)),
    ],
)
def test_a_majority_says_who_is_odd(values: str, odd: tuple[list[int], bool]) -> None:
    assert replicas.outvoted(values) == odd


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16, torch.uint8])
def test_any_bit_that_flips_is_seen(kind: torch.dtype) -> None:
    tensor = torch.arange(24).to(kind).reshape(4, 6).T  # not contiguous, as a weight may be
    before = int(replicas.bits(tensor))
    whole = tensor.T.view(torch.uint8).view(-1)
    for place in range(len(whole)):
        for bit in range(8):
            whole[place] ^= 1 << bit
            assert int(replicas.bits(tensor)) != before
            whole[place] ^= 1 << bit
    assert int(replicas.bits(tensor)) == before


def test_what_is_being_written_of_when_they_agreed_is_complete_before_the_run_ends() -> None:
    done: list[str] = []

    def settle() -> None:
        done.append("settled")
        raise Stop("a full disk", 74)

    def look() -> list[replicas.Looked]:
        raise Stop("after step 4 rank 1 differs", 78, leaves=1)

    saver: Any = SimpleNamespace(settle=settle)
    nothing: Any = None
    with pytest.raises(Stop, match="after step 4 rank 1 differs") as stop:
        replicas.Replicas(nothing, nothing, look).compare(4, saver)
    assert (stop.value.code, stop.value.leaves, done) == (78, 1, ["settled"])


def start(folder: Path, size: int, stage: int, fault: str, *more: str) -> ranks.Ranks:
    return ranks.start(
        folder,
        size,
        ranks.deepspeed(size, stage=stage, micro=2),
        *OPTIONS,
        f"--fault={fault}",
        *more,
        model=ranks.LLAMA,
        module=faulty_rank.__name__,
    )


def test_the_odd_one_of_three_is_named_and_the_run_goes_back(tmp_path: Path) -> None:
    run = start(tmp_path, 3, 0, "parameter")
    assert run.wait() == [78, 78, 78], run.output()
    (found,) = run.events("corrupted")
    assert (found["step"], found["since"], found["ranks"], found["certain"]) == (6, 4, [1], True)
    assert found["names"] == [faulty_rank.PARAMETER, *replicas.COMPUTED]
    assert "error: after step 6 rank 1 on " in run.output(0)
    what = f"in {faulty_rank.PARAMETER}, {', '.join(replicas.COMPUTED)}; after step 4 they were equal"
    assert f"differs from the 2 other ranks {what}" in run.output(0)
    blame = f"corrupted: differs from 2 other ranks in {faulty_rank.PARAMETER} after step 6"
    assert (tmp_path / "blame").read_text() == blame
    assert run.tags() == ["step-00000003"]  # that of step 6 would not be what two of three ranks have
    losses = run.losses()

    again = start(tmp_path, 3, 0, "parameter")
    assert again.wait() == [0, 0, 0], again.output()
    assert again.events("start")[-1]["resumed_from"] == "step-00000003"
    assert again.losses()[5] == losses[5]  # computed before the fault
    assert again.losses()[6] != losses[6]  # a third of it was computed with the flipped bit
    assert again.tags()[-1] == "step-00000008"


def test_of_two_that_compute_differently_both_are_named(tmp_path: Path) -> None:
    run = start(tmp_path, 2, 3, "result")
    assert run.wait() == [78, 78], run.output()
    (found,) = run.events("corrupted")
    assert (found["step"], found["since"], found["ranks"], found["certain"]) == (6, 4, [0, 1], False)
    assert found["names"] == list(replicas.COMPUTED)
    assert "no majority says who is right; after step 4 they were equal" in run.output(0)
    assert not (tmp_path / "blame").exists()


def test_what_hosts_keep_on_their_own_disks_was_equal_too(tmp_path: Path) -> None:
    own = (f"--checkpoint-local={tmp_path / 'scratch'}", "--checkpoint-local-every=1")
    run = start(tmp_path, 3, 0, "parameter", *own)
    assert run.wait() == [78, 78, 78], run.output()
    (found,) = run.events("corrupted")
    assert (found["step"], found["since"]) == (5, 4)
    assert [path.name for path in (tmp_path / "scratch").glob("*/*/*/step-*")] == ["step-00000004"]
