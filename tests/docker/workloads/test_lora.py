"""Adapters on real ranks: they alone learn, alone and merged they are the same model, however a step is cut.

One rank trains without ZeRO; two train with ZeRO-3, are interrupted and go on; both give the same adapters. The runs
are of few processes (cuts.py).
"""

from __future__ import annotations

import argparse
import json
import types
from typing import TYPE_CHECKING, Any

import pytest

torch = pytest.importorskip("torch", reason="torch is only installed where jobs run")
pytest.importorskip("trl", reason="the train extra is not installed")

from workloads import architectures, export, lora  # noqa: E402
from workloads.session import Stop  # noqa: E402

from tests.docker.workloads import ranks, tiny  # noqa: E402
from tests.docker.workloads.test_chat import launcher  # noqa: E402

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.deepspeed

MODEL = {**ranks.LLAMA, "num_hidden_layers": 1, "hidden_size": 32, "vocab_size": 300}
CHATML = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
ADAM: dict[str, Any] = {"optimizer": {"type": "AdamW", "params": {"eps": 1e-4}}, "gradient_clipping": 1.0}
WORDS = (
    "--log-every=1",
    "--seq-length=48",
    "--lr=1e-2",
    "--warmup-steps=1",
    "--min-lr=1e-3",
    "--lora-rank=4",
)
STEPS = ("--max-steps=4", "--checkpoint-every=2", "--eval-every=4", "--merge")
ROWS = 40  # of which two are held out
STILL = ("--max-steps=1", "--eval-every=1", "--lr=1e-30", "--min-lr=0")  # nothing is learned
EPOCHS = 10  # steps of 2 epochs of 38 examples, 8 a step
FORMS = ("finetune", "chat_sft")


def rows() -> dict[str, list[dict[str, Any]]]:
    asked = [(f"{n} and {m}?", f"it is {n + m}.") for n in range(8) for m in range(5)]
    messages = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in asked]
    return {
        "prompts": [{"prompt": q, "completion": a} for q, a in asked],
        "messages": [{"conversation": turns} for turns in messages],
        "pairs": [{"prompt": q, "chosen": a, "rejected": "no"} for q, a in asked],
        "pairs of messages": [
            {"chosen": turns, "rejected": [turns[0], {"role": "assistant", "content": "no"}]}
            for turns in messages
        ],
    }


