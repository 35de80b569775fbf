"""What is sampled depends on weights, prompt and seed alone, and is distributed as the model says."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="torch is only installed where jobs run")
pytest.importorskip("trl", reason="the train extra is not installed")

from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel  # noqa: E402
from workloads import policy_sampling, sampling  # noqa: E402

pytestmark = pytest.mark.torch
CONFIG = GenerationConfig(max_new_tokens=12, eos_token_id=19, pad_token_id=18, do_sample=True, top_k=3)


@pytest.fixture(scope="module")
def model() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    shape = {"n_positions": 32, "n_embd": 16, "n_layer": 1, "n_head": 2}
    return GPT2LMHeadModel(GPT2Config(vocab_size=20, eos_token_id=19, bos_token_id=19, **shape)).eval()


def drawn(
    model: GPT2LMHeadModel, rows: list[list[int]], seeds: list[int], temperature: float = 1.0
) -> list[list[int]]:
    """The answers to prompts that are padded at the left to the longest."""
    longest = max(map(len, rows))
    ids = torch.tensor([[18] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    draw = policy_sampling.draw_by_place(model, temperature, lambda _: [(seed,) for seed in seeds])
    tokens = draw(input_ids=ids, attention_mask=mask, generation_config=CONFIG)
    answers = [row[longest:].tolist() for row in tokens]
    return [answer[: answer.index(19) + 1] if 19 in answer else answer for answer in answers]


def test_answers_are_distributed_as_the_model_says_at_this_temperature(model: GPT2LMHeadModel) -> None:
    prompt, rows, temperature = [1, 2, 3], 4_000, 2.0
    answers = drawn(model, [prompt] * rows, list(range(rows)), temperature)
    counts = torch.tensor([answer[0] for answer in answers]).bincount(minlength=20) / rows
    with torch.no_grad():
        expected = (model(torch.tensor([prompt])).logits[0, -1] / temperature).softmax(-1)
    torch.testing.assert_close(counts, expected, rtol=0, atol=0.03)  # four standard deviations


def test_an_answer_does_not_depend_on_the_batch_it_is_in(model: GPT2LMHeadModel) -> None:
    prompts, seeds = [[1, 2, 3, 4, 5], [6], [7, 8]], [11, 12, 13]
    together = drawn(model, prompts, seeds)
    assert together == [drawn(model, [p], [s])[0] for p, s in zip(prompts, seeds, strict=True)]
    assert drawn(model, prompts[:1] * 3, [1, 2, 3]) != drawn(model, prompts[:1] * 3, [4, 5, 6])


def test_the_models_own_generation_config_does_not_shape_it(model: GPT2LMHeadModel) -> None:
    prompts, seeds = [[1, 2, 3]] * 8, list(range(8))
    plain = drawn(model, prompts, seeds)
    assert any(len(set(answer)) < len(answer) for answer in plain)  # a token comes twice
    own = model.generation_config
    model.generation_config = GenerationConfig(repetition_penalty=50.0, top_k=1, no_repeat_ngram_size=1)
    try:
        assert drawn(model, prompts, seeds) == plain
        told = sampling.unused("m", model.generation_config)
        assert told.startswith("the generation config of m is not used for sampling: ")
        asked = set(told.partition("sampling: ")[2].split(", "))
        assert asked == {"repetition_penalty=50.0", "top_k=1", "no_repeat_ngram_size=1"}
        assert model.generation_config.repetition_penalty == 50.0  # and is exported as it was
    finally:
        model.generation_config = own
    assert sampling.unused("m", model.generation_config) == ""
    neutral = GenerationConfig(do_sample=True, temperature=0.7, top_p=1.0, top_k=0, repetition_penalty=1.0)
    assert sampling.unused("m", neutral) == ""
