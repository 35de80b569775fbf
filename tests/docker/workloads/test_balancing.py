"""What is added to a loss for a mixture of experts is the same however a step is cut into micro batches and packs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the train extra is not installed")

from workloads import balancing  # noqa: E402

from tests.docker.workloads.test_losses import SHAPE, VOCABULARY  # noqa: E402

pytestmark = pytest.mark.torch

COEFFICIENT = 0.5
LENGTHS, PROMPTS = (
    (7, 4, 6, 3),
    (3, 1, 2, 0),
)  # of four sequences, and how many of their first labels are left out


def noted(packed: bool = False) -> tuple[Any, balancing.Balance]:
    """A model, the same each time, and what notes its routers."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        "mixtral",
        vocab_size=VOCABULARY,
        **SHAPE,
        num_local_experts=4,
        router_aux_loss_coef=COEFFICIENT,
        output_router_logits=True,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    return model, balancing.Balance(model, packed=packed)


def sequences() -> list[tuple[Any, Any]]:
    torch.manual_seed(1)
    made = []
    for length, prompt in zip(LENGTHS, PROMPTS, strict=True):
        ids = torch.randint(VOCABULARY, (length,))
        made.append((ids, ids.masked_fill(torch.arange(length) < prompt, -100)))
    return made


def padded(rows: list[tuple[Any, Any]]) -> dict[str, Any]:
    pad = torch.nn.utils.rnn.pad_sequence
    ids, labels = (pad([row[n] for row in rows], True, value) for n, value in ((0, 0), (1, -100)))
    mask = pad([torch.ones_like(row[0]) for row in rows], True, 0)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def packed(rows: list[tuple[Any, Any]]) -> dict[str, Any]:
    ids, labels = (torch.cat([row[n] for row in rows])[None] for n in (0, 1))
    positions = torch.cat([torch.arange(len(row[0])) for row in rows])[None]
    return {"input_ids": ids, "position_ids": positions, "labels": labels, "use_cache": False}


def test_transformers_adds_no_loss_of_its_own() -> None:
    model, _ = noted()
    assert not model.config.output_router_logits
    assert getattr(model(**padded(sequences())), "aux_loss", None) is None


def test_labels_weigh_alike_in_packs_and_in_any_micro_batches() -> None:
    rows, found = sequences(), []
    for batches, how in (
        ([padded(rows)], False),
        ([padded([row]) for row in rows], False),
        ([padded(rows[:1]), padded(rows[1:])], False),
        ([packed(rows)], True),
        ([packed(rows[:3]), packed(rows[3:])], True),
    ):
        total, (model, balance) = 0.0, noted(how)
        for batch in batches:
            model(**batch)
            total += balance.by_labels(batch["labels"]).item()
        found.append(total)
    assert found == pytest.approx([found[0]] * 5, rel=1e-6)
    alone, (model, balance) = [], noted()
    for row in rows:
        model(**padded([row]))
        alone.append(balance.mean().item())
    counts = [length - max(1, prompt) for length, prompt in zip(LENGTHS, PROMPTS, strict=True)]
    assert found[0] == pytest.approx(sum(n * one for n, one in zip(counts, alone, strict=True)), rel=1e-6)


class Trainer(SimpleNamespace):
    """What follow looks at: a trainer with so many ranks and micro batches a step, whose own loss is 0."""

    def compute_loss(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        return model(**inputs).logits.sum() * 0


@pytest.mark.parametrize("items", [None, 12])
@pytest.mark.parametrize("scaled", [None, True])
def test_a_steps_share_is_the_same_for_any_ranks_and_accumulation(
    scaled: bool | None, items: int | None
) -> None:
    """What reaches the gate's gradient, as ranks' gradients are averaged and those of micro batches added."""
    rows: Any = sequences()
    slopes: list[Any] = []
    for ranks, steps in ((1, 1), (2, 2), (1, 4), (4, 1)):
        size, slope = 4 // (ranks * steps), torch.zeros(())
        for first in range(0, 4, size):
            trainer = Trainer(
                accelerator=SimpleNamespace(num_processes=ranks),
                current_gradient_accumulation_steps=steps,
                loss_is_scaled_for_ga=scaled,
            )
            model, balance = noted()
            balancing.follow(trainer, balance)
            batch = padded(rows[first : first + size])
            loss = trainer.compute_loss(model, batch, num_items_in_batch=items)
            assert loss.item() == 0
            loss.backward()
            gate = model.model.layers[0].mlp.gate.weight.grad
            divided = (
                steps if items is None and not scaled else 1
            )  # as the Trainer does where a loss is a mean
            slope = slope + gate / (ranks * divided)
        slopes.append(slope)
    assert slopes[0].abs().max() > 1e-4
    for slope in slopes[1:]:
        torch.testing.assert_close(slope, slopes[0], rtol=0, atol=1e-7)


def test_nothing_is_noted_without_a_gradient() -> None:
    model, balance = noted()
    with torch.no_grad():
        model(**padded(sequences()))
    assert not balance.noted
    assert balance.mean() == 0
