"""Batch generation with real ranks: train, export, load and generate; every engine gives the same text."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from workloads import generate, session

from tests.workloads import ranks

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.deepspeed, pytest.mark.xdist_group("generate")]  # its runs build on each other

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
    return [json.loads(line) for part in parts for line in part.read_text().splitlines()]


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
    run = ranks.start(tmp_path, 2, {}, module="tests.workloads.cast_rank", given=())
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
    assert "holds text made with another seed: give this run another folder" in other.output()


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
        assert message in run.output().splitlines()[-1]


def test_lines_of_text_are_prompts_and_parts_keep_their_order(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("one\n\n  two \nthree\n")
    found = generate.read(path)
    assert found == [{"prompt": "one"}, {"prompt": "  two "}, {"prompt": "three"}]
    first, second = generate.split(found, 2)
    assert (first.first, second.first, second.rows) == (0, 2, [{"prompt": "three"}])
    path.write_text("\n")
    with pytest.raises(session.Stop, match="there is no prompt"):
        generate.split(generate.read(path), 2)
