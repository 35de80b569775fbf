"""Batch generation with real ranks: train, export, load and generate; every engine gives the same text."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from tests.docker.workloads import ranks

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.deepspeed

PROMPTS = [
    f"{word} statement" for word in ("An assert", "The if", "A del", "x", "Return and yield", "For é", "No")
]
ARGS = ("--max-new-tokens=8", "--part-size=3")
NO_ZERO, ZERO = ranks.deepspeed(2, stage=0, micro=2), ranks.deepspeed(2, stage=3, micro=2)


@pytest.fixture(scope="session")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    path.write_text("".join(json.dumps({"id": f"p{n}", "prompt": p}) + "\n" for n, p in enumerate(PROMPTS)))
    return path


@pytest.fixture(scope="session")
def reference(exported: Path) -> list[str]:
    """What transformers alone says, one prompt after the other."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, by = AutoModelForCausalLM.from_pretrained(exported), AutoTokenizer.from_pretrained(exported)
    texts = []
    for prompt in PROMPTS:
        ids = by(prompt, return_tensors="pt")
        rows = model.generate(**ids, max_new_tokens=8, do_sample=False, pad_token_id=0)
        texts.append(by.decode(rows[0, ids.input_ids.shape[1] :]))
    return texts


def start(
    folder: Path, model: Path, prompts: Path, *args: str, config: dict[str, Any] = NO_ZERO
) -> ranks.Ranks:
    size = config["train_batch_size"] // 2
    words = (f"--prompts={prompts}", *ARGS, *args)
    return ranks.start(folder, size, config, *words, model=str(model), workload="generate")


def rows(run: ranks.Ranks) -> list[dict[str, Any]]:
    parts = sorted((run.run_dir / "generated").glob("part-*.jsonl"))
    return [json.loads(line) for part in parts for line in part.read_text().split("\n") if line]


@pytest.mark.parametrize(("engine", "config"), [("tensor-parallel", NO_ZERO), ("zero", ZERO)])
def test_a_model_over_several_ranks_says_what_a_whole_one_says(
    engine: str, config: dict[str, Any], exported: Path, prompts: Path, reference: list[str], tmp_path: Path
) -> None:
    run = start(tmp_path, exported, prompts, f"--engine={engine}", config=config)
    assert run.wait() == [0, 0], run.output()
    made = rows(run)
    assert [row["index"] for row in made] == list(range(len(PROMPTS)))
    assert [row["id"] for row in made] == [f"p{n}" for n in range(len(PROMPTS))]
    assert [row["completion"] for row in made] == reference
    assert (run.run_dir / "generated/_SUCCESS").exists()


def test_tensor_parallelism_casts_no_buffer(tmp_path: Path) -> None:
    """Rounded to 16 bits, RoPE's frequencies are off by radians at later positions, and so is an embedding's scale."""
    run = ranks.start(tmp_path, 2, {}, module="tests.docker.workloads.cast_rank", given=())
    assert run.wait() == [0, 0], run.output()
    assert [line for line in run.output(0).splitlines() if " buffers, " in line] == [
        "llama torch.float16: 2 buffers, each as loaded",
        "llama torch.bfloat16: 2 buffers, each as loaded",
        "gemma3_text torch.float16: 3 buffers, each as loaded",
        "gemma3_text torch.bfloat16: 3 buffers, each as loaded",
    ]


def test_missing_parts_are_made_on_any_number_of_ranks(
    exported: Path, prompts: Path, reference: list[str], tmp_path: Path
) -> None:
    run = start(tmp_path, exported, prompts)
    assert run.wait() == [0, 0], run.output()
    folder = run.run_dir / "generated"
    assert sorted(path.name for path in folder.glob("part-*")) == [f"part-0000{n}.jsonl" for n in range(3)]
    assert [row["completion"] for row in rows(run)] == reference
    summary = json.loads((run.run_dir / "summary.json").read_text())
    assert (summary["prompts"], summary["generated_now"], summary["tokens_now"]) == (7, 7, 56)

    (folder / "part-00001.jsonl").unlink()
    (folder / "_SUCCESS").unlink()
    before = (folder / "part-00000.jsonl").stat().st_mtime_ns
    again = start(tmp_path, exported, prompts, config=ranks.deepspeed(1, stage=0, micro=2))
    assert again.wait() == [0], again.output()
    assert [row["completion"] for row in rows(again)] == reference
    assert (folder / "part-00000.jsonl").stat().st_mtime_ns == before
    assert (folder / "_SUCCESS").exists()
    assert json.loads((run.run_dir / "summary.json").read_text())["generated_now"] == 3

    other = start(tmp_path, exported, prompts, "--seed=1", config=ranks.deepspeed(1, stage=0, micro=2))
    assert other.wait() == [64]
    assert "holds text of another seed: give this run another folder" in other.output()


