"""Pretraining with real ranks: it learns, its steps do not depend on ZeRO or on interruptions, and it ends as told."""

from __future__ import annotations

import importlib.util
import json
import math
import resource
import shutil
import signal
from typing import TYPE_CHECKING

import heartbeat
import pytest

from tests.docker.workloads import ranks

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.deepspeed

SHORT = ("--seq-length=64", "--log-every=1", "--lr=5e-3")
LENGTH = 90
LONG = (*SHORT, f"--max-steps={LENGTH}", "--warmup-steps=4", "--checkpoint-every=30", "--checkpoint-keep=2")
TOKENS = 2 * 8 * 64  # of a step
STAGE_1 = ranks.deepspeed(2, stage=1, micro=8, gradient_clipping=1.0)


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> ranks.Ranks:
    """A run that nothing interrupts; it has dropout, and DeepSpeed's ZeRO-1."""
    run = ranks.start(
        tmp_path_factory.mktemp("whole"), 2, STAGE_1, *LONG, "--eval-every=45", "--eval-samples=32"
    )
    assert run.wait() == [0, 0], run.output()
    return run


def test_it_learns(whole: ranks.Ranks) -> None:
    summary = json.loads((whole.run_dir / "summary.json").read_text())
    losses = [step["loss"] for step in whole.steps()]
    assert losses[0] == pytest.approx(math.log(256), abs=0.3)  # random weights know nothing of 256 bytes
    assert summary["loss_first"] == losses[0]
    assert summary["loss_last"] == pytest.approx(sum(losses[-10:]) / 10)
    assert summary["loss_last"] < summary["unigram_entropy_nats"] < losses[0]


def test_it_reports_every_step(whole: ranks.Ranks) -> None:
    steps = whole.steps()
    assert [step["step"] for step in steps] == list(range(1, LENGTH + 1))
    assert [step["tokens"] for step in steps] == [TOKENS * n for n in range(1, LENGTH + 1)]
    assert steps[0]["lr"] == pytest.approx(5e-3 / 4)
    assert steps[3]["lr"] == pytest.approx(5e-3)
    assert steps[-1]["lr"] == 0
    for step in steps:
        assert step["max_steps"] == LENGTH
        assert 0 < step["grad_norm"] < 100
        assert step["tokens_per_second"] == pytest.approx(TOKENS / step["step_seconds"])
        assert step["memory_bytes"] > 50e6
        assert 0 <= step["data_share"] < 1
        assert step["epoch"] == pytest.approx(step["step"] * steps[0]["epoch"])
    (start,) = whole.events("start")
    assert (start["step"], start["attempt"], start["resumed_from"], start["world_size"]) == (0, 1, None, 2)
    assert [event["step"] for event in whole.events("eval")] == [45, 90]
    assert whole.events("eval")[-1]["bits_per_byte"] == pytest.approx(
        whole.events("eval")[-1]["loss"] / math.log(2)
    )
    assert whole.events("end")[0]["status"] == "done"


def test_each_rank_tells_how_far_it_is(whole: ranks.Ranks) -> None:
    for rank in range(2):
        beat = heartbeat.read(heartbeat.path(whole.run_dir.parent, rank))
        assert beat
        assert (beat.step, beat.phase, beat.began, beat.steps.count) == (LENGTH, "end", 0, LENGTH - 1)
        assert {"start", "first step", "step", "evaluate", "checkpoint"} <= set(beat.spent)
        assert len(beat.steps.last) == heartbeat.LAST


def test_its_log_is_short(whole: ranks.Ranks) -> None:
    lines = whole.output(0).splitlines()
    assert len(lines) == 2 + LENGTH + 3 + 2  # tokens, head, steps, checkpoints, evaluations
    assert lines[2].startswith("step  1/90  loss 5.")
    assert whole.output(1) == ""


def test_it_keeps_the_newest_checkpoints(whole: ranks.Ranks) -> None:
    assert [event["tag"] for event in whole.events("checkpoint")] == [
        "step-00000030",
        "step-00000060",
        "step-00000090",
    ]
    assert whole.tags() == ["step-00000060", "step-00000090"]
    assert (whole.run_dir / "checkpoints/latest").read_text() == "step-00000090"
    marker = json.loads((whole.run_dir / "checkpoints/step-00000090/complete.json").read_text())
    assert marker["progress"] == {"step": 90, "samples": 90 * 16, "tokens": 90 * TOKENS}
    assert sum("optim_states" in name for name in marker["files"]) == 2


