"""Two hosts that are asked for a profile, on a clock of the test's: who is asked, who waits, who is refused.

What ranks do is played by the test with their files; real ones are in tests/launcher/submission/test_profiles.py.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import heartbeat
import profiling
import pytest
from links import Peers

if TYPE_CHECKING:
    from pathlib import Path

TRACED = {"from": 5, "to": 6, "seconds": 1.0, "bytes": 7, "cpu": 1.0, "device": 0.0, "operators": []}


class Hosts:
    """Hosts a and b with two ranks each, whose messages arrive at once."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.now = folder, 1000.0
        self.told = [folder / "told-a", folder / "told-b"]
        self.messages: list[dict[str, Any]] = []
        self.entries = []
        self.hear = []
        for index in range(2):
            self.told[index].mkdir()
            peers = Peers(["a", "b"])
            peers.tell = self.teller(index)  # type: ignore[method-assign]
            entry = profiling.Profiles(folder / "run", "0", self.told[index], 2, peers=peers, index=index)
            self.entries.append(entry)
            entry.told, there = self.told[index] / "none", entry.told  # its thread ends at once
            self.hear.append(entry.follow(lambda *_: None))
            entry.told = there
        for rank in range(4):
            self.beat(rank, 1)

    def teller(self, index: int) -> Any:
        def tell(**message: Any) -> None:
            self.messages.append(json.loads(json.dumps(message)))
            self.hear[1 - index](index, self.messages[-1])

        return tell

    def file(self, rank: int, ending: str = "") -> Path:
        return self.told[rank // 2] / f"rank-{rank}{ending}"

    def beat(self, rank: int, step: int, **more: Any) -> None:
        seconds = {"last": [1.0] * 8}
        record = {"step": step, "phase": "step", "beat": step, "steps": seconds, **more}
        self.file(rank).write_bytes(heartbeat.sealed(record))

    def look(self, seconds: float = 1.0) -> None:
        self.now += seconds
        for index in (0, 1, 0):
            self.entries[index].look(self.now)

    def ask(self, *ranks: int, name: str = "profile-1", limit: float = 60.0) -> None:
        wish = {"ranks": ranks, "steps": 2, "limit": limit}
        (self.told[0] / f"{name}.ask").write_text(json.dumps(wish))

    def answer(self, rank: int, **more: Any) -> None:
        wish = json.loads(self.file(rank, ".profile").read_text())
        self.file(rank, ".profiled").write_text(json.dumps({"name": wish["name"], **(more or TRACED)}))
        self.file(rank, ".profile").unlink()

    def answered(self, name: str = "profile-1") -> Any:
        file = self.told[0] / f"{name}.answer"
        return json.loads(file.read_text()) if file.exists() else None


@pytest.fixture
def hosts(tmp_path: Path) -> Hosts:
    return Hosts(tmp_path)


def test_ranks_of_all_hosts_are_asked_for_the_same_steps(hosts: Hosts) -> None:
    hosts.beat(0, 9)
    hosts.beat(3, 9)
    hosts.ask(0, 3)
    hosts.look()
    wishes = {rank: json.loads(hosts.file(rank, ".profile").read_text()) for rank in (0, 3)}
    # three steps of a second each: as long as hosts may need to hear
    assert {wish["first"] for wish in wishes.values()} == {12}
    assert {wish["steps"] for wish in wishes.values()} == {2}
    assert wishes[3]["file"] == str(hosts.folder / "run/profiles/0-1/rank-3.pt.trace.json.gz")
    assert not hosts.file(1, ".profile").exists()
    assert not (hosts.told[0] / "profile-1.ask").exists()

    hosts.answer(3)
    hosts.look()
    assert hosts.answered() is None
    assert "1 of 2 ranks are done" in (hosts.told[0] / "profile-1.said").read_text()
    hosts.answer(0)
    hosts.look()
    found = hosts.answered()
    assert (found["name"], found["steps"]) == ("0-1", 2)
    assert [(rank["rank"], rank["host"], rank["file"]) for rank in found["ranks"]] == [
        (0, "a", "rank-0.pt.trace.json.gz"),
        (3, "b", "rank-3.pt.trace.json.gz"),
    ]


def test_a_rank_that_counts_for_itself_need_not_catch_up(hosts: Hosts) -> None:
    hosts.beat(0, 5000)
    hosts.ask(0, 3)
    hosts.look()
    assert json.loads(hosts.file(3, ".profile").read_text())["first"] == 1 + 3 + 1


def test_one_at_a_time(hosts: Hosts) -> None:
    hosts.ask(0, name="profile-1")
    hosts.look()
    hosts.ask(1, name="profile-2")
    hosts.look()
    assert (
        "a profile is being taken already: step 1, 0 of 1 ranks are done"
        in hosts.answered("profile-2")["error"]
    )
    assert not hosts.file(1, ".profile").exists()
    hosts.answer(0)
    hosts.look()
    assert hosts.answered("profile-1")["ranks"][0]["from"] == 5
    (hosts.folder / "run/profiles/0-1").mkdir(parents=True)
    hosts.ask(1, name="profile-3")
    hosts.look()
    hosts.answer(1)
    hosts.look()
    assert hosts.answered("profile-3")["name"] == "0-2"


def test_ranks_that_stand_still_are_not_waited_for_for_ever(hosts: Hosts) -> None:
    hosts.ask(0, 3, limit=60.0)
    hosts.look()
    for step in (2, 3):  # slow steps are steps
        hosts.look(50)
        hosts.beat(0, step)
        hosts.look()
    hosts.answer(0)
    hosts.look(50)
    assert hosts.answered() is None
    hosts.look(61)
    done, late = hosts.answered()["ranks"]
    assert done["to"] == 6
    assert late == {"rank": 3, "host": "b", "error": "no step was done within 60 s", "file": ""}
    hosts.look()
    assert not hosts.file(3, ".profile").exists(), "the rank would be profiled later, when nobody waits"


@pytest.mark.parametrize("record", [None, b'{"step": 412}\n', {"phase": "other"}])
def test_who_tells_no_steps_is_refused_at_once(record: Any, hosts: Hosts) -> None:
    if isinstance(record, dict):
        hosts.beat(3, 0, **record)
    elif record:
        hosts.file(3).write_bytes(record)
    else:
        hosts.file(3).unlink()
    hosts.ask(3)
    hosts.look()
    hosts.look()
    (rank,) = hosts.answered()["ranks"]
    assert rank["error"] == profiling.TELLS_NOTHING
    assert not (hosts.folder / "run").exists()


def test_an_old_answer_is_none(hosts: Hosts) -> None:
    hosts.file(0, ".profiled").write_text(json.dumps({"name": "0-0", **TRACED}))
    hosts.ask(0)
    hosts.look()
    hosts.look()
    assert hosts.answered() is None


@pytest.mark.parametrize("text", ["", "[", "[]", '{"ranks": 3}', '{"ranks": [], "steps": "x", "limit": 1}'])
def test_nonsense_is_no_question(text: str, hosts: Hosts) -> None:
    (hosts.told[0] / "profile-1.ask").write_text(text)
    hosts.look()
    assert hosts.messages == []


def test_the_document_lies_in_the_run_folder(hosts: Hosts) -> None:
    (hosts.folder / "run/profiles/0-1").mkdir(parents=True)
    hosts.ask(0)
    hosts.look()
    name = hosts.entries[0].taking.name if hosts.entries[0].taking else ""
    (hosts.folder / "run/profiles" / name).mkdir(exist_ok=True)  # as the rank does
    hosts.answer(0)
    hosts.look()
    assert json.loads((hosts.folder / "run/profiles" / name / "profile.json").read_text()) == hosts.answered()