def test_mistakes_are_told_in_one_line(exported: Path, prompts: Path, tmp_path: Path) -> None:
    one = ranks.deepspeed(1, stage=0, micro=2)
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"prompt": "fine"}\n{"text": "no prompt"}\n')
    bare = tmp_path / "bare"
    shutil.copytree(exported, bare, ignore=shutil.ignore_patterns("*.safetensors"))
    cases = [
        (
            start(tmp_path / "a", exported, broken, config=one),
            f'{broken}:2: not a JSON object with a "prompt"',
        ),
        (
            start(tmp_path / "b", bare, prompts, config=one),
            "has no trained weights: name a folder that pretrain",
        ),
        (start(tmp_path / "c", exported, prompts, "--engine=zero", config=one), "use a ZeRO-3 config"),
    ]
    for run, message in cases:
        assert run.wait() == [64], run.output()
        assert message in run.output()
        assert "Traceback" not in run.output()


def test_prompts_that_do_not_fit_are_named_before_a_model_is_loaded(exported: Path, tmp_path: Path) -> None:
    """One such prompt would end the run in the middle, on one rank: GPT-2 has no embedding for its last tokens."""
    long, fits = "x" * 57, "y" * 56  # 64 positions, 8 of them for new tokens
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in (fits, long, fits, long + "z")))
    broken = tmp_path / "broken"  # whoever loads it fails with other words
    shutil.copytree(exported, broken)
    (broken / "model.safetensors").write_bytes(b"no weights")
    run = start(tmp_path, broken, path)
    assert run.wait() == [64, 64], run.output()
    assert run.output(0).splitlines()[-4:] == [
        "generate: error: 2 prompts cannot be used",
        f"{path}:2: 57 tokens and --max-new-tokens 8 are 65",
        f"{path}:4: 58 tokens and --max-new-tokens 8 are 66",
        "the model has 64 positions: shorten these prompts, lower --max-new-tokens to 6, or take a model with more",
    ]
    assert not rows(run)


def test_a_part_that_cannot_be_written_ends_every_rank(exported: Path, tmp_path: Path) -> None:
    """Also the rank that has more parts to write, and could."""
    import resource

    path = tmp_path / "prompts.jsonl"
    texts = [{"prompt": "x", "id": "y" * 100_000}, *({"prompt": "z"} for _ in range(3))]
    path.write_text("".join(json.dumps(row) + "\n" for row in texts))
    run = ranks.start(
        *(tmp_path, 2, NO_ZERO, f"--prompts={path}", "--max-new-tokens=2", "--part-size=1"),
        model=str(exported),
        workload="generate",
        before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)),
    )
    assert run.wait() == [74, 74], run.output()
    (message,) = [line for line in run.output().splitlines() if line.startswith("generate: error: ")]
    assert message.endswith("part-00000.jsonl could not be written: [Errno 27] File too large")
    assert sorted(file.name for file in (run.run_dir / "generated").glob("*part*")) == [
        "part-00001.jsonl",
        "part-00003.jsonl",
    ]