def test_a_signal_saves_and_the_run_continues_exactly(whole: ranks.Ranks, tmp_path: Path) -> None:
    run = ranks.start(tmp_path, 2, STAGE_1, *LONG, "--step-delay=0.1")
    run.wait_until(lambda: len(run.steps()) >= 35)
    run.processes[1].send_signal(signal.SIGUSR2)  # one rank hears it, all agree
    assert run.wait() == [75, 75], run.output()
    (saved,) = run.events("saved")
    stopped = saved["step"]
    assert 35 <= stopped < LENGTH
    assert saved["tag"] == run.tags()[-1] == f"step-{stopped:08d}"
    older = tmp_path / "older"
    shutil.copytree(run.run_dir / "checkpoints", older)
    before = {path: path.stat().st_mtime_ns for path in older.rglob("*")}

    # one byte of the newest checkpoint is damaged, in a file that rank 1 alone reads: the one before holds
    newest = run.run_dir / "checkpoints" / saved["tag"]
    (states,) = newest.glob("*pp_rank_1_*optim_states.pt")
    data = bytearray(states.read_bytes())
    data[len(data) // 2] ^= 1
    states.write_bytes(data)
    again = ranks.start(tmp_path, 2, STAGE_1, *LONG)
    assert again.wait() == [0, 0], again.output()
    (skipped,) = again.events("skipped")
    assert skipped["tag"] == saved["tag"]
    assert f"{states.name} has other bytes than were written" in skipped["reason"]
    assert "found by rank 1 on " in skipped["reason"]
    start = again.events("start")[-1]
    assert (start["step"], start["resumed_from"], start["attempt"]) == (30, "step-00000030", 2)
    assert again.losses() == whole.losses()

    # another run starts from the intact copy, which it does not change
    other = ranks.start(tmp_path / "other", 2, STAGE_1, *LONG, f"--resume={older}")
    assert other.wait() == [0, 0], other.output()
    assert other.events("start")[0]["resumed_from"] == saved["tag"]
    assert other.losses() == {step: loss for step, loss in whole.losses().items() if step > stopped}
    assert {path: path.stat().st_mtime_ns for path in older.rglob("*")} == before


def test_a_rank_dies_and_the_run_continues_exactly(whole: ranks.Ranks, tmp_path: Path) -> None:
    faults = ("--fail-at-step=33", "--fail-rank=1", "--fail-code=9")
    run = ranks.start(tmp_path, 2, STAGE_1, *LONG, *faults)
    assert run.wait() == [1, 9]
    assert "another rank is gone" in run.output(0)
    assert "Traceback" not in run.output()
    again = ranks.start(tmp_path, 2, STAGE_1, *LONG, *faults)
    assert again.wait() == [0, 0], again.output()
    assert [line["step"] for line in again.steps()] == [*range(1, 33), *range(31, LENGTH + 1)]
    assert again.losses() == whole.losses()


def test_a_signal_during_start_up_is_not_lost(tmp_path: Path) -> None:
    def ignore() -> None:
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)

    run = ranks.start(tmp_path, 1, ranks.deepspeed(1, stage=0), *SHORT, before=ignore)
    run.wait_until(lambda: ranks.handles(run.processes[0], signal.SIGUSR2))
    run.processes[0].send_signal(signal.SIGUSR2)
    assert run.wait() == [75], run.output()
    assert run.steps() == []
    assert run.events("saved")[0]["tag"] is None


@pytest.fixture(scope="session")
def stages(tmp_path_factory: pytest.TempPathFactory) -> list[ranks.Ranks]:
    """The same run with ZeRO 0 to 3; the last exports its model."""
    runs = []
    for stage in range(4):
        run = ranks.start(
            tmp_path_factory.mktemp(f"stage-{stage}"),
            2,
            ranks.deepspeed(2, stage=stage, gradient_clipping=1.0),
            *SHORT,
            "--max-steps=5",
            "--eval-every=5",
            "--checkpoint-every=3",
            "--export" if stage == 3 else "--no-export",
            model="byte-gpt",
        )
        assert run.wait() == [0, 0], run.output()
        runs.append(run)
    return runs


