"""A rank's part of a checkpoint: what it failed to write is noted with rank and path, and nothing is raised."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

import pytest

torch = pytest.importorskip("torch", reason="the train extra is not installed")

from workloads import digests, snapshot, writing  # noqa: E402

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.torch


def full(*_: object) -> digests.Written:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def cut(*_: object) -> digests.Written:
    raise RuntimeError("[enforce fail at inline_container.cc:668] . unexpected pos 64 vs 0")


class Writer:
    """What DeepSpeed's checkpoint engine has of all this."""

    save = staticmethod(cut)
    makedirs = staticmethod(os.makedirs)


class Engine:
    def __init__(self) -> None:
        self.checkpoint_engine = Writer()

    _copy_recovery_script = staticmethod(full)


@pytest.mark.parametrize(
    ("work", "reason"),
    [(full, "No space left on device"), (cut, "the file system took only a part of a file")],
)
@pytest.mark.parametrize("later", [False, True])
def test_a_failure_is_noted_with_rank_host_and_path(
    work: Any, reason: str, later: bool, tmp_path: Path
) -> None:
    now = writing.Writing(tmp_path, 3, snapshot.Copies(torch.device("cpu")) if later else None)
    file = str(tmp_path / "critic/states.pt")
    now.guarded(now.file)(work, {}, file)
    assert bool(now.part.failures) is not later
    now.rest()
    (failure,) = now.part.failures
    assert failure.startswith("rank 3 on ")
    assert f"{file}: {reason}" in failure
    assert now.part.written == {}
    assert writing.first_failure([writing.Part({}, []), now.part]) == failure


def test_what_nobody_expected_is_noted_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a thread: it would end, and the other ranks wait for its part."""

    def wrong(*_: object) -> digests.Written:
        raise KeyError("x")

    now = writing.Writing(tmp_path, 0, snapshot.Copies(torch.device("cpu")))
    now.file(wrong, {}, str(tmp_path / "a.pt"))
    now.rest()
    assert now.part.failures[0].endswith("KeyError: 'x'")
    assert "Traceback" in capsys.readouterr().err


def test_deepspeed_writes_by_way_of_it_and_afterwards_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "write", lambda *given: digests.Written(1, given[-1]))
    one: Any = Engine()
    now = writing.Writing(tmp_path, 0, None)
    with writing.observed(one, now):
        one.checkpoint_engine.save({}, str(tmp_path / "a.pt"))
        one.checkpoint_engine.makedirs("/proc/nothing/here")
        one._copy_recovery_script("/")
    assert now.part.written == {"a.pt": digests.Written(1, str(tmp_path / "a.pt"))}
    assert len(now.part.failures) == 2
    with pytest.raises(RuntimeError):
        one.checkpoint_engine.save({}, "a.pt")
