"""The stages of chat training on real ranks, each from what the one before exported: pairs tell apart, reward rises.

The answers to learn from are in lower and in upper case alike, and the pairs prefer upper case: so there is room for
the reward to rise, and what it should rise to is known. An answer that ends at once does not get it.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from workloads import examples

from tests.docker.workloads import ranks

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.deepspeed

MODEL = {**ranks.LLAMA, "hidden_size": 64, "intermediate_size": 128}
ARGS = ("--seq-length=48", "--log-every=1", "--weight-decay=0")
CONFIG = ranks.deepspeed(2, stage=2, micro=8, gradient_clipping=1.0)
ZERO_3 = ranks.deepspeed(2, stage=3, micro=8, gradient_clipping=1.0)


def start(
    folder: Path, stage: str, model: object, *args: str, config: dict[str, object] = CONFIG
) -> ranks.Ranks:
    return ranks.start(folder, 2, config, *ARGS, *args, model=model, workload=stage)  # type: ignore[arg-type]


def done(run: ranks.Ranks) -> ranks.Ranks:
    assert run.wait() == [0, 0], run.output()
    return run


def shouting(folder: Path) -> float:
    """The share of upper-case letters in what an exported model answers to a prompt, 256 times."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, by = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    ids = by(["The name is"] * 256, return_tensors="pt").input_ids
    rows = model.generate(ids, max_new_tokens=16, do_sample=True, pad_token_id=by.eos_token_id)
    answers = [by.decode(row[ids.shape[1] :], skip_special_tokens=True) for row in rows]
    capitals = sum(c.isupper() for answer in answers for c in answer)
    return float(capitals / sum(len(answer) + 1 for answer in answers))


def preference(folder: Path, pairs: Path) -> float:
    """How much likelier an exported model holds the better answer of a pair to be, mean of 16 pairs in nats."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, by = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)

    def likelihood(prompt: str, answer: str) -> float:
        ids = by([prompt + answer], return_tensors="pt").input_ids
        start = len(by(prompt).input_ids)
        with torch.no_grad():
            logs = model(ids).logits[0, start - 1 : -1].log_softmax(-1)
        return float(logs.gather(1, ids[0, start:, None]).sum())

    rows = [json.loads(line) for line in pairs.read_text().splitlines()[:16]]
    return statistics.fmean(
        likelihood(row["prompt"], row["chosen"]) - likelihood(row["prompt"], row["rejected"]) for row in rows
    )


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs whose better answer is in upper case."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    with path.open("w") as file:
        for row in examples.builtin(("prompt", "chosen", "rejected")):
            file.write(json.dumps({**row, "chosen": row["rejected"], "rejected": row["chosen"]}) + "\n")
    return path


@pytest.fixture(scope="session")
def answering(tmp_path_factory: pytest.TempPathFactory) -> ranks.Ranks:
    """Stage one: a model that answers in lower and in upper case."""
    folder = tmp_path_factory.mktemp("sft")
    data = folder / "answers.jsonl"
    with data.open("w") as file:
        for row in examples.builtin(("prompt", "chosen", "rejected")):
            for answer in (row["chosen"], row["rejected"]):
                file.write(json.dumps({"prompt": row["prompt"], "completion": answer}) + "\n")
    args = (f"--data={data}", "--max-steps=30", "--lr=1e-2", "--eval-every=30", "--export")
    return done(start(folder, "chat_sft", MODEL, *args))


@pytest.fixture(scope="session")
def judging(answering: ranks.Ranks, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> ranks.Ranks:
    """Stage two: a reward model, from the first stage's export."""
    args = (f"--data={pairs}", "--max-steps=16", "--lr=5e-3", "--eval-every=16", "--export")
    return done(
        start(tmp_path_factory.mktemp("reward"), "chat_reward", str(answering.run_dir / "export"), *args)
    )


def test_it_learns_to_answer(answering: ranks.Ranks) -> None:
    losses = list(answering.losses().values())
    assert losses[-1] < losses[0] - 0.8
    assert answering.events("eval")[0]["loss"] < losses[0] - 0.8
    assert shouting(answering.run_dir / "export") < 0.6


def test_it_tells_held_out_pairs_apart(judging: ranks.Ranks) -> None:
    (held_out,) = judging.events("eval")
    assert held_out["accuracy"] >= 0.9
    assert held_out["margin"] > 1.0
    first = judging.steps()[0]["margin"]  # random weights may tell pairs apart, though not by much
    assert abs(first) < held_out["margin"] / 2