def test_all_zero_stages_have_the_same_loss(stages: list[ranks.Ranks]) -> None:
    reference = stages[0].steps()
    for run in stages[1:]:
        for ours, theirs in zip(run.steps(), reference, strict=True):
            assert ours["loss"] == pytest.approx(theirs["loss"], abs=5e-5)
            assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-3)


def test_an_exported_model_is_the_trained_one(stages: list[ranks.Ranks]) -> None:
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from workloads import corpus

    run = stages[3]
    model = AutoModelForCausalLM.from_pretrained(run.run_dir / "export")
    tokenizer = AutoTokenizer.from_pretrained(run.run_dir / "export")
    (cached,) = (run.run_dir / "data").iterdir()
    _, held_out = corpus.read(cached).split()
    inputs = torch.from_numpy(held_out[64 * np.arange(128)[:, None] + np.arange(65)]).long()
    with torch.no_grad():
        logits = model(inputs[:, :-1]).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), inputs[:, 1:].flatten())
    assert run.events("eval")[-1]["loss"] == pytest.approx(loss.item(), abs=1e-4)
    prompt = tokenizer("The é", return_tensors="pt")
    assert prompt.input_ids.tolist() == [list("The é".encode())]
    text = tokenizer.decode(model.generate(**prompt, max_new_tokens=8, do_sample=False)[0])
    assert text.startswith("The é")
    assert len(text.encode()) >= len("The é".encode()) + 8


