"""A tuning run on this machine: real DeepSpeed on two ranks, cut short and resumed, to the job file with the best."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests import commandline

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [pytest.mark.deepspeed, pytest.mark.heavy]

JOB = """\
# a comment that stays
name: tiny
cluster: laptop
model: byte-gpt
batch: {micro: 2, global: 8}   # accumulation is derived
deepspeed: auto
args: {seq-length: 32, max-steps: 1000}
"""
# The second asks torch for 4 TB, which no machine gives.
TRIED = ("--space", "preset=zero1", "--space", "micro=2", "--space", "checkpointing=false")
HUGE = ("--space", "buckets=1e6,1e12")


def test_a_run_that_was_cut_short_ends_with_a_job_file(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(JOB)
    best, runs = tmp_path / "best.yaml", tmp_path / "runs"
    env = {**os.environ, "LAUNCHER_RUNS": str(runs), "HOME": str(tmp_path)}

    def launcher(*words: str) -> str:
        return commandline.launcher(words, env, 0).stdout

    def ended() -> list[dict[str, Any]]:
        file = runs / run / "trials.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def wait(done: Callable[[], Any], until: float) -> None:
        while not done():
            assert time.monotonic() < until, (runs / run / "logs/job.log").read_text()
            time.sleep(0.2)

    job = str(tmp_path / "tiny.yaml")
    run = launcher("tune", job, "--steps", "3", *TRIED, *HUGE).strip()
    wait(ended, time.monotonic() + 900)
    launcher("cancel", run)
    assert json.loads(launcher("status", run, "--json"))["state"] == "CANCELLED"
    before = ended()
    launcher("resume", run)
    finished = runs / run / "exit_code"
    wait(lambda: finished.exists() and finished.read_text(), time.monotonic() + 900)
    assert finished.read_text() == "0\n", (runs / run / "logs/rank-0.log").read_text()
    assert ended()[: len(before)] == before
    found = json.loads(launcher("tune", run, "--json", "-o", str(best)))
    assert found["done"]
    by_name = {trial["candidate"]: trial for trial in found["trials"]}
    assert by_name["zero1, buckets 1e+12, micro 2"]["result"] == "out of memory"
    assert by_name["zero1, buckets 1e+06, micro 2"]["result"] == "best"
    assert by_name["zero1, buckets 1e+06, micro 2"]["step_seconds"] > 0
    text = best.read_text()
    assert text.splitlines()[0] == "# a comment that stays"
    assert "batch: {micro: 2, global: 8}   # accumulation is derived" in text
    assert "preset: zero1" in text
    assert "reduce_bucket_size: 1000000" in text
    assert not list((runs / run / "trials").glob("*/checkpoints/step-*"))
    assert launcher("check", str(best), "--on", "local").endswith("ok on local\n")
