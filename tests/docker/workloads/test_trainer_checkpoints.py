"""Trainers on two ranks go on from their hosts' own disks, agree with each other, and tell what `prove` compares.

The runs are of few processes (cuts.py): one of each workload that nothing disturbs, and of two one that is interrupted
and goes on, and one that goes on with another number of ranks.
"""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("trl", reason="the train extra is not installed")

from workloads import chat_sft, own_disk, trainer_checkpoints, trainers

from tests.docker.workloads import ranks, tiny
from tests.docker.workloads.test_lora import ADAM, MODEL, rows

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.deepspeed
WORDS = ("--max-steps=4", "--log-every=4", "--seq-length=48", "--lr=1e-2", "--checkpoint-every=2")
TRUST = ("--verify-every=2", "--digests")
# workload: its data, ZeRO stage, and options
KINDS = {
    "finetune": ("prompts", 3, ("--lora-rank=4",)),
    "chat_sft": ("prompts", 2, ("--lora-rank=4", "--checkpoint-async")),
    "chat_reward": ("pairs", 2, ()),
    "chat_dpo": ("pairs", 1, ("--lora-rank=4",)),
}
STALE = "zero_pp_rank_7_mp_rank_00_optim_states.pt"
MOVED = ("finetune", "chat_sft")  # these are interrupted too, and go on with another number of ranks


