"""Fine-tuning with the Hugging Face Trainer on real ranks: it learns, resumes exactly, and `auto` is filled in."""

from __future__ import annotations

import json
import math
import resource
import shutil
import signal
from typing import TYPE_CHECKING, Any

import heartbeat
import pytest

from tests.docker.workloads import ranks

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.deepspeed

T5 = {
    "model_type": "t5",
    "vocab_size": 320,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 1,
    "num_heads": 4,
    "dropout_rate": 0.0,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
}
LENGTH = 10
ARGS = (
    "--seq-length=48",
    "--log-every=1",
    f"--max-steps={LENGTH}",
    "--checkpoint-every=4",
    "--weight-decay=0",
)
# the optimizer's rate is the config's, the rest of it and the bucket are the Trainer's to fill in
CONFIG = ranks.deepspeed(2, stage=2, micro=8, gradient_clipping=1.0) | {
    "zero_optimization": {"stage": 2, "reduce_bucket_size": "auto"},
    "optimizer": {
        "type": "AdamW",
        "params": {"lr": 8e-3, "betas": "auto", "eps": "auto", "weight_decay": "auto"},
    },
}


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> ranks.Ranks:
    """A run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    args = (*ARGS, "--eval-every=5", f"--checkpoint-mirror=file://{folder}/mirror")
    run = ranks.start(folder, 2, CONFIG, *args, model=ranks.LLAMA, workload="finetune")
    assert run.wait() == [0, 0], run.output()
    return run


def test_the_trainers_checkpoints_are_at_the_mirror(whole: ranks.Ranks) -> None:
    here, there = whole.run_dir / "checkpoints", whole.run_dir.parent / "mirror/run"
    tags = ["checkpoint-10", "checkpoint-8"]
    assert sorted(path.name for path in here.glob("checkpoint-*")) == tags
    assert sorted(path.parent.name for path in there.glob("checkpoint-*/complete.json")) == tags
    marker = json.loads((there / "checkpoint-8/complete.json").read_text())
    assert {name: (there / "checkpoint-8" / name).stat().st_size for name in marker["files"]} == marker[
        "files"
    ]


def test_it_learns(whole: ranks.Ranks) -> None:
    losses = list(whole.losses().values())
    assert losses[0] == pytest.approx(math.log(320), abs=0.3)  # random weights know nothing of 320 tokens
    assert losses[-1] < losses[0] - 0.4
    first, last = whole.events("eval")
    assert (first["step"], last["step"]) == (5, 10)
    assert last["loss"] < first["loss"] < losses[0]
    summary = json.loads((whole.run_dir / "summary.json").read_text())
    assert summary["steps"] == LENGTH
    assert summary["trained_parameters"] == summary["parameters"]


def test_each_rank_tells_how_far_it_is(whole: ranks.Ranks) -> None:
    beat = heartbeat.read(heartbeat.path(whole.run_dir.parent, 1))
    assert beat
    last = whole.steps()[-1]["step"]
    assert (beat.step, beat.phase, beat.began, beat.steps.count) == (last, "end", 0, last - 1)
    assert {"start", "first step", "step", "evaluate", "checkpoint"} <= set(beat.spent)


def test_numbers_of_the_config_hold_and_auto_is_filled_in(whole: ranks.Ranks) -> None:
    rates = [step["lr"] for step in whole.steps()]
    assert rates[0] == pytest.approx(8e-3, rel=0.05)  # the options say 3e-4
    assert rates[-1] == 0
    assert [step["tokens"] for step in whole.steps()] == sorted(step["tokens"] for step in whole.steps())


def test_a_signal_saves_and_the_run_continues_exactly(whole: ranks.Ranks, tmp_path: Path) -> None:
    def start(*args: str) -> ranks.Ranks:
        return ranks.start(tmp_path, 2, CONFIG, *ARGS, *args, model=ranks.LLAMA, workload="finetune")

    run = start("--step-delay=0.3", "--checkpoint-async")
    run.wait_until(lambda: len(run.steps()) >= 5)
    run.processes[1].send_signal(signal.SIGUSR2)  # one rank hears it, all agree
    assert run.wait() == [75, 75], run.output()
    (saved,) = run.events("saved")
    stopped = saved["step"]
    assert 5 <= stopped < LENGTH
    assert saved["tag"] == f"checkpoint-{stopped}"

    # the newest checkpoint is damaged: the one before holds
    (run.run_dir / "checkpoints" / saved["tag"] / "trainer_state.json").unlink()
    again = start()
    assert again.wait() == [0, 0], again.output()
    (skipped,) = again.events("skipped")
    assert (skipped["tag"], skipped["reason"]) == (saved["tag"], "trainer_state.json is missing")
    assert again.events("start")[-1]["resumed_from"] == "checkpoint-4"
    assert again.losses() == pytest.approx(whole.losses(), abs=1e-4)


def start_from(whole: ranks.Ranks, folder: Path, *args: str, **more: Any) -> ranks.Ranks:
    shutil.copytree(whole.run_dir / "checkpoints/checkpoint-8", folder / "run/checkpoints/checkpoint-8")
    shutil.copytree(whole.run_dir / "tokenizer", folder / "run/tokenizer")
    more = {"model": ranks.LLAMA, **more}
    return ranks.start(folder, 2, CONFIG, *ARGS, *args, workload="finetune", **more)


def test_another_number_of_ranks_continues(whole: ranks.Ranks, tmp_path: Path) -> None:
    one = {**CONFIG, "train_micro_batch_size_per_gpu": 16}
    older = tmp_path / "older"
    shutil.copytree(whole.run_dir / "checkpoints/checkpoint-8", older / "checkpoint-8")
    args = (*ARGS, "--eval-every=5", f"--resume={older}")
    run = ranks.run(tmp_path, 1, one, *args, model=ranks.LLAMA, workload="finetune")
    assert "checkpoint checkpoint-8 converted in" in run.output()
    assert run.losses() == pytest.approx({step: whole.losses()[step] for step in (9, 10)}, abs=1e-4)
    assert run.events("eval")[-1]["loss"] == pytest.approx(whole.events("eval")[-1]["loss"], abs=1e-4)
    assert sorted(path.name for path in (run.run_dir / "checkpoints").iterdir()) == ["checkpoint-10", "model"]
    assert not list(older.glob("*/latest_universal"))


def error_of(run: ranks.Ranks) -> str:
    (error,) = [line for line in run.output().splitlines() if line.startswith("finetune: error:")]
    return error


def test_a_disk_that_is_full_leaves_the_checkpoint_before(whole: ranks.Ranks, tmp_path: Path) -> None:
    def limit() -> None:  # no file above 100 kB: the writing itself fails, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))

    run = start_from(whole, tmp_path, "--checkpoint-keep=1", before=limit)
    assert run.wait() == [74, 74], run.output()
    assert "checkpoint checkpoint-10 could not be written" in error_of(run)
    assert "the last complete one is checkpoint-8" in error_of(run)
    assert [path.name for path in (run.run_dir / "checkpoints").glob("checkpoint-*")] == ["checkpoint-8"]
    assert run.events("end")[0]["status"] == "failed"


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    config = ranks.deepspeed(2, stage=2, micro=8)
    args = (*ARGS, "--lr=1e30", "--checkpoint-every=1")
    run = ranks.start(tmp_path, 2, config, *args, model=ranks.LLAMA, workload="finetune")
    assert run.wait() == [65, 65], run.output()
    assert "is not finite. Nothing of it was saved; the last complete checkpoint is" in error_of(run)


def test_a_checkpoint_of_another_model_is_refused(whole: ranks.Ranks, tmp_path: Path) -> None:
    run = start_from(whole, tmp_path, model={**ranks.LLAMA, "num_hidden_layers": 3})
    assert run.wait() == [64, 64], run.output()
    assert "checkpoint-8 is of another model" in error_of(run)
    assert "give this run another folder" in error_of(run)


def test_old_checkpoints_go_once_a_newer_one_is_whole(whole: ranks.Ranks) -> None:
    kept = sorted(path.name for path in (whole.run_dir / "checkpoints").glob("checkpoint-*"))
    assert kept == ["checkpoint-10", "checkpoint-8"]


def test_an_encoder_decoder_with_zero_3(tmp_path: Path) -> None:
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    said = [{"prompt": f"say {word}: {n}", "completion": word} for word in ("yes", "no") for n in range(4)]
    rows = said * 25
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = ranks.deepspeed(2, stage=3, micro=8)
    args = ("--seq-length=24", "--log-every=1", "--max-steps=60", "--lr=3e-2", "--export")
    run = ranks.start(
        tmp_path, 2, config, *args, f"--data={data}", "--tokenizer=bpe:300", model=T5, workload="finetune"
    )
    assert run.wait() == [0, 0], run.output()
    losses = list(run.losses().values())
    # whoever knows that an answer is "yes" or "no" and its end, but not which, pays one bit for two tokens
    assert losses[-1] < math.log(2) / 4 < losses[0]
    model = AutoModelForSeq2SeqLM.from_pretrained(run.run_dir / "export")
    by = AutoTokenizer.from_pretrained(run.run_dir / "export")
    for row in said:  # it stops by itself, at the tokenizer's end, which is not T5's
        ids = by(row["prompt"], return_tensors="pt").input_ids
        answer = model.generate(ids, max_new_tokens=6, do_sample=False)[0].tolist()
        assert by.decode(answer, skip_special_tokens=True) == row["completion"]
        assert answer[-1] == by.eos_token_id
        assert len(answer) < 7


def test_mistakes_are_told_in_one_line(tmp_path: Path) -> None:
    one = ranks.deepspeed(1, stage=0)
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "a", "completion": ""}\n')
    few = tmp_path / "few.jsonl"
    few.write_text('{"prompt": "a", "completion": "b"}\n')
    cases = [
        (f"--data={bad}", f"{bad}:2: completion is empty"),
        (f"--data={few}", "1 examples are too few: one at least is held out"),
        ("--tokenizer=bytes", "has no end token, which ends an answer"),
        ("--task=seq2seq", "is a causal language model"),
    ]
    runs = [
        ranks.start(tmp_path / str(n), 1, one, *ARGS, arg, model=ranks.LLAMA, workload="finetune")
        for n, (arg, _) in enumerate(cases)
    ]
    for run, (_, message) in zip(runs, cases, strict=True):
        assert run.wait() == [64], run.output()
        assert message in run.output().splitlines()[-1]
