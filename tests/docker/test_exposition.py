"""What Prometheus reads: the text format by its grammar, figures of run and ranks, and a server that harms nobody."""

from __future__ import annotations

import importlib
import json
import math
import re
import socket
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from tests.docker import entries

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

exposition = importlib.import_module("exposition")
heartbeat = importlib.import_module("heartbeat")

# https://prometheus.io/docs/instrumenting/exposition_formats/#text-format-details
NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\\\|\\"|\\n)*"'
NUMBER = r"(?:[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[-+]?[0-9]+)?|NaN|[-+]Inf)"
SAMPLE = rf"{NAME}(?:\{{{LABEL}(?:,{LABEL})*\}})? {NUMBER}\n"
LINES = re.compile(rf"(?:# HELP {NAME} [^\n]*\n# TYPE {NAME} (?:counter|gauge)\n(?:{SAMPLE})+)*")


def samples(text: str) -> dict[str, float]:
    """Sample → value, of a text that keeps to the grammar."""
    assert LINES.fullmatch(text), text
    names = re.findall(rf"# TYPE ({NAME}) ", text)
    assert len(names) == len(set(names)), "one group of lines for a metric"
    pairs = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs}


def write(folder: Path) -> None:
    steps: list[Any] = [
        {"event": "start", "step": 0},
        {"step": 3, "loss": 2.5, "tokens_per_second": 1e6, "grad_norm": None, "lr": True, "max_steps": 10},
    ]
    # preflight is done in two rounds, which tell the same start
    kinds = (("allocated", 0), ("allocated", 0), ("stalled", 1), ("failed", 2), ("allocated", 3), ("slow", 4))
    told = [{"event": kind, "time": at, "attempt": "1", "rank": 1, "ratio": 1.75} for kind, at in kinds]
    for name, lines in (("metrics", steps), ("events", told)):
        (folder / f"{name}.jsonl").write_text(
            "".join(json.dumps(line) + "\n" for line in lines) + '{"step": 4, "lo'
        )


def test_what_is_told_of_a_run(tmp_path: Path) -> None:
    write(tmp_path)
    record = {"step": 3, "steps": {"count": 2, "last": [1, 1], "own": [0.5, 0.25]}}
    heartbeat.path(tmp_path, 1).write_bytes(heartbeat.sealed(record))
    heartbeat.path(tmp_path, 0).write_text("no record")
    source = exposition.Source('a"b\\c\nd', tmp_path, str(tmp_path), [0, 1])
    run = r'run="a\"b\\c\nd"'
    expected = {
        f"launcher_step{{{run}}}": 3,
        f"launcher_max_steps{{{run}}}": 10,
        f"launcher_loss{{{run}}}": 2.5,
        f"launcher_tokens_per_second{{{run}}}": 1e6,
        f"launcher_restarts_total{{{run}}}": 1,
        f"launcher_stalls_total{{{run}}}": 1,
        f"launcher_failures_total{{{run}}}": 1,
        f'launcher_slow_rank_ratio{{{run},rank="1"}}': 1.75,
        f'launcher_rank_step{{{run},rank="1"}}': 3,
        f'launcher_rank_own_seconds{{{run},rank="1"}}': 0.25,
    }
    assert samples(exposition.text(source.metrics())) == expected
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('ss": 1.5}\n')
    assert samples(exposition.text(source.metrics()))[f"launcher_loss{{{run}}}"] == 1.5, (
        "the rest of the line came"
    )


def test_other_hosts_tell_of_their_ranks_alone(tmp_path: Path) -> None:
    write(tmp_path)
    assert exposition.text(exposition.Source("a", tmp_path, "", [2, 3]).metrics()) == ""


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300, -0.0, 5])
def test_any_number(value: float) -> None:
    (read,) = samples(exposition.text([exposition.Metric("a", "b", "gauge", [({}, value)])])).values()
    assert read == value or (math.isnan(read) and math.isnan(value))


@pytest.mark.parametrize(
    "line", ["5", "[]", "null", "{}", '{"event": []}', '{"event": "slow"}', "[" * 10_000, '{"step": "x"}']
)
def test_lines_of_another_program(line: str, tmp_path: Path) -> None:
    for name in ("metrics", "events"):
        (tmp_path / f"{name}.jsonl").write_text(f"{line}\n")
    samples(exposition.text(exposition.Source("a", tmp_path, "", [0]).metrics()))


def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def test_a_run_answers_while_its_ranks_run_and_a_taken_port_harms_nobody(
    new_job: Callable[..., entries.Job],
) -> None:
    job, number = new_job(hosts=2), port()
    job.start_all(
        entries.WAIT, "--metrics-port", str(number)
    )  # both are on this machine: one of them has the port
    job.ranks()
    taken = f"node: metrics: port {number} cannot be had: Address already in use\n"
    entries.until(lambda: taken in job.said(0) + job.said(1), "one of them found it taken")
    with urllib.request.urlopen(f"http://127.0.0.1:{number}/metrics", timeout=entries.LIMIT) as answer:
        assert answer.headers["Content-Type"] == exposition.TYPE
        samples(answer.read().decode())
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"http://127.0.0.1:{number}/etc/passwd", timeout=entries.LIMIT)
    job.go_on()
    assert job.codes() == [0, 0]
