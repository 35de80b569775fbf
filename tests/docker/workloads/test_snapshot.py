"""A copy holds what torch.save would write of the original, and no change of that reaches it."""

from __future__ import annotations

import io
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the train extra is not installed")

from workloads import snapshot  # noqa: E402

pytestmark = pytest.mark.torch


class Scaler:
    """Like DeepSpeed's loss scalers, an object in its states that a step changes."""

    def __init__(self) -> None:
        self.scale, self.history = 2.0, [1.0]


def state() -> dict[str, Any]:
    flat = torch.arange(12, dtype=torch.float32)
    return {
        "module": {"a": flat[:4].view(2, 2), "b": flat[4:].detach(), "whole": flat},
        "parameter": torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16)),
        "steps": [torch.tensor(7.0), torch.tensor([], dtype=torch.int64)],
        "scaler": Scaler(),
        "groups": [{"lr": 0.5, "betas": (0.9, 0.95)}],
    }


def change(state: dict[str, Any]) -> None:
    """What a step does to the original."""
    with torch.no_grad():
        state["module"]["whole"].fill_(-1)
        state["parameter"].mul_(5)
        state["steps"][0].add_(1)
    state["scaler"].scale = 0.0
    state["scaler"].history.append(9.0)
    state["groups"][0]["lr"] = 0.0


def written(state: object) -> dict[str, Any]:
    stream = io.BytesIO()
    torch.save(state, stream)
    size = len(stream.getvalue())
    stream.seek(0)
    return {"size": size, **torch.load(stream, weights_only=False)}


def test_a_copy_is_what_was_there() -> None:
    original = state()
    copy = snapshot.Copies(torch.device("cpu")).take(original)
    change(original)
    ours, theirs = written(copy), written(state())
    assert abs(ours["size"] - theirs["size"]) < 512, "the same storages, each once"
    for name in ("a", "b", "whole"):
        assert torch.equal(ours["module"][name], theirs["module"][name])
    assert type(copy["parameter"]) is torch.nn.Parameter
    assert torch.equal(ours["parameter"], theirs["parameter"])
    assert [tensor.tolist() for tensor in ours["steps"]] == [7.0, []]
    assert (ours["scaler"].scale, ours["scaler"].history) == (2.0, [1.0])
    assert ours["groups"] == [{"lr": 0.5, "betas": (0.9, 0.95)}]


def test_tensors_that_share_memory_share_that_of_the_copy() -> None:
    copy = snapshot.Copies(torch.device("cpu")).take(state())["module"]
    copy["whole"][0] = 100.0
    assert copy["a"][0, 0] == 100.0
    assert len({tensor.untyped_storage().data_ptr() for tensor in copy.values()}) == 1


def test_memory_that_is_given_back_is_used_again_and_other_is_not() -> None:
    copies = snapshot.Copies(torch.device("cpu"))

    def places() -> set[int]:
        copy = copies.take(state())
        return {copy["module"]["whole"].data_ptr(), copy["parameter"].data_ptr()}

    first, second = places(), places()
    assert not first & second
    copies.give_back()
    assert places() <= first | second
