"""What of each form of example is learned: answers and their end, and never a prompt."""

from __future__ import annotations

import argparse
import types
from typing import Any

import pytest

transformers = pytest.importorskip("transformers", reason="the train extra is not installed")

from workloads import formats, labels, tokenizer  # noqa: E402
from workloads.session import Stop  # noqa: E402
from workloads.stages import IGNORED  # noqa: E402

from tests.docker.workloads.test_turns import CHATML  # noqa: E402

pytestmark = pytest.mark.torch


def by(template: str | None = None) -> Any:
    made = tokenizer.existing("bytes")
    made.add_special_tokens({"eos_token": "</s>"})
    made.chat_template = template
    return made


def learned(
    row: Any, template: str | None = None, length: int = 100, encoder: bool = False
) -> tuple[str, str]:
    """What is read, and what of it is learned."""
    own, example = by(template), formats.example(row, "--data f.jsonl:7", formats.ANSWERS, {})
    made = labels.tokens(example, own, length, encoder)
    assert made["attention_mask"] == [1] * len(made["input_ids"])
    if not encoder:
        pairs = zip(made["input_ids"], made["labels"], strict=True)
        assert all(label in (token, IGNORED) for token, label in pairs)
    return own.decode(made["input_ids"]), own.decode([label for label in made["labels"] if label != IGNORED])


ALPACA = {"instruction": "Add.", "input": "2 2", "output": "4"}


@pytest.mark.parametrize(
    ("row", "template", "expected"),
    [
        ({"prompt": "ab ", "completion": "cd"}, None, ("ab cd</s>", "cd</s>")),
        ({"prompt": "ab ", "completion": "cd"}, CHATML, ("ab cd</s>", "cd</s>")),
        ({"text": "ab cd"}, None, ("ab cd</s>", "ab cd</s>")),
        (
            ALPACA,
            None,
            ("### Instruction:\nAdd.\n\n### Input:\n2 2\n\n### Response:\n4</s>", "4</s>"),
        ),
        ({**ALPACA, "input": ""}, None, ("### Instruction:\nAdd.\n\n### Response:\n4</s>", "4</s>")),
        (ALPACA, CHATML, ("<user>Add.\n\n2 2<end>\n<assistant>4<end>\n", "4<end>\n")),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
            CHATML,
            ("<user>a<end>\n<assistant>b<end>\n", "b<end>\n"),
        ),
    ],
)
def test_answers_alone_are_learned(row: Any, template: str | None, expected: tuple[str, str]) -> None:
    assert learned(row, template) == expected


def test_an_encoder_decoder_reads_the_prompt_and_writes_the_answer() -> None:
    assert learned({"prompt": "ab", "completion": "cd"}, encoder=True) == ("ab</s>", "cd</s>")
    assert learned(ALPACA, CHATML, encoder=True)[1] == "4</s>"
    for row in (
        {"text": "a"},
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
    ):
        with pytest.raises(Stop, match=r"f\.jsonl:7: an encoder-decoder needs a prompt to read"):
            learned(row, CHATML, encoder=True)


def test_examples_without_a_label_are_left_out_before_the_first_step() -> None:
    told = []
    rows = [{"prompt": "a", "completion": "b"}, {"prompt": "a" * 20, "completion": "b"}]
    examples = [formats.example(row, "", formats.ANSWERS, {}) for row in rows]
    from workloads import stages

    stage: Any = stages.Stage(
        args=argparse.Namespace(packing=False, seq_length=8, eval_every=0),
        this=types.SimpleNamespace(together=lambda work: work()),  # type: ignore[arg-type]
        log=types.SimpleNamespace(event=lambda *_, **more: told.append(more), say=lambda *_: None),  # type: ignore[arg-type]
        config={},
        size=None,  # type: ignore[arg-type]
        settings=transformers.PretrainedConfig(),
        model="",
        tokenizer=by(),
        training=examples,
        held_out=examples[:1],
    )
    made = labels.encoded(stage)
    assert (len(made.training), len(made.held_out)) == (1, 1)
    assert [(line["training"], line["held_out"]) for line in told] == [(1, 0)]
    assert len(made.training[0]["input_ids"]) == 3


@pytest.mark.parametrize(
    ("known", "wanted"), [(None, [256, 257]), ([256, 9], [9, 256, 257]), ([257, 256], [257, 256])]
)
def test_generation_ends_where_answers_do(known: list[int] | None, wanted: list[int]) -> None:
    own = by(CHATML)
    own.add_tokens(["<end>"], special_tokens=True)
    stage: Any = types.SimpleNamespace(tokenizer=own, answers_end=own.convert_tokens_to_ids("<end>"))
    model: Any = types.SimpleNamespace(generation_config=transformers.GenerationConfig(eos_token_id=known))
    labels.end_with(model, stage)
    assert model.generation_config.eos_token_id == wanted
