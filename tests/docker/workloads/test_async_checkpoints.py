"""Checkpoints written while training goes on, by real ranks: what they hold, and what a full disk and SIGKILL leave.

A late disk (late_disk.py) takes nothing before the next step has changed the parameters.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

torch = pytest.importorskip("torch", reason="the train extra is not installed")

from workloads import checkpoint_folder, digests  # noqa: E402

from tests.docker.workloads import kills, late_disk, ranks  # noqa: E402

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.deepspeed

BF16: dict[str, Any] = {"bf16": {"enabled": True}}  # whose weights and masters are separate tensors
WORDS = ("--seq-length=32", "--log-every=1", "--checkpoint-keep=9", "--checkpoint-every=2", "--lr=1e-2")


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all cases, each of which has a run folder of its name."""
    folder = tmp_path_factory.mktemp("async") / "cases"
    cases = {f"{stage}-{how}": case(stage, how) for stage in (2, 3) for how in ("async", "no-async")}
    cases["full"] = case(2, "async", limit=200_000)
    cases["signal"] = case(2, "async", signal_before=3)
    model = folder.parent / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(ranks.GPT2))
    for name, one in cases.items():
        one |= {"run_dir": str(folder / name), "workload": "pretrain"}
        one["words"] += [f"--model={model}", f"--data-cache={folder / 'data'}"]
    folder.mkdir()
    (folder / "cases.json").write_text(json.dumps(list(cases.values())))
    module = "tests.docker.workloads.late_disk"
    run = ranks.start(folder, 2, {}, str(folder / "cases.json"), module=module, given=())
    assert run.wait() == [0, 0], run.output()
    return folder


def case(stage: int, how: str, **more: Any) -> dict[str, Any]:
    option = "--checkpoint-async" if how == "async" else "--no-checkpoint-async"
    config = ranks.deepspeed(2, stage=stage, micro=2, gradient_clipping=1.0, **BF16)
    return {"config": config, "words": [*WORDS, f"--max-steps={late_disk.LAST}", option], **more}


def ended(ran: Path, name: str) -> str:
    """What each rank ended a case with, which is the same."""
    outputs = [(ran / f"rank-{rank}.log").read_text().splitlines() for rank in range(2)]
    found = {
        line.partition(" ended with ")[2] for o in outputs for line in o if f"/{name} ended with" in line
    }
    (only,) = found
    return only


def lines(ran: Path, name: str, event: str) -> list[dict[str, Any]]:
    return ranks.Ranks([], ran / name, []).events(event)


@pytest.mark.parametrize("stage", [2, 3])
def test_it_holds_what_one_holds_for_which_training_waited(stage: int, ran: Path) -> None:
    assert ended(ran, f"{stage}-async") == ended(ran, f"{stage}-no-async") == "0"
    for step in (2, 4, 6):
        ours, theirs = (ran / f"{stage}-{how}/checkpoints/step-{step:08d}" for how in ("async", "no-async"))
        read = checkpoint_folder.read(ours)
        assert read.digests.keys() == checkpoint_folder.read(theirs).digests.keys()
        assert digests.damaged(ours, read.digests, read.digests) == []
        for name in read.digests:
            mine, other = (torch.load(folder / name, weights_only=False) for folder in (ours, theirs))
            assert different(mine, other, name) == []


def different(ours: Any, theirs: Any, where: str) -> list[str]:
    """Where two states differ, tensors bit by bit."""
    if isinstance(theirs, torch.Tensor):
        same = ours.dtype == theirs.dtype and ours.shape == theirs.shape
        bits = (tensor.reshape(-1).contiguous().view(torch.uint8) for tensor in (ours, theirs))
        return [] if same and torch.equal(*bits) else [where]
    if isinstance(theirs, dict):
        assert list(ours) == list(theirs), where
        return [found for key in theirs for found in different(ours[key], theirs[key], f"{where}/{key}")]
    if isinstance(theirs, (list, tuple)):
        assert len(ours) == len(theirs), where
        pairs = enumerate(zip(ours, theirs, strict=True))
        return [found for number, pair in pairs for found in different(*pair, f"{where}/{number}")]
    if hasattr(theirs, "__dict__") and not callable(theirs):
        return different(vars(ours), vars(theirs), where)
    return [] if ours == theirs else [where]


def test_steps_are_done_while_it_is_written(ran: Path) -> None:
    log = ranks.Ranks([], ran / "2-async", []).lines()
    at = [line.get("event", line["step"]) for line in log if line.get("event", "") in ("", "checkpoint")]
    assert at.index("checkpoint") > at.index(3), "the disk takes nothing before"
    first, second, last = lines(ran, "2-async", "checkpoint")
    assert [event["tag"][-1] for event in (first, second, last)] == ["2", "4", "6"]
    for event in (first, second, last):
        assert event["paused"] <= event["time"]
        assert event["seconds"] <= event["written"]
    (waited,) = lines(ran, "2-async", "waited")
    assert waited["step"] == late_disk.LAST, "the end of training waits for the last one"
    assert [line["loss"] for line in log if "loss" in line] == [
        line["loss"] for line in ranks.Ranks([], ran / "2-no-async", []).steps()
    ]


def test_a_disk_that_is_full_is_told_with_rank_and_path(ran: Path) -> None:
    folder = ran / "full/checkpoints"
    said = ended(ran, "full")
    assert said.startswith(f"74: checkpoint step-00000002 could not be written to {folder}")
    assert "rank 1 on " in said
    assert f"{folder}/step-00000002/" in said
    assert "pp_rank_1_mp_rank_00_optim_states.pt: " in said
    assert "there is no complete one yet" in said
    assert list(folder.glob("step-*")) == []
    assert lines(ran, "full", "checkpoint") == []
    (end,) = lines(ran, "full", "end")
    assert end["step"] == 4, "found when the next one begins, at the latest"


def test_a_signal_waits_for_it_and_saves_what_is_newer(ran: Path) -> None:
    assert ended(ran, "signal") == "75"
    assert [event["step"] for event in lines(ran, "signal", "checkpoint")] == [2, 3]
    (saved,) = lines(ran, "signal", "saved")
    assert saved["tag"] == "step-00000003"
    for step in (2, 3):
        assert checkpoint_folder.read(ran / f"signal/checkpoints/step-{step:08d}").progress.step == step


def test_no_moment_of_a_kill_leaves_a_checkpoint_that_is_not_whole(tmp_path: Path) -> None:
    """`python -m tests.bench.checkpoint --kills 200` tries more of them."""
    found = kills.run(tmp_path, 2)
    assert found.torn, "none came while a checkpoint was being written"
    assert found.lies == []
