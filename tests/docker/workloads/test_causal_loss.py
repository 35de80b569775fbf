"""A causal model that is called with labels has transformers' own loss and gradients, and no logits of all tokens."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest

torch = pytest.importorskip("torch", reason="the train extra is not installed")

from workloads import causal_loss, losses  # noqa: E402

from tests.docker.workloads.test_losses import SHAPE, VOCABULARY, Largest, small  # noqa: E402

if TYPE_CHECKING:
    from transformers import PreTrainedModel

pytestmark = pytest.mark.torch

FAMILIES = ("gpt2", "llama", "gemma2", "granite", "mixtral", "gpt_neox")
LOSS, SLOPE = 1e-6, 1e-6  # in fp32: of the loss, and of the largest gradient of each parameter


def padded() -> dict[str, Any]:
    """Two examples, of which the second is shorter; the labels of their prompts are left out."""
    torch.manual_seed(2)
    ids = torch.randint(VOCABULARY, (2, 12))
    labels, mask = ids.clone(), torch.ones_like(ids)
    labels[0, :5] = labels[1, :3] = -100
    mask[1, 8:], labels[1, 8:] = 0, -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def packed() -> dict[str, Any]:
    """Three examples in one row, told apart by their positions."""
    torch.manual_seed(2)
    ids = torch.randint(VOCABULARY, (1, 12))
    positions = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 0, 1, 2, 3]])
    labels = ids.masked_fill((positions < 2), -100)
    return {"input_ids": ids, "position_ids": positions, "labels": labels, "use_cache": False}


def slopes(model: PreTrainedModel, batch: dict[str, Any]) -> tuple[float, dict[str, Any]]:
    loss = model(**batch).loss
    model.zero_grad(set_to_none=True)
    loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return loss.item(), found


@pytest.mark.parametrize("items", [None, 17])
@pytest.mark.parametrize("batch", [padded(), packed()], ids=["padded", "packed"])
@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradients_are_those_of_transformers(
    family: str, batch: dict[str, Any], items: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "chunk_rows", lambda *_: 3)
    more = {} if items is None else {"num_items_in_batch": items}
    expected, theirs = slopes(small(family), {**batch, **more})
    model = small(family)
    causal_loss.attach(model)
    found, ours = slopes(model, {**batch, **more})
    assert found == pytest.approx(expected, rel=LOSS)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert (ours[name] - theirs[name]).abs().max() <= SLOPE * (1 + theirs[name].abs().max()), name


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_labels_of_the_tokens_that_follow(family: str) -> None:
    model, batch = small(family), padded()
    causal_loss.attach(model)
    expected = model(**batch).loss
    labels = batch.pop("labels")
    follow = torch.cat([labels[:, 1:], torch.full((2, 1), -100)], dim=1)
    assert model(**batch, shift_labels=follow).loss.item() == pytest.approx(expected.item(), rel=LOSS)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_what_is_judged_is_that_of_the_logits(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "chunk_rows", lambda *_: 3)
    model, batch = small(family), padded()
    labels = batch["labels"][:, 1:]
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
        causal_loss.attach(model)
        nats, right, tokens = model(**batch, judged=True)
        likeliest = logits.argmax(-1)
        batch["labels"] = torch.cat([batch["input_ids"][:, :1], likeliest], dim=1)
        assert model(**batch, judged=True)[1] == likeliest.numel()
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
    assert nats.item() == pytest.approx(expected.item(), rel=LOSS)
    assert (right, tokens) == ((likeliest == labels).sum(), (labels != -100).sum())


def test_without_labels_the_model_is_as_before() -> None:
    model, batch = small("llama"), padded()
    untouched = copy.deepcopy(model)
    causal_loss.attach(model)
    assert torch.equal(model(batch["input_ids"]).logits, untouched(batch["input_ids"]).logits)
    how = {"max_new_tokens": 4, "do_sample": False}
    assert torch.equal(
        model.generate(batch["input_ids"], **how), untouched.generate(batch["input_ids"], **how)
    )


def test_a_batch_without_labels_learns_nothing() -> None:
    model, batch = small("llama"), padded()
    causal_loss.attach(model)
    batch["labels"][:] = -100
    loss, found = slopes(model, {**batch, "num_items_in_batch": 5})
    assert loss == 0
    assert all(slope.abs().max() == 0 for slope in found.values())


def test_the_logits_of_all_tokens_are_never_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    monkeypatch.setattr(losses, "CHUNK", 1 << 12)
    monkeypatch.setattr(losses, "ROWS", 8)
    vocabulary, tokens = 2048, 256
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", vocab_size=vocabulary, **SHAPE))
    causal_loss.attach(model)
    ids = torch.randint(vocabulary, (4, tokens // 4))
    with Largest() as largest:
        model(input_ids=ids, labels=ids).loss.backward()
        with torch.no_grad():
            model(input_ids=ids, labels=ids, judged=True)
    assert largest.elements == vocabulary * SHAPE["hidden_size"]  # the last layer's weight