@pytest.mark.parametrize(
    ("stage", "args"),
    [
        ("chat_ppo", ("--max-steps=40", "--lr=3e-3", "--beta=0.02", "--critic-lr=5e-3")),
        ("chat_rl", ("--max-steps=24", "--lr=3e-3", "--beta=0.02")),
    ],
)
def test_the_reward_rises(
    stage: str, args: tuple[str, ...], answering: ranks.Ranks, judging: ranks.Ranks, tmp_path: Path
) -> None:
    rewarded = (f"--reward={judging.run_dir / 'export'}", "--max-new-tokens=16", "--export")
    run = done(start(tmp_path, stage, str(answering.run_dir / "export"), *args, *rewarded))
    rewards = [step["reward"] for step in run.steps()]
    # a step's own mean is of 16 sampled answers, and goes up and down by one; the mean of eight by a fifth
    assert statistics.fmean(rewards[-8:]) > statistics.fmean(rewards[:4]) + 0.4, rewards
    assert shouting(run.run_dir / "export") > shouting(answering.run_dir / "export")


def test_preferences_without_a_reward_model(answering: ranks.Ranks, pairs: Path, tmp_path: Path) -> None:
    args = (f"--data={pairs}", "--max-steps=16", "--lr=3e-3", "--eval-every=16", "--merge", "--lora-rank=8")
    run = done(start(tmp_path, "chat_dpo", str(answering.run_dir / "export"), *args))
    (held_out,) = run.events("eval")
    assert held_out["accuracy"] >= 0.9
    summary = json.loads((run.run_dir / "summary.json").read_text())
    assert summary["trained_parameters"] < summary["parameters"] / 4
    # the adapters are merged into what is exported: 0.1 is beta of the loss, by which its margin is scaled
    learned = preference(run.run_dir / "export", pairs) - preference(answering.run_dir / "export", pairs)
    assert learned == pytest.approx(held_out["margin"] / 0.1, rel=0.5)


def test_grpo_with_a_rule_and_adapters_under_zero_3(answering: ranks.Ranks, tmp_path: Path) -> None:
    args = ("--algorithm=grpo", "--reward=lower-case", "--max-steps=3", "--max-new-tokens=8", "--lora-rank=4")
    run = done(start(tmp_path, "chat_rl", str(answering.run_dir / "export"), *args, "--merge", config=ZERO_3))
    assert all(0 <= step["reward"] <= 1 for step in run.steps())
    assert (run.run_dir / "export/model.safetensors").exists()


def test_mistakes_are_told_in_one_line(answering: ranks.Ranks, tmp_path: Path) -> None:
    model = str(answering.run_dir / "export")
    cases = [
        (
            "chat_rl",
            ("--reward=lower-case", "--generations=3"),
            "the step's 16 answers do not divide by --generations 3",
        ),
        (
            "chat_ppo",
            (f"--reward={model}", "--max-new-tokens=16"),
            f"{model} is no reward model: name a folder that chat_reward --export",
        ),
    ]
    for stage, args, message in cases:
        run = start(tmp_path / stage, stage, model, *args)
        assert run.wait() == [64, 64], run.output()
        assert message in run.output(0).splitlines()[-1]


def test_the_three_stages_are_one_command(tmp_path: Path) -> None:
    words = ["local", "jobs/smoke/chat.yaml", "--wait"]
    steps = {"sft.args.max-steps": 12, "reward.args.max-steps": 10, "rlhf.args.max-steps": 3}
    for key, value in steps.items():
        words += ["--set", f"{key}={value}"]
    told = launcher(tmp_path, *words).stderr
    assert "reward" in told.rpartition("stage rlhf:")[2]  # what its summary tells, instead of a loss
    stages = json.loads(launcher(tmp_path, "status", "smoke-chat-pipeline-1", "--json").stdout)["stages"]
    assert [stage["state"] for stage in stages] == ["SUCCEEDED"] * 3
    sft, reward, rlhf = (tmp_path / stage["run"] for stage in stages)
    job = json.loads((rlhf / "plan.json").read_text())["job"]
    assert (job["model"], job["args"]["reward"]) == (f"{sft}/export", f"{reward}/export")
    lines = [json.loads(line) for line in (reward / "metrics.jsonl").read_text().splitlines()]
    assert [line["accuracy"] for line in lines if line.get("event") == "eval"][-1] > 0.9
    assert (rlhf / "export" / "model.safetensors").exists()
    table = launcher(tmp_path, "report", "smoke-chat-pipeline-1").stdout
    assert [line.split()[0] for line in table.splitlines()[1:4]] == [sft.name, reward.name, rlhf.name]


def launcher(runs: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "LAUNCHER_RUNS": str(runs)}
    command = [sys.executable, "-m", "launcher", *words]
    done = subprocess.run(
        command, cwd=ranks.DOCKER.parent, env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done
