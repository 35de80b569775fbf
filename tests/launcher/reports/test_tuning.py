"""What a tuning run has found out, from its folder or the log of its first host, as table, JSON and picture."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from launcher.cli import main
from launcher.errors import RunNotFoundError
from launcher.files import load
from launcher.planning import tuning as planned
from launcher.reports import pictures, tuning
from launcher.runs import record, trials
from tests import samples

if TYPE_CHECKING:
    from pathlib import Path

SPACE: dict[str, tuple[Any, ...]] = {"preset": ("zero1", "zero2"), "micro": (1, 2), "checkpointing": (False,)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    loaded = load.Loaded(samples.job(batch={"micro": 1, "global": 8}), samples.cluster())
    wishes = planned.Wishes(SPACE, steps=5, limit=600, most=24)
    plan = planned.with_job(planned.make(loaded, samples.SITE, "", wishes), samples.JOB, str(tmp_path))
    (tmp_path / "plan.json").write_text(record.plan_text(plan))
    return tmp_path


def line(trial: int, result: str = "done", seconds: float | None = None, **more: Any) -> str:
    facts = {"trial": trial, "steps": 5, "result": result, "step_seconds": seconds, "seconds": 9.0}
    return json.dumps({**facts, "memory_bytes": 2e8, "tokens_per_second": 100.0, **more})


def test_the_best_comes_first_and_failures_say_why(folder: Path) -> None:
    ended = [
        line(0, seconds=0.5),
        line(1, "failed", why="exit 3: no"),
        line(2, "out of memory", why="full"),
    ]
    (folder / trials.FILE).write_text("\n".join(ended) + '\n{"trial": 3, "st')
    found = trials.read(folder)
    assert found.settled
    rows = tuning.found(found)
    assert [(row.name, row.result, row.why) for row in rows] == [
        ("zero1, micro 1", "best", ""),
        ("zero1, micro 2", "failed", "exit 3: no"),
        ("zero2, micro 1", "out of memory", "full"),
        ("zero2, micro 2", "not tried", "micro batch 1 of the same ran out of memory"),
    ]
    assert "out of memory: full" in tuning.text(rows)
    told = json.loads(tuning.data(rows, "demo", found.settled, "best.yaml"))
    assert {key: told[key] for key in ("run", "done", "job")} == {
        "run": "demo",
        "done": True,
        "job": "best.yaml",
    }
    assert told["trials"][0] == {
        "candidate": "zero1, micro 1",
        "fits": True,
        "planned_bytes": rows[0].planned,
        "capacity_bytes": None,
        "bound_seconds": None,
        "steps": 5,
        "step_seconds": 0.5,
        "tokens_per_second": 100.0,
        "memory_bytes": 2e8,
        "result": "best",
        "why": "",
    }


def test_the_job_file_in_another_folder_names_the_same_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs, runs = tmp_path / "jobs", tmp_path / "runs"
    jobs.mkdir()
    (jobs / "site.yaml").write_text("slots: 2\nfabric: loopback\n")
    text = "name: tiny\ncluster: site.yaml  # ours\nmodel: byte-gpt\nbatch: {micro: 1, global: 8}\n"
    (jobs / "tiny.yaml").write_text(text)
    monkeypatch.setenv("LAUNCHER_RUNS", str(runs))
    monkeypatch.setattr("launcher.schedulers.local.submit", lambda plan, files: "1:2")
    monkeypatch.chdir(jobs)
    words = ["--space", "preset=zero1", "--space", "micro=1", "--space", "checkpointing=false"]
    assert main.main(["tune", "tiny.yaml", *words]) == 0
    name = capsys.readouterr().out.strip()
    (runs / name / trials.FILE).write_text(line(0, seconds=0.5) + "\n")
    with samples.full_disk():
        assert main.main(["tune", name, "--json"]) == 0
    out, err = capsys.readouterr()
    assert (json.loads(out)["job"], json.loads(out)["trials"][0]["result"]) == (None, "best")
    assert f"note: {runs}/{name}/tuned.yaml cannot be written: File too large; `-o FILE`" in err
    beside, elsewhere = jobs / "best.yaml", tmp_path / "best.yaml"
    for path in (beside, elsewhere):
        assert main.main(["tune", name, "-o", str(path)]) == 0, capsys.readouterr().err
        assert main.main(["check", str(path), "--on", "local"]) == 0, capsys.readouterr().err
    assert "cluster: site.yaml  # ours" in beside.read_text()
    assert f"cluster: {jobs}/site.yaml" in elsewhere.read_text()
    assert f"cluster: {jobs}/site.yaml" in (runs / name / "tuned.yaml").read_text()


def test_a_log_tells_what_a_folder_elsewhere_has(folder: Path) -> None:
    log = ["host 1 of 1", *(f"{trials.LINE}{line(trial, seconds=1.0 - trial / 10)}" for trial in range(4))]
    found = trials.read(folder, log)
    assert found.settled
    assert found.ranked == [3, 2, 1, 0]
    assert tuning.found(found)[0].result == tuning.BEST


def test_before_the_run_there_is_what_the_plan_says(folder: Path) -> None:
    text = tuning.text(tuning.planned(trials.read(folder).tuning))
    assert text.splitlines()[0].split() == ["CANDIDATE", "BY", "PLAN", "RESULT"]
    assert text.count("tried") == 4


@pytest.mark.heavy
def test_a_picture_is_drawn_of_what_was_measured(folder: Path) -> None:
    pytest.importorskip("matplotlib")
    rows = tuning.found(trials.read(folder, [f"{trials.LINE}{line(1, seconds=2.0)}"]))
    path = str(folder / "times.svg")
    assert list(pictures.draw_trials("demo", rows, [path])) == [path]
    assert "zero1, micro 2" in (folder / "times.svg").read_text()
    with pytest.raises(RunNotFoundError, match="has measured no candidate"):
        list(pictures.draw_trials("demo", tuning.found(trials.read(folder)), [path]))


def test_other_runs_are_none(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(RunNotFoundError, match="is no tuning run"):
        trials.read(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [("steps", []), ("trials", None), ("micro", "x"), ("bound", "fast"), ("changes", [1]), ("less", ["a"])],
)
def test_records_that_are_broken_are_refused(folder: Path, key: str, value: Any) -> None:
    data = json.loads((folder / "plan.json").read_text())
    inner = data["tuning"] if key in data["tuning"] else data["tuning"]["trials"][0]
    inner[key] = value
    (folder / "plan.json").write_text(json.dumps(data))
    with pytest.raises(RunNotFoundError, match="cannot be read: tuning"):
        trials.read(folder)
