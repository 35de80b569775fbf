"""Two ranks go on from where they can: their hosts' own disks, the run's folder, the mirror; with the same losses."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from workloads import checkpoint_folder, digests

from tests.docker.workloads import ranks, s3_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.deepspeed
STAGE_1 = ranks.deepspeed(2, stage=1)
WORDS = ("--max-steps=6", "--seq-length=32", "--log-every=1", "--schedule=constant", "--data=builtin")
SAVES = ("--checkpoint-every=2", "--checkpoint-keep=2")
MIRROR = f"--checkpoint-mirror=s3://{s3_server.BUCKET}/archive"


@pytest.fixture(scope="module")
def s3() -> Iterator[s3_server.Server]:
    pytest.importorskip("s3fs", reason="the test extra is not installed")
    with s3_server.Server() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.variables.items():
            patch.setenv(name, value)
        yield server


@pytest.fixture(scope="module")
def whole(s3: s3_server.Server, tmp_path_factory: pytest.TempPathFactory) -> ranks.Ranks:
    """A run beside which the mirror answers 503 twice, and then not at all until all steps are done."""
    s3.faults.extend(["503"] * 2)
    s3.where = "step-"
    s3.gate.clear()
    run = ranks.start(tmp_path_factory.mktemp("whole"), 2, STAGE_1, *WORDS, *SAVES, MIRROR)
    run.wait_until(lambda: len(run.steps()) == 6 and s3.waiting.is_set())
    assert s3.tags() == []
    s3.gate.set()
    assert run.wait() == [0, 0], run.output()
    return run


@pytest.fixture(scope="module")
def undisturbed(whole: ranks.Ranks) -> dict[int, float]:
    """Its losses, read before a test removes its folder."""
    return whole.losses()


def test_each_checkpoint_is_at_the_mirror_when_training_ends(
    whole: ranks.Ranks, s3: s3_server.Server
) -> None:
    assert s3.tags() == whole.tags() == ["step-00000004", "step-00000006"]
    assert not s3.faults
    assert "waiting for the upload of step-" in whole.output(0)
    assert s3.variables["AWS_SECRET_ACCESS_KEY"] not in whole.output()
    here = whole.run_dir / "checkpoints" / "step-00000006"
    for file in here.rglob("*.pt"):
        assert s3.objects[f"archive/run/step-00000006/{file.name}"] == file.read_bytes()


def test_a_run_whose_folder_is_gone_goes_on_from_the_mirror_and_never_from_half_an_upload(
    whole: ranks.Ranks, undisturbed: dict[int, float], s3: s3_server.Server
) -> None:
    shutil.rmtree(whole.run_dir)
    del s3.objects["archive/run/step-00000006/complete.json"]  # what a killed upload leaves
    again = ranks.run(whole.run_dir.parent, 2, STAGE_1, *WORDS, *SAVES, MIRROR)
    assert again.events("start")[0]["resumed_from"] == "step-00000004"
    assert "checkpoint step-00000004 is fetched from the mirror" in again.output(0)
    assert again.losses() == {step: undisturbed[step] for step in (5, 6)}
    assert s3.tags() == again.tags() == ["step-00000004", "step-00000006"]


def test_a_mirror_without_its_bucket_ends_the_run_before_training(
    s3: s3_server.Server, tmp_path: Path
) -> None:
    run = ranks.run(tmp_path, 2, STAGE_1, *WORDS, "--checkpoint-mirror=s3://other/archive", code=64)
    assert "the mirror s3://other/archive cannot be used: " in run.output(0)
    assert run.steps() == []


def test_what_is_completed_while_training_goes_on_is_uploaded(
    undisturbed: dict[int, float], tmp_path: Path
) -> None:
    """Between two of them there is one on the hosts' own disks, and what each holds is told with --digests."""
    own = (f"--checkpoint-local={tmp_path / 'scratch'}", "--checkpoint-local-every=1")
    mirror = ("--checkpoint-async", f"--checkpoint-mirror=file://{tmp_path / 'archive'}")
    trust = ("--digests", "--verify-every=1")
    run = ranks.run(tmp_path, 2, STAGE_1, *WORDS, *SAVES, *mirror, *own, *trust)
    assert all("paused" in event and "written" in event for event in run.events("checkpoint"))
    for event, steps in {"checkpoint": [2, 4, 6], "state": [2, 4, 6], "own_disk": [1, 3, 5]}.items():
        assert sorted(told["step"] for told in run.events(event)) == steps, event
    assert run.losses() == undisturbed
    there = tmp_path / "archive/run"
    assert run.tags() == ["step-00000004", "step-00000006"]
    assert sorted(path.name for path in there.iterdir()) == ["model", "owner.json", *run.tags()]
    for tag in run.tags():
        here = run.run_dir / "checkpoints" / tag
        read = checkpoint_folder.read(there / tag)
        assert read.digests
        assert digests.damaged(there / tag, read.digests, checkpoint_folder.read(here).digests) == []


def test_a_process_that_died_goes_on_from_the_hosts_own_disks(
    undisturbed: dict[int, float], tmp_path: Path
) -> None:
    """Each rank is a host of its own: what both need to start again lies on the disks of both."""
    own = (f"--checkpoint-local={tmp_path / 'scratch'}", "--checkpoint-local-every=1")
    words = (*WORDS, "--checkpoint-every=3", *own)
    died = ranks.start(
        tmp_path, 2, STAGE_1, *words, "--fail-at-step=6", "--fail-rank=1", "--fail-code=9", hosts=True
    )
    died.wait_until(lambda: died.processes[1].poll() is not None)
    died.kill()
    assert died.tags() == ["step-00000003"]
    disks = sorted((tmp_path / "scratch").glob("*/run/node-*"))
    assert [[tag.name for tag in disk.glob("step-*")] for disk in disks] == [["step-00000005"]] * 2
    assert all((disk / "step-00000005/mp_rank_00_model_states.pt").exists() for disk in disks)
    assert disks[0].parents[1].stat().st_mode & 0o777 == 0o700

    again = ranks.run(tmp_path, 2, STAGE_1, *words, hosts=True)
    assert [event["resumed_from"] for event in again.events("start")] == [None, "step-00000005"]
    assert f"resumed from {disks[0] / 'step-00000005'}" in again.output(0)
    assert again.losses() == undisturbed
    assert not list((tmp_path / "scratch").glob("*/run/node-*"))  # the run is done
