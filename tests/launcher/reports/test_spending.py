"""What runs used: GPU hours, goodput, MFU beside the plan's bound, tokens, money and energy, in all forms."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from launcher.cli import main
from launcher.files import load
from launcher.planning import plan as plans
from launcher.planning import workspace
from launcher.reports import drawing, spending
from launcher.runs import record

if TYPE_CHECKING:
    from pathlib import Path

HOUR = 3600.0
SPEED = 250_000.0  # tokens a second


def write(folder: Path, job: str = "", *settings: str, slots: int = 32, since: float = 0.0) -> Path:
    """A run of two hours from `since`, one of them in steps: half an hour to start, and the rest evaluates."""
    folder.mkdir(exist_ok=True)
    events = [("allocated", 0.0), ("met", 0.0), ("started", 0.0), ("ended", 2 * HOUR)]
    told: list[dict[str, Any]] = [{"event": event, "time": time, "slots": slots} for event, time in events]
    step = {"tokens_per_second": SPEED, "step_seconds": 2.0, "loss": 1.0}
    records: list[dict[str, Any]] = [
        {"event": "start", "step": 0, "time": 0.5 * HOUR, "max_steps": 1800},
        {"step": 1, "tokens": 2 * SPEED, "time": 0.5 * HOUR, **step},
        {"step": 1800, "tokens": 3600 * SPEED, "time": 1.5 * HOUR, **step},
        {"event": "eval", "step": 1800, "time": 2 * HOUR, "seconds": 0.5 * HOUR},
    ]
    for line in (*told, *records):
        line["time"] += since
    for name, lines in (("events", told), ("metrics", records)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if job:
        loaded = load.load_stage(load.load(f"jobs/{job}.yaml", None, settings).stages[0], {})
        (folder / "plan.json").write_text(record.plan_text(plans.make(loaded, workspace.here())))
    return folder


COSTS = 'cluster.gpu_hour={"price": 2.5, "currency": "EUR", "watts": 700}'


def test_what_a_run_of_known_hosts_used(tmp_path: Path) -> None:
    use = spending.of("a", write(tmp_path, "llama-7b", COSTS))
    assert use is not None
    assert (use.gpu_hours, use.goodput, use.attempts, use.is_whole) == (64, 0.5, 1, True)
    assert use.tokens == 3600 * SPEED
    assert use.tokens_per_gpu_hour == 3600 * SPEED / 64
    assert (use.price, use.currency, use.kwh) == (160, "EUR", 44.8)
    # 6 × 6.74e9 and attention over 4096 tokens: 4.6e10 operations a token (PaLM, appendix B), on 32 × 989e12 a second
    assert use.mfu == pytest.approx(SPEED * 4.6e10 / (32 * 989e12), rel=0.02)
    assert use.mfu is not None
    assert use.mfu_allocated == pytest.approx(use.mfu / 2)
    assert use.bound_mfu is not None
    assert use.mfu < use.bound_mfu < 1


def test_what_is_not_known_is_none(tmp_path: Path) -> None:
    assert spending.of("a", tmp_path) is None
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "time": 5}\n{"step": 3, "time": 9}\n')
    use = spending.of("a", tmp_path)
    assert use is not None
    assert (use.is_whole, use.tokens, use.mfu, use.bound_mfu, use.price, use.kwh) == (False, *[None] * 5)
    assert use.gpu_hours == 4 / HOUR
    assert "* the start or the end of an attempt was not told" in spending.text([use])


@pytest.mark.parametrize(
    "plan", ["", "[]", "{}", '{"job": 1, "args": [], "cluster": {"gpu_hour": {"price": "x"}}}']
)
def test_a_plan_that_is_none(plan: str, tmp_path: Path) -> None:
    (write(tmp_path) / "plan.json").write_text(plan)
    use = spending.of("a", tmp_path)
    assert use is not None
    assert (use.gpu_hours, use.mfu, use.price) == (64, None, None)


def test_a_run_that_still_runs_is_whole(tmp_path: Path) -> None:
    write(tmp_path)
    events = (tmp_path / "events.jsonl").read_text().splitlines()[:-1]
    (tmp_path / "events.jsonl").write_text("\n".join(events) + "\n")
    now, later = (spending.of("a", tmp_path, time) for time in (None, 3 * HOUR))
    assert now is not None
    assert later is not None
    assert (now.is_whole, now.gpu_hours, later.is_whole, later.gpu_hours) == (False, 64, True, 96)


def test_events_of_a_wrong_clock_do_not_count(tmp_path: Path) -> None:
    """A host whose clock said 1970 when it told of its start."""
    submitted(tmp_path, "a", 40 * 86400.0)
    events = tmp_path / "a" / "events.jsonl"
    events.write_text('{"event": "allocated", "time": 0.0, "slots": 32}\n' + events.read_text())
    use = spending.of("a", tmp_path / "a")
    assert use is not None
    assert (use.gpu_hours, use.attempts) == (64, 1)


def test_the_tables_of_several_runs(tmp_path: Path) -> None:
    uses = [spending.of(n, write(tmp_path / n, "llama-7b", *s)) for n, s in (("a", (COSTS,)), ("b", ()))]
    said = " ".join(spending.text([use for use in uses if use]).split())
    assert "steps 64.000 50.0% █" in said
    assert "allocated 128 100.0%" in said
    assert "a 64.000 1 50.0%" in said
    assert "160.00 EUR" in said
    assert "together: 160.00 EUR, 44.8 kWh" in said


@pytest.mark.heavy
def test_the_picture_has_a_bar_a_run(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="it draws")
    use = spending.of("a", write(tmp_path))
    assert use is not None
    shares = spending.shares(use)
    svg = drawing.encoded(lambda: drawing.runs("a", ["a"], [], [("a", shares), ("b<$x$>", shares)]), ["svg"])[
        "svg"
    ]
    for words in ("steps", "evaluation", "start and load", "GPU hours", "b&lt;$x$&gt;"):
        assert words in svg.decode()
    assert "waiting for hosts" not in svg.decode(), "no run waited"


def submitted(runs: Path, name: str, at: float, state: str = "0") -> None:
    fields = {"scheduler": "local", "native_id": "1:2", "submitted": at, "nodes": 1, "slots": 1, "place": {}}
    (write(runs / name, since=at) / "run.json").write_text(json.dumps({"id": name, **fields}))
    (runs / name / "exit_code").write_text(f"{state}\n")


def test_all_runs_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LAUNCHER_RUNS", str(tmp_path))
    monkeypatch.setattr("time.time", lambda: 40 * 86400.0)
    for name, day in (("old", 1), ("new", 20), ("newer", 39)):
        submitted(tmp_path, name, day * 86400.0)
    assert main.main(["report", "--since", "30d"]) == 0
    said = capsys.readouterr().out
    assert "allocated 128" in " ".join(said.split())
    assert "old" not in said
    assert main.main(["report", "--since", "30d", "--json"]) == 0
    assert [(run["run"], run["hours"]["allocated"]) for run in json.loads(capsys.readouterr().out)] == [
        ("newer", 64),
        ("new", 64),
    ]
    assert main.main(["report", "--since", "1h"]) == 5
    assert "was submitted in the last 1h" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no RUN was given; name runs, or `--since 30d` for all of them"),
        (["--since", "3x"], "--since: '3x' is not a duration"),
        (["a", "--since", "3d"], "--since is of all runs: it goes without RUN"),
    ],
)
def test_which_runs_is_said_once(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["report", *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{price: -1}", "gpu_hour.price: must be at least 0"),
        ("{price: 1, currency: euro}", "write its three letters (ISO 4217), such as EUR"),
        ("{watt: 700}", "watts"),
    ],
)
def test_costs_are_checked(value: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["plan", "jobs/quickstart.yaml", "--set", f"cluster.gpu_hour={value}"]) == 2
    assert message in capsys.readouterr().err
