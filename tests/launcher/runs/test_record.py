"""Run folders: each run has its own, whoever else submits; what is on disk is found or passed over."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher import ROOT
from launcher.errors import RunNotFoundError, SpecError
from launcher.runs import record
from tests import samples

if TYPE_CHECKING:
    from launcher.planning.plan import Plan

# Reserves one run over and over; a job and cluster would only cost time.
RESERVE = """
import dataclasses, sys
from launcher.planning import plan
from launcher.runs import record
fields = dict.fromkeys(plan.Plan._fields)
made = plan.Plan(**{**fields, "id": "demo", "workspace": plan.Workspace("", sys.argv[1], "", "")})
sys.stdin.readline()
print(*(record.reserve(made).id for _ in range(20)))
"""

BROKEN = {
    "empty": "",
    "half": '{"id": "half", "sched',
    "list": "[]",
    "number": "5",
    "lacking": '{"id": "lacking"}',
    "words": '{"id": 1, "scheduler": 2, "native_id": 3, "submitted": "now", "nodes": 1, "slots": 1, "place": {}}',
    "place": '{"id": "a", "scheduler": "local", "native_id": "1", "submitted": 1, "nodes": 1, "slots": 1, "place": 3}',
    "nested": "[" * 100_000,
    "binary": "\x00\x01",
}


def decided(folder: Path, name: str = "demo") -> Plan:
    made = samples.decided({"name": name})
    return made._replace(workspace=made.workspace._replace(runs=str(folder)))


def submitted(folder: Path, name: str, at: float = 1.0, scheduler: str = "local") -> record.Run:
    return record.record(record.reserve(decided(folder, name)), scheduler, "123", at)


def test_eight_processes_get_eight_folders(tmp_path: Path) -> None:
    words = [sys.executable, "-c", RESERVE, str(tmp_path / "runs")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    racers: list[subprocess.Popen[str]] = [subprocess.Popen(words, **pipes) for _ in range(8)]  # type: ignore[call-overload]
    for racer in racers:
        assert racer.stdin
        racer.stdin.write("go\n")
        racer.stdin.flush()
    ids = [name for racer in racers for name in racer.communicate(timeout=60)[0].split()]
    assert sorted(ids) == sorted(["demo", *(f"demo-{number}" for number in range(2, 161))])
    assert {path.name for path in (tmp_path / "runs").iterdir()} == set(ids)


def test_an_abandoned_folder_is_free_again(tmp_path: Path) -> None:
    made = record.reserve(decided(tmp_path))
    record.write_files(Path(made.folder), {"job.sh": "", "deep/er.txt": ""})
    record.abandon(made)
    assert list(tmp_path.iterdir()) == []
    assert record.reserve(decided(tmp_path)).id == made.id


def test_the_folder_of_another_kind_is_never_taken(tmp_path: Path) -> None:
    first = decided(tmp_path)
    Path(first.folder).write_text("a file in the way")
    assert record.reserve(first).id == f"{first.id}-2"


def test_a_runs_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        SpecError, match=r"cannot be written: Not a directory; set LAUNCHER_RUNS to a folder that can"
    ):
        record.reserve(decided(tmp_path / "file" / "runs"))


def test_a_record_is_read_back(tmp_path: Path) -> None:
    made = record.record(record.reserve(decided(tmp_path)), "slurm", "42", 1.5)
    assert record.find(tmp_path, made.id) == made
    again = record.resumed(made, "43")
    assert record.find(tmp_path, made.id) == again
    assert (again.native_id, again.former) == ("43", ("42",))


def test_a_moved_run_is_where_it_was_found(tmp_path: Path) -> None:
    made = submitted(tmp_path / "before", "demo")
    (tmp_path / "before").rename(tmp_path / "after")
    assert record.find(tmp_path / "after", made.id).folder == tmp_path / "after" / made.id


def test_where_a_kubernetes_run_is(tmp_path: Path) -> None:
    made = samples.decided(kubernetes={"namespace": "team", "context": "east"})
    made = made._replace(workspace=made.workspace._replace(runs=str(tmp_path)))
    assert record.record(record.reserve(made), "kubernetes", "uid", 1.0).place == {
        "namespace": "team",
        "context": "east",
    }


def test_listed_newest_first(tmp_path: Path) -> None:
    made = [submitted(tmp_path, name, at) for name, at in (("a", 2.0), ("b", 3.0), ("c", 1.0))]
    assert list(record.listed(tmp_path)) == [made[1], made[0], made[2]]
    assert list(record.listed(tmp_path / "absent")) == []


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_record_is_passed_over(kind: str, tmp_path: Path) -> None:
    made = submitted(tmp_path, "demo")
    broken = tmp_path / "demo-broken"
    broken.mkdir()
    (broken / "run.json").write_text(BROKEN[kind])
    assert list(record.listed(tmp_path)) == [made]
    assert record.find(tmp_path, "demo") == made
    with pytest.raises(RunNotFoundError):
        record.find(tmp_path, "demo-broken")


def test_a_folder_without_a_record_is_no_run_yet(tmp_path: Path) -> None:
    made = record.reserve(decided(tmp_path))
    with pytest.raises(RunNotFoundError, match=f"no run {made.id!r}"):
        record.find(tmp_path, made.id)


def test_a_record_of_a_newer_version_is_read(tmp_path: Path) -> None:
    made = submitted(tmp_path, "demo")
    path = made.folder / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "colour": "blue"}))
    assert record.find(tmp_path, "demo") == made


def test_find_by_prefix(tmp_path: Path) -> None:
    first, second = submitted(tmp_path, "demo"), submitted(tmp_path, "demo", 2.0)
    other = submitted(tmp_path, "other")
    assert second.id == f"{first.id}-2"
    assert record.find(tmp_path, "o") == other
    assert record.find(tmp_path, first.id) == first  # though the second one starts with it
    assert record.find(tmp_path, second.id) == second
    with pytest.raises(RunNotFoundError, match=f"'demo' starts 2 runs; name one: {second.id}, {first.id}"):
        record.find(tmp_path, "demo")
    with pytest.raises(RunNotFoundError, match=r"no run 'dmeo.*; did you mean"):
        record.find(tmp_path, first.id.replace("demo", "dmeo"))


@given(st.text(max_size=30))
def test_any_word_names_one_run_or_none(tmp_path_factory: pytest.TempPathFactory, word: str) -> None:
    folder = tmp_path_factory.getbasetemp() / "words"
    if not folder.exists():
        submitted(folder, "demo")
    try:
        found = record.find(folder, word).id
    except RunNotFoundError:
        found = word + "?"
    assert found.startswith(word)


@pytest.mark.parametrize("word", ["", "..", ".", "/", "demo/../demo", "x" * 5000, "*", "demo*"])
def test_words_that_are_paths_are_none(word: str, tmp_path: Path) -> None:
    submitted(tmp_path, "demo")
    with pytest.raises(RunNotFoundError):
        record.find(tmp_path, word)


def test_files_are_whole_or_not_there(tmp_path: Path) -> None:
    record.write_files(tmp_path, {"a": "before", "b/c": "ünïcode\n", "d": "caf\udce9"})
    assert (tmp_path / "b" / "c").read_text(encoding="utf-8") == "ünïcode\n"
    assert (tmp_path / "d").read_bytes() == b"caf\xe9"  # a path that is not UTF-8 keeps its bytes
    (tmp_path / ".a.draft").mkdir()  # the draft cannot be written
    with pytest.raises(OSError, match="directory"):
        record.write_files(tmp_path, {"a": "after"})
    assert (tmp_path / "a").read_text() == "before"
