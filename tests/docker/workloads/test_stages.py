"""What a stage does with the model and the examples that it is given; all cases are of one process.

The model is a tiny LLaMA whose tokenizer puts <s> first, has no padding token and no token to spare for one.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("trl", reason="the train extra is not installed")

from tests.docker.workloads import ranks, tiny

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.deepspeed

SIZE = 300
MODEL = {**ranks.LLAMA, "num_hidden_layers": 1, "vocab_size": SIZE}
UNBALANCED = {**MODEL, "model_type": "mixtral", "num_local_experts": 4, "router_aux_loss_coef": 0.0}
SHORT = [
    {"prompt": f"say {n}:", "completion": " yes", "chosen": " yes", "rejected": " no"} for n in range(10, 50)
]
WORDS = ("--max-steps=2", "--log-every=1", "--seq-length=24", "--lr=1e-3")
PPO = ("--reward=brief", "--max-new-tokens=8")


def cases(folder: Path) -> dict[str, dict[str, Any]]:
    words = [f"word{n}" for n in range(SIZE - 258)]
    plain = tiny.save(folder / "plain", MODEL, words)
    penalty = tiny.save(folder / "penalty", MODEL, words, penalty=1.5)
    other = tiny.save(folder / "other", MODEL, words[::-1])
    mixture = tiny.save(folder / "mixture", UNBALANCED, words)
    data = folder / "data.jsonl"
    long = [{**row, "prompt": "a long prompt " * 4} for row in SHORT]
    data.write_text("".join(json.dumps(row) + "\n" for row in SHORT + long))
    cut = folder / "cut.jsonl"
    ends = [{**row, "completion": " yes" * 8, "chosen": " yes" * 8} for row in SHORT[:20]]
    cut.write_text("".join(json.dumps(row) + "\n" for row in ends + SHORT[20:]))
    too_long = folder / "long.jsonl"
    too_long.write_text("".join(json.dumps(row) + "\n" for row in long))

    def case(name: str, workload: str, model: Path, *words: str, stage: int = 0) -> dict[str, Any]:
        return {
            "workload": workload,
            "run_dir": str(folder / name),
            "config": ranks.deepspeed(1, stage, micro=4),
            "words": [f"--model={model}", *WORDS, f"--data={data}", *words],
        }

    judged = (*PPO[1:], f"--reward={folder / 'padding' / 'export'}")
    first = ("--max-steps=1", "--warmup-steps=4", "--lr=4e-3", "--weight-decay=10", "--export")
    made = [
        case("first step", "chat_sft", plain, *first),
        case("padding", "chat_reward", plain, "--export", stage=3),
        case("ppo", "chat_ppo", plain, *PPO),
        case("ppo with a penalty", "chat_ppo", penalty, *PPO),
        case("rloo", "chat_rl", plain, *PPO),
        case("rloo with a penalty", "chat_rl", penalty, *PPO),
        case("ppo, layers gathered", "chat_ppo", plain, *PPO, "--no-gather-for-generation", stage=3),
        case("rloo, layers gathered", "chat_rl", plain, *PPO, "--no-gather-for-generation", stage=3),
        *(case(f"{w} judged", w, plain, *judged) for w in ("chat_ppo", "chat_rl")),
        *(case(f"{w} judged under ZeRO-3", w, plain, *judged, stage=3) for w in ("chat_ppo", "chat_rl")),
        case("chat_ppo judged from the host", "chat_ppo", plain, *judged, "--offload-frozen"),
        *(case(f"mixture {w}", w, mixture) for w in ("finetune", "chat_sft")),
        case("other tokens", "chat_ppo", other, *PPO[1:], f"--reward={folder / 'padding' / 'export'}"),
        case("no room", "chat_ppo", plain, "--reward=brief", "--max-new-tokens=64"),
        *(case(f"long {w}", w, plain) for w in ("finetune", "chat_sft", "chat_reward", "chat_dpo")),
        *(case(f"cut {w}", w, plain, f"--data={cut}") for w in ("finetune", "chat_sft", "chat_dpo")),
        *(
            case(f"all long {w}", w, plain, f"--data={too_long}")
            for w in ("finetune", "chat_sft", "chat_reward")
        ),
        case("all long chat_ppo", "chat_ppo", plain, f"--data={too_long}", *PPO),
        case("all long chat_rl", "chat_rl", plain, f"--data={too_long}", *PPO),
    ]
    return {case["run_dir"].rpartition("/")[2]: case for case in made}


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The folder of all runs, and what each ended with."""
    folder = tmp_path_factory.mktemp("stages")
    file = folder / "cases.json"
    file.write_text(json.dumps(list(cases(folder).values())))
    run = ranks.start(folder, 1, {}, str(file), module="tests.docker.workloads.cuts", given=())
    assert run.wait() == [0], run.output()
    ended = [line.partition(" ended with ") for line in run.output().splitlines() if " ended with " in line]
    return folder, {place.rpartition("/")[2]: result for place, _, result in ended}


def lines(runs: tuple[Path, dict[str, str]], name: str, event: str | None = None) -> list[dict[str, Any]]:
    folder, ended = runs
    assert ended[name] == "0", ended[name]
    found = map(json.loads, (folder / name / "metrics.jsonl").read_text().splitlines())
    return [line for line in found if line.get("event") == event]


