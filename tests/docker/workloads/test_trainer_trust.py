"""A sample of the Trainer's is the same numbers however its batch is padded, packed and cut."""

from __future__ import annotations

import types
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is only installed where jobs run")

from workloads import replicas, trainer_trust  # noqa: E402
from workloads.stages import IGNORED  # noqa: E402

pytestmark = pytest.mark.deepspeed
EXAMPLES = [
    ([5, 6, 7], [IGNORED, 6, 7]),
    ([8, 9], [IGNORED, 9]),
    ([8, 9], [8, 9]),
    ([1, 2, 3, 4], [IGNORED] * 4),
]


def padded(
    examples: list[tuple[list[int], list[int]]], width: int = 0, side: str = "right"
) -> dict[str, Any]:
    width = max(width, *(len(tokens) for tokens, _ in examples))

    def fill(values: list[int], by: int) -> list[int]:
        rest = [by] * (width - len(values))
        return values + rest if side == "right" else rest + values

    return {
        "input_ids": torch.tensor([fill(tokens, 0) for tokens, _ in examples]),
        "attention_mask": torch.tensor([fill([1] * len(tokens), 0) for tokens, _ in examples]),
        "labels": torch.tensor([fill(labels, IGNORED) for _, labels in examples]),
    }


def packed(examples: list[tuple[list[int], list[int]]]) -> dict[str, Any]:
    """As TRL's collator has them without padding."""
    tokens, labels = ([value for one in examples for value in one[part]] for part in (0, 1))
    positions = [place for ids, _ in examples for place in range(len(ids))]
    values = {"input_ids": tokens, "labels": labels, "position_ids": positions}
    return {key: torch.tensor([value]) for key, value in values.items()}


def rows(*batches: dict[str, Any]) -> list[list[int]]:
    return sorted(row.tolist() for batch in batches for row in trainer_trust.samples(batch))


def test_padding_is_no_part_of_a_sample() -> None:
    whole = rows(padded(EXAMPLES))
    assert whole == rows(
        padded(EXAMPLES[:1]), padded(EXAMPLES[1:3], width=7), padded(EXAMPLES[3:], side="left")
    )
    assert len({tuple(row) for row in whole}) == len(EXAMPLES), "the same tokens, of which others are learned"


def test_packs_are_taken_apart() -> None:
    whole = rows(packed(EXAMPLES))
    assert whole == rows(packed(EXAMPLES[:3]), packed(EXAMPLES[3:]))
    assert len(whole) == len(EXAMPLES)


def test_pairs_differ_in_what_is_an_answer() -> None:
    batch = {"input_ids": torch.tensor([[1, 2, 3]] * 2), "attention_mask": torch.tensor([[1, 1, 1]] * 2)}
    one, other = rows({**batch, "completion_mask": torch.tensor([[0, 0, 1], [0, 1, 1]])})
    assert one != other
    assert rows(batch) == [[1, 2, 3]] * 2


def test_what_computes_hidden_states() -> None:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    from tests.docker.workloads import ranks
    from tests.docker.workloads.test_finetune import T5

    with torch.device("meta"):
        llama = AutoModelForCausalLM.from_config(AutoConfig.for_model(**ranks.LLAMA))
        t5 = AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model(**T5))
    assert replicas._body(llama) is llama.model
    assert replicas._body(types.SimpleNamespace(get_base_model=lambda: llama)) is llama.model
    assert replicas._body(t5) is t5.encoder


def test_a_bit_that_flips_is_seen_in_the_parameters_and_in_what_is_computed() -> None:
    from datasets import Dataset
    from transformers import AutoConfig, AutoModelForCausalLM

    from tests.docker.workloads import ranks

    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**ranks.LLAMA))
    examples = Dataset.from_list([{"input_ids": tokens, "labels": labels} for tokens, labels in EXAMPLES])
    engine = types.SimpleNamespace(
        module=model, eval=model.eval, train=model.train, zero_optimization_stage=lambda: 2
    )
    trainer: Any = types.SimpleNamespace(
        deepspeed=engine,
        model_wrapped=model,
        train_dataset=examples,
        data_collator=lambda rows: padded([(row["input_ids"], row["labels"]) for row in rows]),
        _remove_unused_columns=lambda dataset: dataset,
        _prepare_inputs=lambda batch: batch,
    )
    stage: Any = types.SimpleNamespace(
        this=types.SimpleNamespace(world_size=2),
        args=types.SimpleNamespace(verify_every=5),
        size=types.SimpleNamespace(micro=2),
        log=None,
    )
    compared = trainer_trust.agreement(trainer, stage, lambda model, batch: (model(**batch).loss,))
    assert compared is not None

    def seen() -> list[list[int]]:
        return [look.values.tolist() for look in compared.look()]

    before = seen()
    assert seen() == before
    assert [len(values) for values in before] == [len(list(model.parameters())), len(replicas.COMPUTED)]
    model.model.norm.weight.data.view(torch.int32)[7] ^= 1 << 25
    assert all(one != other for one, other in zip(before, seen(), strict=True))
    assert model.training

    assert trainer_trust.agreement(trainer, stage, None) is None
    stage.args.verify_every = 0
    assert trainer_trust.agreement(trainer, stage, lambda model, batch: ()) is None