def test_a_model_is_exported_from_a_checkpoint_without_its_ranks(
    stages: list[ranks.Ranks], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import load_file
    from workloads import export

    at_its_end = load_file(stages[3].run_dir / "export/model.safetensors")
    for stage, tolerance in ((0, 1e-5), (1, 1e-5), (3, 0)):
        folder = tmp_path / f"stage-{stage}"
        assert export.main([str(stages[stage].run_dir / "checkpoints/step-00000005"), str(folder)]) == 0
        weights = load_file(folder / "model.safetensors")
        assert weights.keys() == at_its_end.keys()
        for name, tensor in weights.items():
            assert (tensor - at_its_end[name]).abs().max() <= tolerance, name
    ours, theirs = ({path.name: path for path in f.iterdir()} for f in (folder, stages[3].run_dir / "export"))
    assert ours.keys() == theirs.keys()
    for name in ours.keys() - {
        "model.safetensors",
        "tokenizer_config.json",
    }:  # which says that it was read locally
        assert ours[name].read_text() == theirs[name].read_text()

    before = stages[3].run_dir / "checkpoints/step-00000003"
    capsys.readouterr()
    assert export.main([str(before), str(folder)]) == 64
    assert capsys.readouterr().err == f"error: {folder} exists: name a new folder\n"
    broken = tmp_path / "run/checkpoints/step-00000003"
    shutil.copytree(before, broken)
    with next(broken.glob("*pp_rank_1*optim_states.pt")).open("r+b") as file:
        file.seek(500)
        file.write(b"\xff")
    assert export.main([str(broken), str(tmp_path / "new")]) == 64
    assert "optim_states.pt has other bytes than were written" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_folder_with_weights_starts_from_them(stages: list[ranks.Ranks], tmp_path: Path) -> None:
    trained = stages[3]
    config = ranks.deepspeed(2, stage=3)
    options = (*SHORT, "--max-steps=1", "--lr=1e-12", "--eval-every=1")
    run = ranks.start(tmp_path, 2, config, *options, model=str(trained.run_dir / "export"))
    assert run.wait() == [0, 0], run.output()
    assert run.events("eval")[0]["loss"] == pytest.approx(trained.events("eval")[-1]["loss"], abs=1e-4)


@pytest.mark.parametrize("stage", [1, 3])
def test_another_number_of_ranks_continues(stage: int, stages: list[ranks.Ranks], tmp_path: Path) -> None:
    older = tmp_path / "older"
    shutil.copytree(stages[stage].run_dir / "checkpoints/step-00000003", older / "step-00000003")
    config = ranks.deepspeed(1, stage=stage, micro=8, gradient_clipping=1.0)
    options = (*SHORT, "--max-steps=5", "--checkpoint-every=5", f"--resume={older}")
    run = ranks.start(tmp_path, 1, config, *options, model="byte-gpt")
    assert run.wait() == [0], run.output()
    assert "step-00000003 converted in" in run.output()
    assert run.losses() == pytest.approx({step: stages[stage].losses()[step] for step in (4, 5)}, abs=5e-5)
    assert sorted(path.name for path in older.iterdir()) == ["step-00000003"]
    assert not list((run.run_dir / "checkpoints").glob("*universal"))  # what it has saved fits


def test_llama_in_bf16_offloaded_with_accumulation_and_bpe(tmp_path: Path) -> None:
    config = ranks.deepspeed(
        2,
        stage=3,
        micro=2,
        accumulation=2,
        zero={"offload_optimizer": {"device": "cpu"}},
        gradient_clipping=0.5,
        bf16={"enabled": True},
    )
    tensorboard = importlib.util.find_spec("tensorboard") is not None  # optional
    run = ranks.start(
        tmp_path,
        2,
        config,
        *SHORT,
        "--max-steps=16",
        "--tokenizer=bpe:320",
        "--activation-checkpointing",
        "--tensorboard" if tensorboard else "--no-tensorboard",
        model=ranks.LLAMA,
    )
    assert run.wait() == [0, 0], run.output()
    losses = list(run.losses().values())
    assert losses[0] == pytest.approx(math.log(320), abs=0.3)
    assert losses[-1] < losses[0] - 0.5
    assert run.steps()[-1]["tokens"] == 16 * 8 * 64
    assert (run.run_dir / "tokenizer/tokenizer.json").exists()
    assert any((run.run_dir / "tensorboard").glob("events.*")) == tensorboard


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    run = ranks.start(tmp_path, 2, STAGE_1, *SHORT, "--lr=1e30", "--max-steps=9", "--checkpoint-every=1")
    assert run.wait() == [65, 65], run.output()
    (error,) = [line for line in run.output().splitlines() if line.startswith("pretrain: error:")]
    assert "is not finite" in error
    for tag in run.tags():
        assert tag in error
    assert run.events("end")[0]["status"] == "failed"


def test_a_disk_that_is_full_leaves_the_checkpoint_before(whole: ranks.Ranks, tmp_path: Path) -> None:
    shutil.copytree(whole.run_dir / "checkpoints/step-00000060", tmp_path / "run/checkpoints/step-00000060")

    def limit() -> None:  # no file above 100 kB: the writing itself fails, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))

    cache = f"--data-cache={whole.run_dir / 'data'}"
    run = ranks.start(tmp_path, 2, STAGE_1, *LONG, cache, before=limit)
    assert run.wait() == [74, 74], run.output()
    (error,) = [line for line in run.output().splitlines() if line.startswith("pretrain: error:")]
    assert "checkpoint step-00000090 could not be written" in error
    assert "the last complete one is step-00000060" in error
    assert run.tags() == ["step-00000060"]


@pytest.mark.parametrize(
    ("size", "model", "args", "message"),
    [
        (2, ranks.GPT2, ("--data=/no/such/*.txt",), "--data /no/such/*.txt: no such file or folder"),
        (
            1,
            ranks.GPT2,
            ("--data={short}",),
            "the text is too short: 3 samples of 64 tokens, and a step takes 4",
        ),
        (1, ranks.GPT2, ("--tokenizer=bpe:300",), "has 300 tokens, and model"),
    ],
)
def test_mistakes_are_told_in_one_line(
    size: int, model: dict[str, object], args: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    short = tmp_path / "short.txt"
    short.write_text("x" * 220)
    config = ranks.deepspeed(size, stage=0)
    run = ranks.start(tmp_path, size, config, *SHORT, *(arg.format(short=short) for arg in args), model=model)
    assert run.wait() == [64] * size, run.output()
    assert message in run.output(0)
    assert run.output(0).splitlines()[-1].startswith("pretrain: error: ")
    tokens = "by bytes of" in run.output(0) or "by bpe" in run.output(0)  # a line that says what they are
    assert run.output().count("\n") == size + tokens  # one of rank 0, and one between the ranks' outputs


def test_a_checkpoint_of_another_model_is_refused(whole: ranks.Ranks, tmp_path: Path) -> None:
    older = f"--resume={whole.run_dir / 'checkpoints'}"
    model = {**ranks.GPT2, "n_layer": 3}
    run = ranks.start(tmp_path, 2, ranks.deepspeed(2, stage=1), *SHORT, older, model=model)
    assert run.wait() == [64, 64], run.output()
    assert "is of another model" in run.output(0).splitlines()[-1]


def test_a_checkpoint_of_other_samples_continues_and_says_so(tmp_path: Path) -> None:
    config, options = ranks.deepspeed(1, stage=1), ("--seq-length=64", "--max-steps=1")
    ranks.run(tmp_path / "older", 1, config, *options)
    older = tmp_path / "older/run/checkpoints"
    marker = older / "step-00000001/complete.json"
    written = json.loads(marker.read_text())
    del written["identity"]["data"], written["seal"]  # as written before the order of samples had a name
    marker.write_text(json.dumps(written))
    more = ("--seq-length=64", "--max-steps=2", f"--resume={older}")
    (tmp_path / "newer").mkdir()
    run = ranks.run(tmp_path / "newer", 1, config, *more)
    assert run.events("start")[0]["resumed_from"] == "step-00000001"
    assert "it continues at sample 5 of this run's own order" in run.output(0)
    again = ranks.run(tmp_path / "newer", 1, config, "--seq-length=64", "--max-steps=3")
    assert "own order" not in again.output(0)


def test_a_padded_vocabulary_with_document_masks_and_z_loss(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    config = ranks.deepspeed(2, stage=3)
    asked = ("--pad-vocab=96", "--document-masks", "--z-loss=1e-3", "--schedule=wsd", "--decay-share=0.5")
    run = ranks.run(
        tmp_path, 2, config, *SHORT, *asked, "--max-steps=4", "--export", "--eval-every=4", model=ranks.LLAMA
    )
    assert [step["lr"] for step in run.steps()] == pytest.approx([5e-3, 5e-3, 2.5e-3, 0])
    assert run.steps()[0]["loss"] == pytest.approx(math.log(384), abs=0.1)  # z-loss is not in it
    weights = load_file(run.run_dir / "export/model.safetensors")
    assert weights["model.embed_tokens.weight"].shape[0] == weights["lm_head.weight"].shape[0] == 384
    assert json.loads((run.run_dir / "export/config.json").read_text())["vocab_size"] == 384
    more = ranks.run(
        tmp_path / "more",
        1,
        ranks.deepspeed(1, 1),
        *SHORT,
        "--pad-vocab=7",
        model=f"{run.run_dir}/export",
        code=64,
    )
    assert "--pad-vocab 7: " in more.output(0)
    assert "has weights for 384 tokens, which are not resized" in more.output(0)


def test_document_masks_change_what_is_learned(tmp_path: Path) -> None:
    source = tmp_path / "short.jsonl"
    source.write_text("\n".join(json.dumps({"text": f"{number} is a number"}) for number in range(2000)))
    data, config = (*SHORT, f"--data={source}", "--max-steps=3"), ranks.deepspeed(1, stage=0)
    runs = [
        ranks.run(tmp_path / name, 1, config, *data, f"--{name}", model=ranks.LLAMA)
        for name in ("document-masks", "no-document-masks")
    ]
    masked, mixed = (run.losses() for run in runs)
    assert masked[1] == pytest.approx(mixed[1], abs=0.1)
    assert abs(masked[3] - mixed[3]) > 1e-4


def test_document_masks_and_sequence_parallelism_are_refused_together(tmp_path: Path) -> None:
    config = ranks.deepspeed(1, stage=0)
    asked = ("--document-masks", "--sequence-parallel=2")
    run = ranks.run(tmp_path, 2, config, *SHORT, *asked, model=ranks.LLAMA, code=64)
    assert "--document-masks: attention that --sequence-parallel divides" in run.output(0)