def case(folder: Path, workload: str, name: str, size: int, **more: Any) -> dict[str, Any]:
    """A run of so many ranks, with a step of the same samples."""
    data, stage, words = KINDS[workload]
    own = ("--checkpoint-local", folder / f"scratch {name}", "--checkpoint-local-every", 1)
    place = ("--model", folder / "model", "--data", folder / f"{data}.jsonl")
    given = (*place, *WORDS, *TRUST, *words, *own, *more.pop("words", ()))
    return {
        "workload": workload,
        "run_dir": str(folder / f"{workload} {name}"),
        "config": ranks.deepspeed(size, stage, 2, 4 // size, **ADAM),
        "words": [str(word) for word in given],
        **more,
    }


def ended(run: ranks.Ranks) -> list[str]:
    assert set(run.wait(2 * ranks.TIMEOUT)) == {0}, run.output()
    lines = [line for line in run.output(0).splitlines() if " ended with " in line]
    return [line.rpartition(" ended with ")[2] for line in lines]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all runs of two ranks."""
    folder = tmp_path_factory.mktemp("trainers")
    tiny.save(folder / "model", MODEL)
    for name, lines in rows().items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    cases = [case(folder, workload, "whole", 2) for workload in KINDS]
    for workload in MOVED:
        cases += [case(folder, workload, "cut", 2, stop_before=4), case(folder, workload, "cut", 2)]
    broken = folder / "chat_reward whole/checkpoints/checkpoint-2/global_step2"
    broken.mkdir(parents=True)  # of a save that was killed, with more ranks
    (broken / STALE).write_text("of another attempt")
    run = ranks.start_cases(folder / "ranks", 2, cases)
    assert ended(run) == ["0"] * len(KINDS) + ["an interruption", "0"] * len(MOVED), run.output()
    return folder


@pytest.fixture(scope="module")
def moved(runs: Path) -> Path:
    """The same folder, once one rank has gone on where two have saved step 2."""
    cases = []
    for workload in MOVED:
        older = runs / f"{workload} older"
        shutil.copytree(runs / f"{workload} whole/checkpoints/checkpoint-2", older / "checkpoint-2")
        cases.append(case(runs, workload, "moved", 1, words=[f"--resume={older}"]))
    run = ranks.start_cases(runs / "rank", 1, cases)
    assert ended(run) == ["0"] * len(MOVED), run.output()
    return runs


def test_what_a_killed_save_has_left_is_in_no_checkpoint(runs: Path) -> None:
    path = runs / "chat_reward whole/checkpoints/checkpoint-2"
    files = json.loads((path / "complete.json").read_text())["files"]
    assert any(name.endswith("zero_pp_rank_1_mp_rank_00_optim_states.pt") for name in files)
    assert not [name for name in files if name.endswith(STALE)]
    assert not list(path.rglob(STALE))


def told(runs: Path, name: str, event: str | None = None) -> list[dict[str, Any]]:
    lines = map(json.loads, (runs / name / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line.get("event") == event]


@pytest.mark.parametrize("workload", KINDS)
def test_between_those_of_the_runs_folder_there_are_others_on_own_disks(workload: str, runs: Path) -> None:
    name = f"{workload} whole"
    assert [saved["step"] for saved in told(runs, name, "own_disk")] == [1, 3]
    here = sorted(path.name for path in (runs / name / "checkpoints").glob("checkpoint-*"))
    assert here == ["checkpoint-2", "checkpoint-4"]
    steps = told(runs, name)
    assert [step["step"] for step in steps] == [1, 2, 3, 4], "with --digests each is told"
    assert len({step["samples"] for step in steps}) == 4
    assert not told(runs, name, "corrupted")
    assert {"parameters", "optimizer", "parameters_norm", "exp_avg_norm"} <= told(runs, name, "state")[
        -1
    ].keys()


@pytest.mark.parametrize("workload", MOVED)
def test_what_goes_on_from_own_disks_is_bit_for_bit_what_nothing_has_disturbed(
    workload: str, runs: Path
) -> None:
    whole, cut = f"{workload} whole", f"{workload} cut"
    assert [start["resumed_from"] for start in told(runs, cut, "start")] == [None, "checkpoint-3"]
    for figure in ("loss", "samples", "tokens", "grad_norm"):
        one, other = ({step["step"]: step[figure] for step in told(runs, name)} for name in (whole, cut))
        assert one == other, figure
    last = [
        {key: value for key, value in told(runs, name, "state")[-1].items() if key != "time"}
        for name in (whole, cut)
    ]
    assert last[0] == last[1]
    assert [state["step"] for state in told(runs, cut, "state")] == [2, 3, 4]  # saved, loaded, saved


@pytest.mark.parametrize("workload", MOVED)
def test_adapters_go_on_with_another_number_of_ranks(workload: str, moved: Path) -> None:
    """Their states alone are converted; the weights below are in no checkpoint, and come from the model."""
    (start,) = told(moved, f"{workload} moved", "start")
    assert (start["step"], start["resumed_from"], start["world_size"]) == (2, "checkpoint-2", 1)
    whole, here = (
        {step["step"]: step for step in told(moved, f"{workload} {name}")} for name in ("whole", "moved")
    )
    assert here.keys() == {3, 4}
    for step, line in here.items():
        assert line["samples"] == whole[step]["samples"]
        for figure in ("loss", "grad_norm", "lr", "tokens"):
            assert line[figure] == pytest.approx(whole[step][figure], rel=1e-4), (step, figure)
    one, other = (told(moved, f"{workload} {name}", "state")[-1] for name in ("whole", "moved"))
    for norm in ("parameters_norm", "exp_avg_norm", "exp_avg_sq_norm"):
        assert other[norm] == pytest.approx(one[norm], rel=1e-4), norm


def test_a_rank_that_cannot_write_meets_the_others_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They wait for it in the barriers of DeepSpeed's save_checkpoint, before the last of which `latest` is written."""
    (tmp_path / "disk").write_text("it was a folder, until it was not mounted any more")
    asked: list[bool] = []
    writer = SimpleNamespace(save=None, makedirs=lambda path, **_: None)

    class Engine:
        checkpoint_engine = writer
        _config = SimpleNamespace(use_node_local_storage=False)
        save_non_zero_checkpoint, global_steps = False, 3

        def _copy_recovery_script(self, path: str) -> None: ...

        def save_checkpoint(self, path: str, save_latest: bool = True) -> None:
            asked.append(save_latest)

    engine = Engine()
    trainer = SimpleNamespace(
        deepspeed=engine,
        args=SimpleNamespace(save_on_each_node=False),
        state=SimpleNamespace(global_step=3),
        _save_optimizer_and_scheduler=lambda path: engine.save_checkpoint(path),
        _save_rng_state=lambda path: (tmp_path / "disk" / path).mkdir(parents=True),
    )
    said: list[str] = []
    reporter = SimpleNamespace(this=SimpleNamespace(rank=0), log=SimpleNamespace(say=said.append))
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setattr(own_disk, "_gathered", lambda this, mine: [mine])
    monkeypatch.setattr(own_disk, "_told", set())
    place = own_disk.Place(tmp_path / "disk" / "node-0", 0, 1, keep=1, every=1)
    trainer_checkpoints.save_on_own_disks(trainer, reporter, place, tag="checkpoint-3", carried={})  # type: ignore[arg-type]
    assert asked == [False]
    assert "training goes on" in said[0]
    assert "save_checkpoint" not in vars(engine)


@pytest.mark.parametrize(("keep", "strategy"), [(0, "no"), (2, "steps")])
def test_where_none_is_kept_none_is_written(keep: int, strategy: str, tmp_path: Path) -> None:
    words = [
        "--deepspeed-config=x",
        "--model=m",
        f"--run-dir={tmp_path}",
        "--seq-length=8",
        "--lr=0.1",
        "--max-steps=4",
    ]
    args = chat_sft.parser().parse_args([*words, "--checkpoint-every=2", f"--checkpoint-keep={keep}"])
    this = SimpleNamespace(run_dir=tmp_path, device=SimpleNamespace(type="cpu"), rank=0, world_size=1)
    size = SimpleNamespace(micro=1, accumulation=1)
    found = trainers.settings(args, this, ranks.deepspeed(1, 1, 1, 1, **ADAM), size)  # type: ignore[arg-type]
    assert found["save_strategy"] == strategy
