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
from launcher.runs import folders, index, record
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

WHOLE = {
    "id": "demo-broken",
    "scheduler": "local",
    "native_id": "123:4",
    "submitted": 1.0,
    "nodes": 1,
    "slots": 1,
    "place": {},
}
# What no date, list, signal or command can be made of.
ODD: dict[str, list[object]] = {
    "native_id": ["", "²:1", "9" * 5000, "0:", "0:1", "-1:1", "1:1\n", "x"],
    "submitted": [float("nan"), float("inf"), 1e300, -1, None],
    "nodes": [0, -1, 1e12, "many", float("nan"), float("inf")],
    "slots": [0, 1e12],
    "place": ["x", 3],
}
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
    **{
        f"{field}-{index}": json.dumps({**WHOLE, field: value})
        for field, values in ODD.items()
        for index, value in enumerate(values)
    },
}


def decided(folder: Path, name: str = "demo") -> Plan:
    made = samples.decided({"name": name})
    return made._replace(workspace=made.workspace._replace(runs=str(folder)))


def submitted(folder: Path, name: str, at: float = 1.0, scheduler: str = "local") -> record.Run:
    plan = record.reserve(decided(folder, name))
    record.prepare(plan, {"job.sh": ""})
    return record.record(record.prepared(Path(plan.folder), scheduler), "123", at)


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state directory of its own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.mark.heavy
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
    folders.write_files(Path(made.folder), {"job.sh": "", "deep/er.txt": ""})
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
    plan = record.reserve(decided(tmp_path))
    record.prepare(plan, {})
    made = record.record(record.prepared(Path(plan.folder), "slurm"), "42", 1.5)
    assert record.find(tmp_path, made.id) == made
    again = record.record(made, "43", 2.5)
    assert again.submitted == 1.5
    assert record.find(tmp_path, made.id) == again
    assert (again.native_id, again.former) == ("43", ("42",))


def test_a_moved_run_is_where_it_was_found(tmp_path: Path) -> None:
    made = submitted(tmp_path / "before", "demo")
    (tmp_path / "before").rename(tmp_path / "after")
    assert record.find(tmp_path / "after", made.id).folder == tmp_path / "after" / made.id


def test_where_a_kubernetes_run_is(tmp_path: Path) -> None:
    made = samples.decided(kubernetes={"namespace": "team", "context": "east"})
    made = made._replace(workspace=made.workspace._replace(runs=str(tmp_path)))
    plan = record.reserve(made)
    record.prepare(plan, {})
    run = record.prepared(Path(plan.folder), "kubernetes")
    assert run.place == {"namespace": "team", "context": "east"}


