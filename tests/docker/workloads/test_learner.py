"""What a model that learns in policy optimization is, and the average of its weights."""

from __future__ import annotations

import argparse
import types
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is only installed where jobs run")
pytest.importorskip("trl", reason="the train extra is not installed")

from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification  # noqa: E402
from workloads import averages, chat, judges  # noqa: E402

from tests.docker.workloads import ranks  # noqa: E402

pytestmark = pytest.mark.torch


@pytest.mark.parametrize(
    ("task", "rank"), [("CAUSAL_LM", 0), ("CAUSAL_LM", 4), ("SEQ_CLS", 0), ("SEQ_CLS", 4)]
)
def test_it_has_no_dropout_and_the_checkpointing_and_adapters_of_the_options(task: str, rank: int) -> None:
    settings = AutoConfig.for_model(**ranks.GPT2, num_labels=1, pad_token_id=0)
    kind = AutoModelForCausalLM if task == "CAUSAL_LM" else AutoModelForSequenceClassification
    args = argparse.Namespace(
        lora_rank=rank, lora_alpha=None, lora_targets=["all-linear"], activation_checkpointing=True, seed=0
    )
    stage: Any = types.SimpleNamespace(args=args, config={})
    model = chat.learner(kind.from_config(settings), stage, task)
    inner = model.get_base_model() if rank else model
    assert inner.is_activation_checkpointing
    assert any("lora_" in name for name, p in model.named_parameters() if p.requires_grad) == bool(rank)
    whole = sum(p.numel() for p in model.parameters())
    assert (sum(p.numel() for p in model.parameters() if p.requires_grad) < whole / 2) == bool(rank)
    network = judges.critic(inner) if task == "SEQ_CLS" else model
    given = {"input_ids": torch.arange(12)[None], "attention_mask": torch.ones(1, 12, dtype=torch.long)}
    network.train()
    outputs = [network(**given) for _ in range(2)]
    numbers = [output if task == "SEQ_CLS" else output.logits for output in outputs]
    torch.testing.assert_close(*numbers, rtol=0, atol=0)
    numbers[0].sum().backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if "lora_A" in name)


def test_the_average_of_weights_that_move() -> None:
    module = torch.nn.Linear(1, 1, bias=False)
    engine: Any = types.SimpleNamespace(module=module)
    with torch.no_grad():
        module.weight.fill_(0.0)
        average = averages.MovingAverage(engine, decay=0.75)
        for value in (1.0, 2.0):
            module.weight.fill_(value)
            average.update()
    expected = 0.75 * (0.25 * 1.0) + 0.25 * 2.0
    assert average.state()[0].item() == pytest.approx(expected)
    again = averages.MovingAverage(engine, decay=0.75)
    again.load(average.state())
    again.put()
    assert module.weight.item() == pytest.approx(expected)