def test_the_first_step_trains_at_the_rate_it_logs_and_norms_do_not_decay(
    runs: tuple[Path, dict[str, str]],
) -> None:
    from safetensors.torch import load_file

    (step,) = lines(runs, "first step")
    assert step["lr"] == pytest.approx(1e-3)
    before = load_file(runs[0] / "plain" / "model.safetensors")
    after = load_file(runs[0] / "first step" / "export" / "model.safetensors")
    key = "model.layers.0.input_layernorm.weight"
    # Adam's first update moves each weight by the rate; decay of 10 would take 0.01 more from a norm's
    assert (after[key] - before[key]).abs().max().item() == pytest.approx(1e-3, rel=0.01)
    matrix = "model.layers.0.mlp.up_proj.weight"
    moved = after[matrix] - before[matrix] * (1 - 10 * 1e-3)
    assert moved.abs().max().item() == pytest.approx(1e-3, rel=0.01)


def test_a_reward_model_tells_an_end_from_padding(runs: tuple[Path, dict[str, str]]) -> None:
    assert len(lines(runs, "padding")) == 2
    config = json.loads((runs[0] / "padding" / "export" / "config.json").read_text())
    assert (config["pad_token_id"], config["vocab_size"]) == (SIZE, SIZE + 1)
    said = (
        f"the vocabulary of {runs[0] / 'plain'} grows by <|padding|> for padding: it had only its end token"
    )
    assert said in (runs[0] / "rank-0.log").read_text()


@pytest.mark.parametrize("stage", ["ppo", "rloo"])
def test_a_models_generation_config_does_not_shape_answers(
    stage: str, runs: tuple[Path, dict[str, str]]
) -> None:
    plain, penalty = lines(runs, stage), lines(runs, f"{stage} with a penalty")
    for figure in ("reward", "kl", "tokens"):
        assert [step[figure] for step in penalty] == [step[figure] for step in plain]
    said = f"the generation config of {runs[0] / 'penalty'} is not used for sampling: repetition_penalty=1.5"
    assert said in (runs[0] / "rank-0.log").read_text()


@pytest.mark.parametrize("workload", ["finetune", "chat_sft", "chat_reward", "chat_dpo"])
def test_a_text_begins_as_the_tokenizer_says(workload: str, runs: tuple[Path, dict[str, str]]) -> None:
    """In bytes: <s>, a prompt of 7, answers of 4 and 3, </s>."""
    pair = (1 + 7 + 4 + 1) + (1 + 7 + 3 + 1)
    tokens = pair if workload in ("chat_reward", "chat_dpo") else 1 + 7 + 4 + 1
    assert lines(runs, f"long {workload}")[0]["tokens"] == 4 * tokens


def test_prompts_begin_as_the_tokenizer_says(runs: tuple[Path, dict[str, str]]) -> None:
    first = lines(runs, "ppo")[0]
    assert first["tokens"] - 4 * first["answer_tokens"] == pytest.approx(4 * (1 + 7))


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("ppo, layers gathered", "ppo"),
        ("rloo, layers gathered", "rloo"),
        ("chat_ppo judged under ZeRO-3", "chat_ppo judged"),
        ("chat_ppo judged from the host", "chat_ppo judged"),
        ("chat_rl judged under ZeRO-3", "chat_rl judged"),
    ],
)
def test_where_weights_are_changes_nothing(name: str, same: str, runs: tuple[Path, dict[str, str]]) -> None:
    for figure in ("reward", "kl"):
        rewards = [step[figure] for step in lines(runs, same)]
        assert [step[figure] for step in lines(runs, name)] == pytest.approx(rewards, rel=1e-4, abs=1e-6)
        assert len(set(rewards)) == 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("other tokens", "its tokens are not those of the policy (42 differ, such as 'word"),
        ("no room", "--max-new-tokens 64 leaves no room for a prompt: the model has 64 positions"),
        ("all long finetune", "all 38 examples are left out: they are longer than 24 tokens"),
        ("all long chat_sft", "all 38 examples are left out: they are longer than 24 tokens"),
        ("all long chat_reward", "all 38 examples are left out: they are longer than 24 tokens"),
        ("all long chat_ppo", "all 38 examples are left out: their prompts are longer than 24 tokens"),
        ("all long chat_rl", "all 38 examples are left out: their prompts are longer than 24 tokens"),
    ],
)
def test_what_cannot_work_is_said_before_the_first_step(
    name: str, message: str, runs: tuple[Path, dict[str, str]]
) -> None:
    assert runs[1][name].startswith("64: ")
    assert message in runs[1][name]


@pytest.mark.parametrize(
    "name", ["long finetune", "long chat_sft", "long chat_reward", "long chat_dpo", "ppo", "rloo"]
)
def test_examples_that_are_left_out_are_counted(name: str, runs: tuple[Path, dict[str, str]]) -> None:
    (event,) = lines(runs, name, "left_out")
    assert event["training"] + event["held_out"] == 40
    assert len(lines(runs, name)) == 2


@pytest.mark.parametrize("workload", ["finetune", "chat_sft", "chat_dpo"])
def test_examples_that_are_cut_are_counted(workload: str, runs: tuple[Path, dict[str, str]]) -> None:
    (event,) = lines(runs, f"cut {workload}", "cut")
    assert (event["training"] + event["held_out"], event["tokens"]) == (20, 24)
    assert lines(runs, f"long {workload}", "cut") == []
    said = "20 of 40 examples are cut: they are longer than 24 tokens, and their ends are not learned"
    assert (runs[0] / "rank-0.log").read_text().count(said) == 3


def test_a_mixture_of_experts_without_a_balancing_loss_is_named(runs: tuple[Path, dict[str, str]]) -> None:
    assert [len(lines(runs, f"mixture {w}")) for w in ("finetune", "chat_sft")] == [2, 2]
    said = "the 4 experts are trained without a load-balancing loss (router_aux_loss_coef is 0)"
    assert (runs[0] / "rank-0.log").read_text().count(said) == 2