def cases(folder: Path, size: int) -> list[dict[str, Any]]:
    """Two ranks take micro batches of two, one rank takes a step as one micro batch."""
    talk = ("--columns", "messages=conversation", f"--chat-template={folder / 'chat template.jinja'}")
    template = talk[2]

    def case(name: str, workload: str, data: str, *words: str, stage: int = 3, **more: Any) -> dict[str, Any]:
        cut = ranks.deepspeed(1, 0, 8, **ADAM) if size == 1 else ranks.deepspeed(2, stage, 2, 2, **ADAM)
        place = [f"--model={folder / 'model'}", f"--data={folder / f'{data}.jsonl'}"]
        return {
            "workload": workload,
            "run_dir": str(folder / f"{name} {size}"),
            "config": cut,
            "words": [*place, *WORDS, *words],
            **more,
        }

    both = [
        case("finetune", "finetune", "prompts", *STEPS),
        case("chat_sft", "chat_sft", "messages", *STEPS, *talk),
    ]
    recomputed = "--activation-checkpointing"
    if size == 2:
        return [
            *({**one, "stop_before": 4} for one in both),
            *both,
            case("ZeRO-2", "finetune", "prompts", *STEPS, recomputed, stage=2),
            case("recomputed", "chat_sft", "messages", *STEPS, *talk, recomputed),
        ]
    few = ("--max-steps=2", "--merge")
    return [
        *both,
        case("reward", "chat_reward", "pairs", *few),
        case("dpo", "chat_dpo", "pairs of messages", *few, template),
        *(case(f"epochs {w}", w, "prompts", "--epochs=2") for w in FORMS),
        *(case(f"packed {w}", w, "prompts", "--epochs=3", "--packing", "--eval-every=2") for w in FORMS),
        *(case(f"still {w}", w, "prompts", *STILL) for w in FORMS),
        *(case(f"still packed {w}", w, "prompts", *STILL, "--packing") for w in FORMS),
        case("no such layer", "finetune", "prompts", "--lora-targets", "q_proj", "w_proj"),
        case("no template", "chat_sft", "messages", *talk[:2]),
        case("no rank", "finetune", "prompts", "--lora-rank=0", "--merge", "--lora-alpha=3"),
        case("both", "chat_dpo", "pairs", "--epochs=2", "--max-steps=2"),
    ]


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The folder of all runs, and what each ended with."""
    folder = tmp_path_factory.mktemp("lora")
    tiny.save(folder / "model", MODEL)
    (folder / "chat template.jinja").write_text(CHATML)
    for name, lines in rows().items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    started = []
    for size in (1, 2):
        started.append(ranks.start_cases(folder / f"{size} ranks", size, cases(folder, size)))
    ended: dict[str, str] = {}
    for run in started:
        assert set(run.wait(2 * ranks.TIMEOUT)) == {0}, run.output()
        told = [line.partition(" ended with ") for line in run.output(0).splitlines()]
        ended |= {name.rpartition("/")[2]: end for name, _, end in told if end}
    return folder, ended


def steps(runs: tuple[Path, dict[str, str]], name: str, event: str | None = None) -> list[dict[str, Any]]:
    """The lines of a run; of a step that was repeated, the later one."""
    assert runs[1][name] == "0", runs[1][name]
    read = map(json.loads, (runs[0] / name / "metrics.jsonl").read_text().splitlines())
    return list({line["step"]: line for line in read if line.get("event") == event}.values())


def weights(folder: Path) -> Any:
    from safetensors.torch import load_file

    return load_file(next(iter(folder.glob("*model.safetensors"))))


@pytest.mark.parametrize("name", FORMS)
def test_zero_3_on_two_ranks_learns_what_one_rank_learns_also_when_it_is_resumed(
    name: str, runs: tuple[Path, dict[str, str]]
) -> None:
    whole, cut = steps(runs, f"{name} 1"), steps(runs, f"{name} 2")
    assert [line["step"] for line in cut] == [1, 2, 3, 4]
    for figure in ("loss", "lr", "tokens"):
        assert [line[figure] for line in cut] == pytest.approx([line[figure] for line in whole], rel=1e-4)
    assert whole[-1]["loss"] < whole[0]["loss"] - 0.02
    assert steps(runs, f"{name} 2", "start")[-1]["resumed_from"] == "checkpoint-2"
    assert steps(runs, f"{name} 2", "eval")[0]["loss"] == pytest.approx(
        steps(runs, f"{name} 1", "eval")[0]["loss"], rel=1e-4
    )
    for part in ("adapter", "export"):
        one, two = (weights(runs[0] / f"{name} {size}" / part) for size in (1, 2))
        assert one.keys() == two.keys()
        for key in one:
            torch.testing.assert_close(
                two[key], one[key], rtol=0, atol=5e-5, msg=lambda m, k=key: f"{k}: {m}"
            )


@pytest.mark.parametrize(("name", "same"), [("ZeRO-2", "finetune"), ("recomputed", "chat_sft")])
def test_recomputed_activations_change_nothing(
    name: str, same: str, runs: tuple[Path, dict[str, str]]
) -> None:
    found, expected = ([line["loss"] for line in steps(runs, run)] for run in (f"{name} 2", f"{same} 1"))
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    "name", ["finetune 1", "finetune 2", "chat_sft 1", "chat_sft 2", "ZeRO-2 2", "dpo 1"]
)
def test_adapters_alone_and_merged_are_the_same_model(name: str, runs: tuple[Path, dict[str, str]]) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert runs[1][name] == "0"
    base, place = AutoModelForCausalLM.from_pretrained(runs[0] / "model"), runs[0] / name
    ids = torch.arange(2, 42)[None]
    with torch.no_grad():
        plain = base(ids).logits
        adapted = PeftModel.from_pretrained(base, place / "adapter")(ids).logits
        merged = AutoModelForCausalLM.from_pretrained(place / "export")(ids).logits
    torch.testing.assert_close(merged, adapted, rtol=0, atol=2e-5)
    assert (merged - plain).abs().max() > 1e-3
    names = {path.name for path in (place / "adapter").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= names
    assert AutoTokenizer.from_pretrained(place / "adapter").get_vocab()
    settings = json.loads((place / "adapter" / "adapter_config.json").read_text())
    assert (settings["base_model_name_or_path"], settings["r"], settings["lora_alpha"]) == (
        str(runs[0] / "model"),
        4,
        8,
    )


@pytest.mark.parametrize("name", ["finetune 1", "finetune 2", "chat_sft 2"])
def test_adapters_alone_change(name: str, runs: tuple[Path, dict[str, str]]) -> None:
    assert runs[1][name] == "0"
    before, after = weights(runs[0] / "model"), weights(runs[0] / name / "export")
    adapters = weights(runs[0] / name / "adapter")
    for key, weight in before.items():
        adapted = any(f".{key.removesuffix('.weight')}.lora_A" in other for other in adapters)
        assert adapted == key.endswith("_proj.weight")
        assert torch.equal(weight, after[key]) != adapted, key
    summary = json.loads((runs[0] / name / "summary.json").read_text())
    assert summary["trained_parameters"] == sum(weight.numel() for weight in adapters.values())
    assert summary["parameters"] == summary["trained_parameters"] + sum(w.numel() for w in before.values())


def test_a_reward_model_keeps_its_new_layer_with_the_adapters(runs: tuple[Path, dict[str, str]]) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    assert runs[1]["reward 1"] == "0"
    kind, place = AutoModelForSequenceClassification, runs[0] / "reward 1"
    whole = weights(place / "export")
    assert not [key for key in whole if "original" in key or "lora" in key]
    ids = torch.arange(2, 42)[None]
    base = kind.from_pretrained(runs[0] / "model", num_labels=1, pad_token_id=0)
    with torch.no_grad():
        adapted = PeftModel.from_pretrained(base, place / "adapter")(ids).logits
        merged = kind.from_pretrained(place / "export")(ids).logits
    torch.testing.assert_close(merged, adapted, rtol=0, atol=2e-5)


@pytest.mark.parametrize("workload", FORMS)
def test_epochs_are_steps_and_the_schedule_ends_with_them(
    workload: str, runs: tuple[Path, dict[str, str]]
) -> None:
    lines = steps(runs, f"epochs {workload} 1")
    assert [line["step"] for line in lines] == list(range(1, EPOCHS + 1))
    assert {line["max_steps"] for line in lines} == {EPOCHS}
    rates = [line["lr"] for line in lines]
    assert rates[1] == max(rates) == pytest.approx(1e-2, rel=0.05)
    assert rates[-1] == min(rates) == pytest.approx(1e-3)
    assert steps(runs, f"epochs {workload} 1", "start")[0]["max_steps"] == EPOCHS


@pytest.mark.parametrize("workload", FORMS)
def test_packs_learn_too(workload: str, runs: tuple[Path, dict[str, str]]) -> None:
    lines, plain = (steps(runs, f"{kind} {workload} 1") for kind in ("packed", "epochs"))
    # two examples of 21 tokens are in each of 19 packs of 48
    assert lines[0]["tokens"] > 1.8 * plain[0]["tokens"]
    assert len(lines) == -(-3 * 19 // 8)
    assert lines[0]["loss"] == pytest.approx(plain[0]["loss"], abs=0.1)
    assert lines[-1]["loss"] < lines[0]["loss"] - 0.02
    evaluated = steps(runs, f"packed {workload} 1", "eval")
    assert evaluated[-1]["loss"] < evaluated[0]["loss"]


@pytest.mark.parametrize("workload", FORMS)
def test_packed_examples_have_the_loss_that_they_have_alone(
    workload: str, runs: tuple[Path, dict[str, str]]
) -> None:
    (packed,), (alone,) = (steps(runs, f"{kind} {workload} 1", "eval") for kind in ("still packed", "still"))
    assert packed["loss"] == pytest.approx(alone["loss"], rel=1e-6)  # of both held-out examples, in one pack


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "no such layer 1",
            "--lora-targets w_proj: no linear layer of the model is called so; it has q_proj, k_proj, v_proj, o_proj, "
            "gate_proj, up_proj, down_proj",
        ),
        ("no template 1", "messages need a chat template, and tokenizer"),
        ("no rank 1", "--lora-alpha, --merge without adapters: give --lora-rank, such as 16"),
        ("both 1", "--epochs 2 and --max-steps 2 are both given: leave one out"),
    ],
)
def test_what_cannot_work_is_said_before_the_first_step(
    name: str, message: str, runs: tuple[Path, dict[str, str]]
) -> None:
    assert runs[1][name].startswith("64: ")
    assert message in runs[1][name]
    assert not (runs[0] / name / "summary.json").exists()


def test_the_job_of_the_twin_trains_and_leaves_adapters_and_a_model(tmp_path: Path) -> None:
    words = ("local", "jobs/smoke/finetune-lora.yaml", "--wait", "--set", "args.epochs=0.2")
    launcher(tmp_path, *words)
    (run,) = tmp_path.glob("smoke-finetune-lora-*")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["event"] == "end"
    assert lines[-1]["status"] == "done"
    assert (run / "adapter" / "adapter_model.safetensors").exists()
    assert (run / "export" / "model.safetensors").exists()


def options(**given: Any) -> argparse.Namespace:
    defaults = {"lora_rank": 4, "lora_alpha": None, "lora_targets": [lora.ALL], "merge": False, "seed": 0}
    return argparse.Namespace(**{**defaults, "activation_checkpointing": False, **given})


def small(**more: Any) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    return AutoModelForCausalLM.from_config(AutoConfig.for_model(**{**MODEL, **more}))


def test_only_adapters_have_gradients() -> None:
    stage: Any = types.SimpleNamespace(
        args=options(lora_targets=["q_proj", "up_proj"], lora_dropout=0.5), config={}
    )
    model = lora.attach(small(), stage)
    ids = torch.arange(12)[None]
    model(input_ids=ids, labels=ids).loss.backward()
    having = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert having == {name for name, _ in model.named_parameters() if ".lora_" in name}
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in having} == {"q_proj", "up_proj"}
    assert model.peft_config["default"].lora_dropout == 0.5


MIXTURES = [
    {"model_type": "mixtral", "num_local_experts": 4},
    {"model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
]


@pytest.mark.parametrize("mixture", MIXTURES, ids=lambda mixture: mixture["model_type"])
def test_adapters_of_experts_are_merged_too(mixture: dict[str, Any], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM
    from workloads import tokenizer

    stage: Any = types.SimpleNamespace(args=options(), config={})
    adapted = lora.attach(small(**mixture), stage).eval()
    for name, parameter in adapted.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter, std=0.1)
    assert any("experts" in name for name, p in adapted.named_parameters() if p.requires_grad)
    alone: Any = types.SimpleNamespace(rank=0, run_dir=tmp_path, first=lambda work: work())
    ids = torch.arange(12)[None]
    with torch.no_grad():
        wanted = adapted(input_ids=ids).logits
        architectures.export(adapted, tokenizer.existing("bytes"), alone)
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "export").eval()
        torch.testing.assert_close(merged(input_ids=ids).logits, wanted, atol=1e-5, rtol=0)


def test_dropout_before_adapters_of_experts_is_refused() -> None:
    with pytest.raises(Stop, match="--lora-dropout: peft's adapters of experts cannot have it"):
        lora.config(options(lora_dropout=0.1), small(**MIXTURES[0]))
    assert lora.config(options(lora_dropout=0.1, lora_targets=["q_proj"]), small(**MIXTURES[0]))


@pytest.mark.parametrize("targets", [["layers.0.mlp.up_proj"], ["o_proj", "down_proj"]])
def test_targets_that_there_are(targets: list[str]) -> None:
    lora.check_targets(targets, small())


@pytest.mark.parametrize(
    "targets", [["proj"], ["norm"], ["embed_tokens"], ["lm_head"], [""], [lora.ALL, "q_proj"]]
)
def test_targets_that_there_are_not(targets: list[str]) -> None:
    with pytest.raises(Stop, match="q_proj, k_proj, v_proj"):
        lora.check_targets(targets, small())


def test_a_checkpoint_with_adapters_is_not_exported_without_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """PPO's checkpoints have the weights and the adapters, by one module's names."""
    stage: Any = types.SimpleNamespace(args=options(), config={})
    adapted = lora.attach(small(), stage).state_dict()
    kept = {architectures.plain_name(name): tensor for name, tensor in adapted.items()}
    monkeypatch.setattr(export, "states", lambda _: kept)
    monkeypatch.setattr(export, "skeleton", lambda _: (small(), None))
    monkeypatch.setattr("workloads.export.digests.damaged", lambda *_: [])
    identity = types.SimpleNamespace(precision="fp32")
    checkpoint: Any = types.SimpleNamespace(path=tmp_path / "step-1", digests={}, identity=identity)
    with pytest.raises(Stop, match=r"step-1 has LoRA's adapters beside the weights.*args\.merge"):
        export.export(checkpoint, tmp_path / "out")
    assert not list(tmp_path.iterdir())
