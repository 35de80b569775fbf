"""Other spellings of DeepSpeed's keys are those that its pydantic models take, and mean the same."""

from __future__ import annotations

import pytest

from launcher.deepspeed import spellings

ZERO = "zero_optimization"


def test_a_field_name_is_its_alias() -> None:
    assert spellings.known((ZERO, "prefetch_bucket_size")) == (ZERO, "stage3_prefetch_bucket_size")
    assert spellings.known((ZERO, "stage")) == (ZERO, "stage")
    assert spellings.known((ZERO,)) == (ZERO,)


def test_null_is_none_where_a_model_says_so() -> None:
    assert spellings.may_be_null((ZERO, "offload_optimizer"))
    assert not spellings.may_be_null((ZERO, "stage"))


def test_pydantic_takes_whole_floats() -> None:
    assert spellings.rounds(("fp16", "loss_scale_window"))
    assert not spellings.rounds(("aio", "block_size"))


def test_one_spelling_of_each() -> None:
    written = {ZERO: {"stage": 3, "prefetch_bucket_size": 5}, "steps_per_print": 1}
    assert spellings.canonical(written) == {
        ZERO: {"stage": 3, "stage3_prefetch_bucket_size": 5},
        "steps_per_print": 1,
    }
    assert spellings.canonical({ZERO: False}) == {ZERO: {"stage": 0}}


@pytest.mark.torch
def test_names_and_nulls_are_taken_by_deepspeed() -> None:
    config = pytest.importorskip("deepspeed.runtime.zero.config", reason="it is the judge")
    for name, own in spellings.names(ZERO).items():
        value = type(getattr(config.DeepSpeedZeroConfig(), name))(1)
        made = config.DeepSpeedZeroConfig(**{name: value})
        assert getattr(made, name) == value, own
    for path in spellings.table()["nulls"]:
        section, *keys = path.split(".")
        if section == ZERO and len(keys) == 1:
            config.DeepSpeedZeroConfig(**{keys[0]: None})