def test_listed_newest_first(tmp_path: Path) -> None:
    made = [submitted(tmp_path, name, at) for name, at in (("a", 2.0), ("b", 3.0), ("c", 1.0))]
    assert record.listed(tmp_path) == ([made[1], made[0], made[2]], [])
    assert record.listed(tmp_path / "absent") == ([], [])


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.heavy
def test_a_broken_record_is_named_and_hides_no_other(kind: str, tmp_path: Path) -> None:
    made = submitted(tmp_path, "demo")
    broken = tmp_path / "demo-broken"
    broken.mkdir()
    (broken / "run.json").write_text(BROKEN[kind])
    runs, (problem,) = record.listed(tmp_path)
    assert runs == [made]
    assert problem.startswith(f"{broken}/run.json cannot be read: ")
    assert record.find(tmp_path, "demo") == made
    with pytest.raises(RunNotFoundError, match=r"run\.json cannot be read: "):
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


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e400"])
def test_a_number_that_only_python_reads_is_none(number: str, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(f'{{"a": {number}}}')
    with pytest.raises(RunNotFoundError, match=r"plan\.json cannot be read: it is not JSON"):
        record.read_json(tmp_path / "plan.json")


def test_find_by_prefix(tmp_path: Path) -> None:
    first, second = submitted(tmp_path, "demo"), submitted(tmp_path, "demo", 2.0)
    other = submitted(tmp_path, "other")
    assert second.id == f"{first.id}-2"
    assert record.find(tmp_path, "o") == other
    assert record.find(tmp_path, first.id) == first  # though the second one starts with it
    assert record.find(tmp_path, second.id) == second
    with pytest.raises(RunNotFoundError, match=f"'demo' starts 2 ids; name one: {first.id}, {second.id}"):
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


# Runs folders that cannot be used


def test_a_runs_folder_that_is_a_dangling_link_is_refused(tmp_path: Path) -> None:
    link = tmp_path / "runs"
    link.symlink_to(tmp_path / "not" / "mounted")
    with pytest.raises(SpecError, match=f"it is a link to {tmp_path}/not/mounted, which does not exist"):
        record.reserve(decided(link))


def test_a_runs_folder_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in ("file", "loop"):
        with pytest.raises(SpecError, match=f"the runs folder {tmp_path}/{name} cannot be read: "):
            record.listed(tmp_path / name)


# Runs of other folders


def test_a_run_is_found_from_any_folder(tmp_path: Path, state: Path) -> None:
    run = submitted(tmp_path / "here", "demo")
    assert record.find(tmp_path / "elsewhere", "demo") == run
    assert record.find(tmp_path / "elsewhere", run.id) == run
    nearer = submitted(tmp_path / "elsewhere", "demo")
    assert record.find(tmp_path / "elsewhere", "demo") == nearer
    (tmp_path / "here").rename(tmp_path / "moved")
    with pytest.raises(RunNotFoundError):
        record.find(tmp_path / "third", run.id + "0")
    assert index.known() == [tmp_path / "elsewhere"]


def test_an_id_elsewhere_is_not_the_start_of_one_here(tmp_path: Path, state: Path) -> None:
    """`cancel demo-1a2b3c` means that run, and not the one that was submitted after it from another folder."""
    run, other = (submitted(tmp_path / place, "demo") for place in ("there", "here"))
    other.folder.rename(tmp_path / "here" / f"{run.id}-2")
    assert record.find(tmp_path / "here", run.id) == run
    assert record.find(tmp_path / "here", f"{run.id}-").folder == tmp_path / "here" / f"{run.id}-2"


@pytest.mark.parametrize("name", ["a\nb", "ünï", "caf\udce9", "$(touch x)", "a b"])
def test_any_folder_is_remembered(name: str, tmp_path: Path, state: Path) -> None:
    (tmp_path / name).mkdir()
    index.remember(tmp_path / name)
    assert index.known() == [tmp_path / name]


def test_an_index_that_cannot_be_written_is_no_error(
    tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state.write_text("a file in the way")
    run = submitted(tmp_path / "here", "demo")
    assert index.known() == []
    assert record.find(tmp_path / "here", "demo") == run
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    index.remember(tmp_path / "here")
    assert (tmp_path / ".local/state/launcher/runs").is_dir()


@pytest.mark.heavy
def test_many_commands_remember_at_once(tmp_path: Path, state: Path) -> None:
    text = "import sys; from pathlib import Path; from launcher.runs import index; sys.stdin.readline()\n"
    text += "for i in range(50): index.remember(Path(sys.argv[1]) / str(i))"
    words = [sys.executable, "-c", text, str(tmp_path)]
    for number in range(50):
        (tmp_path / str(number)).mkdir()
    writers = [subprocess.Popen(words, stdin=subprocess.PIPE, cwd=ROOT) for _ in range(4)]
    for writer in writers:
        writer.communicate(b"go\n", timeout=60)
    assert [writer.returncode for writer in writers] == [0] * 4
    assert sorted(path.name for path in index.known()) == sorted(map(str, range(50)))


def test_files_are_whole_or_not_there(tmp_path: Path) -> None:
    folders.write_files(tmp_path, {"a": "before", "b/c": "ünïcode\n", "d": "caf\udce9"})
    assert (tmp_path / "b" / "c").read_text(encoding="utf-8") == "ünïcode\n"
    assert (tmp_path / "d").read_bytes() == b"caf\xe9"  # a path that is not UTF-8 keeps its bytes
    (tmp_path / "folder").mkdir()  # no file can take its place
    with pytest.raises(OSError, match="directory"):
        folders.write_files(tmp_path, {"folder": "after"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "d", "folder"]


def test_a_planted_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("theirs")
    for name in ("a", ".a.draft"):
        (tmp_path / name).symlink_to(tmp_path / "theirs")
    folders.write_files(tmp_path, {"a": "ours"})
    assert (tmp_path / "theirs").read_text() == "theirs"
    assert not (tmp_path / "a").is_symlink()
    assert (tmp_path / "a").read_text() == "ours"