def test_text_begins_as_the_tokenizer_begins_it(talkative: Path, prompts: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, folder = AutoModelForCausalLM.from_pretrained(talkative), begins(talkative, tmp_path / "model")
    own = AutoTokenizer.from_pretrained(folder)
    ids = own(PROMPTS[0], return_tensors="pt").input_ids
    assert ids[0, 0] == own.bos_token_id
    with_bos, without = (
        own.decode(model.generate(row, max_new_tokens=8, do_sample=False, pad_token_id=0)[0, row.shape[1] :])
        for row in (ids, ids[:, 1:])
    )
    run = start(tmp_path, folder, prompts, config=ranks.deepspeed(1, stage=0, micro=2))
    assert run.wait() == [0], run.output()
    assert rows(run)[0]["completion"] == with_bos != without


def begins(model: Path, folder: Path) -> Path:
    """The model with a tokenizer that begins each text with a token of its own, as LLaMA's do."""
    from tokenizers import processors
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    shutil.copytree(model, folder)
    backend = AutoTokenizer.from_pretrained(model).backend_tokenizer
    backend.add_special_tokens(["<s>"])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", backend.token_to_id("<s>"))]
    )
    PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>").save_pretrained(folder)
    return folder


SAMPLED = ("--temperature=1.5", "--top-p=0.95", "--seed=3")


def test_sampled_text_depends_on_the_seed_and_the_prompt_alone(
    talkative: Path, prompts: Path, tmp_path: Path
) -> None:
    """Not on the micro batch, the ranks or the engine, so that a run that is resumed otherwise mixes nothing."""
    cases = {
        "alone": ((), ranks.deepspeed(1, stage=0, micro=1)),
        "together": ((), ranks.deepspeed(1, stage=0, micro=8)),
        "tensor-parallel": (("--engine=tensor-parallel",), NO_ZERO),
        "zero": (("--engine=zero",), ZERO),
    }
    texts = {}
    for name, (words, config) in cases.items():
        size = config["train_batch_size"] // config["train_micro_batch_size_per_gpu"]
        words = (f"--prompts={prompts}", *ARGS, *SAMPLED, *words)
        run = ranks.start(tmp_path / name, size, config, *words, model=str(talkative), workload="generate")
        assert run.wait() == [0] * size, run.output()
        texts[name] = [row["completion"] for row in rows(run)]
    assert len(set(texts["alone"])) == len(PROMPTS)
    assert all(text == texts["alone"] for text in texts.values()), texts


def test_the_model_folders_generation_settings_do_not_shape_text(
    exported: Path, prompts: Path, reference: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(exported, folder)
    shaping = {"do_sample": True, "repetition_penalty": 5.0, "no_repeat_ngram_size": 1, "min_new_tokens": 2}
    (folder / "generation_config.json").write_text(json.dumps(shaping))
    run = start(tmp_path, folder, prompts, config=ranks.deepspeed(1, stage=0, micro=2))
    assert run.wait() == [0], run.output()
    assert [row["completion"] for row in rows(run)] == reference
    assert "is not used for sampling: " in run.output()
    assert "repetition_penalty=5.0" in run.output()


def test_text_of_another_recipe_is_not_continued(exported: Path, prompts: Path, tmp_path: Path) -> None:
    from workloads import generate, session, tokenizer
    from workloads import prompts as prompt_files
    from workloads.parts import begin, split

    model = tmp_path / "model"
    shutil.copytree(exported, model)
    given = ("--deepspeed-config=x", "--run-dir=x", f"--model={model}", f"--prompts={prompts}", *ARGS)
    own, other = (tokenizer.existing(str(folder)) for folder in (model, begins(model, tmp_path / "other")))
    parts = split(prompt_files.read(prompts), 3)

    def recipe(*words: str, config: dict[str, Any] = NO_ZERO, tokens: Any = own) -> dict[str, Any]:
        return generate.recipe(generate.parser().parse_args([*given, *words]), config, parts, tokens)

    first = recipe()
    changed = {
        "precision": recipe(config={**NO_ZERO, "bf16": {"enabled": True}}),
        "random weights": recipe("--random-weights"),
        "tokenizer": recipe(tokens=other),
        "temperature, top p": recipe("--temperature=1", "--top-p=.5"),
    }
    trained_on = bytearray((model / "model.safetensors").read_bytes())
    trained_on[-1] ^= 1
    (model / "model.safetensors").write_bytes(trained_on)
    changed["weights"] = recipe()
    assert begin(tmp_path / "generated", first, parts) == [0, 1, 2]
    for what, wanted in changed.items():
        with pytest.raises(session.Stop, match=f"holds text of another {what}: give this run another folder"):
            begin(tmp_path / "generated", wanted, parts)
    assert begin(tmp_path / "generated", first, parts) == [0, 1, 2]
