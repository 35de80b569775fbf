"""What several hosts have on their own disks counts as one checkpoint only where all of them have it, sound."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING, Any

import pytest
from workloads import checkpoint_folder, digests, own_disk, session, waiting
from workloads.checkpoint_folder import Identity, Progress
from workloads.session import Session, Stop

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

OURS = Identity("gpt2 (7 parameters)", "m", "bytes (256 tokens)", "t", 2, 1, "bf16")


class Said:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def keep(folder: Path, step: int, of: str = "") -> Path:
    """A checkpoint as a host marks it; `of` tells those that were written together."""
    path = folder / f"step-{step:08d}"
    path.mkdir(parents=True, exist_ok=True)
    (path / "states.pt").write_bytes(b"12345678")
    carried: dict[str, Any] = {
        "progress": dataclasses.asdict(Progress(step, step * 4, step * 64)),
        "identity": dataclasses.asdict(OURS),
        own_disk.SET: of or f"set of {step}",
    }
    checkpoint_folder.mark(path, carried, {"states.pt": digests.of(path / "states.pt")})
    return path


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[own_disk.Place, own_disk.Place]:
    """The places of two hosts with a rank each; what ranks gather is asked for both, the first being this one."""
    here, other = (own_disk.Place(tmp_path / f"node-{n}", 0, 1, keep=1, every=1) for n in range(2))

    def gathered(_: object, work: Callable[[], Any], *more: object, **named: object) -> list[Any]:
        mine = work()
        if isinstance(mine, dict):
            return [mine, own_disk._held(other, OURS)]
        tag = next(iter(asked))
        return [mine, own_disk._damage(other, tag)]

    asked: list[str] = []
    real = own_disk._damage

    def damage(place: own_disk.Place, tag: str) -> tuple[str, list[str]]:
        asked[:] = [tag]
        return real(place, tag)

    monkeypatch.setattr(own_disk, "_damage", damage)
    monkeypatch.setattr(waiting, "gathered", gathered)
    return here, other


def newest(place: own_disk.Place, said: Said, identity: Identity = OURS) -> str | None:
    found = own_disk.newest(None, place, identity, said)  # type: ignore[arg-type]
    return found.tag if found else None


def test_the_newest_that_all_have_is_taken(hosts: tuple[own_disk.Place, own_disk.Place]) -> None:
    here, other = hosts
    said = Said()
    assert newest(here, said) is None
    for step in (1, 2, 3):
        keep(here.folder, step)
    for step in (1, 2):
        keep(other.folder, step)  # it died before it had the third
    assert newest(here, said) == "step-00000002"
    (other.folder / "step-00000002/states.pt").unlink()
    assert newest(here, said) == "step-00000001"
    assert said.lines == []


def test_halves_of_two_attempts_are_none(hosts: tuple[own_disk.Place, own_disk.Place]) -> None:
    here, other = hosts
    keep(here.folder, 2, of="the first attempt")
    keep(other.folder, 2, of="the second")
    assert newest(here, Said()) is None


def test_one_with_a_damaged_file_on_any_host_is_passed_over(
    hosts: tuple[own_disk.Place, own_disk.Place],
) -> None:
    here, other = hosts
    for place in hosts:
        for step in (1, 2):
            keep(place.folder, step)
    (other.folder / "step-00000002/states.pt").write_bytes(b"12345679")
    said = Said()
    assert newest(here, said) == "step-00000001"
    assert "checkpoint step-00000002 on the hosts' own disks is passed over" in said.lines[0]
    assert "states.pt has other bytes than were written" in said.lines[0]


def test_one_of_other_ranks_is_none(hosts: tuple[own_disk.Place, own_disk.Place]) -> None:
    for place in hosts:
        keep(place.folder, 2)
    assert newest(hosts[0], Said(), dataclasses.replace(OURS, world_size=4)) is None


@pytest.mark.deepspeed
def test_the_folder_is_this_users_alone(
    alone: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_disk, "_mine", None)
    monkeypatch.setattr(session, "before_leaving", [])
    scratch = tmp_path / "scratch"
    place = own_disk.use(alone, str(scratch), every=5, keep=2)
    assert own_disk.mine() is place
    root = place.folder.parents[1]
    assert (root.name, root.stat().st_mode & 0o777) == (f"deepspeed-checkpoints-{os.geteuid()}", 0o700)
    old = root / "older"
    old.mkdir()
    os.utime(old, (1.0, 1.0))
    own_disk.use(alone, str(scratch), every=5, keep=2)
    assert [path.name for path in root.iterdir()] == ["run"]
    root.chmod(0o755)
    with pytest.raises(Stop, match=r"can be opened by others \(mode 755\); name another folder"):
        own_disk.use(alone, str(scratch), every=5, keep=2)
    session.before_leaving[0](75)
    assert place.folder.exists()  # for the next attempt
    session.before_leaving[0](0)
    assert not place.folder.parent.exists()
