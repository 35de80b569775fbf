"""What Slurm is told and what its words mean, without a Slurm; tests/real/slurm has a real one."""

from __future__ import annotations

import subprocess
import time
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pytest

from launcher import ROOT
from launcher.errors import PlanError, SpecError
from launcher.planning import plan
from launcher.runs import badhosts, sweeps
from launcher.schedulers import slurm
from launcher.schedulers.slurm import states
from launcher.schedulers.slurm.query import Seen
from tests import samples

if TYPE_CHECKING:
    from pathlib import Path

SITE = plan.Workspace(str(ROOT), "/shared/runs", "/opt/venv/bin/python", "0123456789ab")


def decided(*settings: str) -> plan.Plan:
    return plan.make(samples.loaded(str(ROOT / "jobs/gpt2.yaml"), "h100-infiniband", settings), SITE)


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (Seen("PENDING", "Resources"), "waiting for free nodes"),
        (Seen("PENDING", "None"), ""),
        (Seen("PENDING", "SomethingNew"), "SomethingNew"),
        (Seen("RUNNING", "None"), ""),
        (Seen("NODE_FAIL"), "node fail; `launcher resume RUN` continues from the latest checkpoint"),
        (Seen("PREEMPTED"), "preempted; `launcher resume RUN` continues from the latest checkpoint"),
        (Seen("OUT_OF_MEMORY"), "out of memory"),
        (Seen("HIBERNATING"), "HIBERNATING"),
    ],
)
def test_reasons_in_words(seen: Seen, words: str) -> None:
    assert states.explain(seen) == words


def test_an_unknown_state_is_shown_and_not_fatal() -> None:
    assert states.state("HIBERNATING") == "UNKNOWN"


def test_every_word_of_slurm_has_a_state() -> None:
    """https://github.com/SchedMD/slurm/blob/slurm-25-11-1-1/src/common/slurm_protocol_defs.c, job_state_string.

    Of a job whose state is not known a second one may be submitted, by `resume`, into the same folder.
    """
    flags = """COMPLETING STAGE_OUT CONFIGURING EXPEDITING RESIZING REQUEUED REQUEUE_FED REQUEUE_HOLD SPECIAL_EXIT
    STOPPED REVOKED RESV_DEL_HOLD SIGNALING"""
    base = """PENDING RUNNING SUSPENDED COMPLETED CANCELLED FAILED TIMEOUT NODE_FAIL PREEMPTED BOOT_FAIL DEADLINE
    OUT_OF_MEMORY"""
    assert [word for word in f"{flags} {base}".split() if states.state(word) == "UNKNOWN"] == []
    assert states.state("RESV_DEL_HOLD") == "PENDING"


def test_the_expected_start_is_told_where_it_means_something() -> None:
    now = time.time()
    soon = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(now + 7200))
    clock = time.strftime("%H:%M", time.localtime(now + 7200))
    said = states.explain(Seen("PENDING", "Priority", soon), now)
    assert said == f"other jobs have a higher priority; Slurm expects it to start at {clock}"
    assert states.explain(Seen("PENDING", "JobHeldAdmin", soon), now) == "held by an administrator"
    assert states.explain(Seen("PENDING", "Priority", "N/A"), now) == "other jobs have a higher priority"


def test_hosts_to_avoid_join_those_of_the_cluster_file() -> None:
    made = decided("cluster.slurm.sbatch.exclude=gpu9")
    script = slurm.render(made._replace(exclude=("gpu1", "gpu2")))["job.sh"]
    assert "#SBATCH --exclude=gpu9,gpu1,gpu2\n" in script


def test_a_job_that_waits_is_cancelled_when_it_can_never_start() -> None:
    script = slurm.render(decided()._replace(after=("41", "42_3")))["job.sh"]
    assert "#SBATCH --dependency=afterok:41:42_3\n" in script
    assert "#SBATCH --kill-on-invalid-dep=yes\n" in script


def test_a_sweep_shares_what_slurm_allocates() -> None:
    script = slurm.array("gpt2-sweep-1", [decided(f"args.lr={lr}") for lr in ("1e-4", "3e-4")])
    assert "#SBATCH --array=0-1\n" in script
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    with pytest.raises(PlanError, match="a sweep cannot change what Slurm allocates: nodes"):
        slurm.array("gpt2-sweep-1", [decided(), decided("nodes=2")])


@pytest.mark.parametrize(
    ("words", "points"),
    [
        (["args.lr=1e-4,3e-4"], [("args.lr=1e-4",), ("args.lr=3e-4",)]),
        (["a=1,2", "b=x"], [("a=1", "b=x"), ("a=2", "b=x")]),
        (["a=[1,2],[3]"], [("a=[1,2]",), ("a=[3]",)]),
        (["a={x: 1, y: 2},3"], [("a={x: 1, y: 2}",), ("a=3",)]),
        (["a='1,2',3"], [("a='1,2'",), ("a=3",)]),
    ],
)
def test_points_of_a_sweep(words: list[str], points: list[tuple[str, ...]]) -> None:
    assert sweeps.points(words) == points


@pytest.mark.parametrize("word", ["a", "=1", "a=", "a=1,,2", "a=1,"])
def test_a_sweep_without_values_is_refused(word: str) -> None:
    with pytest.raises(SpecError, match="is not KEY=VALUE,VALUE"):
        sweeps.points([word])


def test_bad_hosts_expire_and_can_be_edited(tmp_path: Path) -> None:
    now = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
    later, past = (now + timedelta(hours=1)).isoformat(), (now - timedelta(hours=1)).isoformat()
    assert badhosts.current(tmp_path, now) == []
    (tmp_path / badhosts.NAME).write_text(
        f"# mine\nn1 {past} was lost\nn2 {later} /dev/shm: 8 MiB free, run x, attempt 1-0\nn3 tomorrow no date\n"
        f"#n4 {later} forgiven\nn2 {later} was lost\n\nn5\n"
    )
    assert [(bad.host, bad.reason) for bad in badhosts.current(tmp_path, now)] == [("n2", "was lost")]


@pytest.mark.parametrize("zone", ["UTC", "America/Los_Angeles", "Asia/Tokyo"])
def test_a_host_can_be_bad_for_ever(zone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / badhosts.NAME).write_text("n1 9999-12-31T23:59:59 burnt\nn2 0001-01-01 forgiven\n")
    with monkeypatch.context() as there:
        there.setenv("TZ", zone)
        time.tzset()
        assert [bad.host for bad in badhosts.current(tmp_path)] == ["n1"]
    time.tzset()


def test_numbers_reach_sbatch_as_they_were_written() -> None:
    plan_ = decided("cluster.slurm.sbatch={reservation: 2024_05, wckey: 007, comment: 1e5, mem: 1.50}")
    lines = slurm.render(plan_)["job.sh"].splitlines()
    wanted = {"reservation=2024_05", "wckey=007", "comment=1e5", "mem=1.50"}
    assert {f"#SBATCH --{option}" for option in wanted} <= set(lines)
