"""With document masks a sample of several documents has the loss of each document alone."""

from __future__ import annotations

from typing import Any

import pytest

np = pytest.importorskip("numpy", reason="the train extra is not installed")
torch = pytest.importorskip("torch", reason="the train extra is not installed")

from workloads import losses, packing, samples  # noqa: E402

from tests.docker.workloads.test_losses import VOCABULARY, small  # noqa: E402

pytestmark = pytest.mark.torch
DOCUMENTS = np.array([[7, 7, 7, 8, 9, 9, 9, 9], [1, 1, 2, 2, 2, 3, 3, 5]])
POSITIONS = [[0, 1, 2, 0, 0, 1, 2, 3], [0, 1, 0, 1, 2, 0, 1, 0]]


def test_positions_begin_anew_with_each_document() -> None:
    assert packing.positions(DOCUMENTS).tolist() == POSITIONS


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral", "mixtral", "qwen2", "qwen3", "gpt_neox"])
def test_a_document_sees_itself_alone(family: str, attention: str) -> None:
    model = small(family).eval()
    model.set_attn_implementation(attention)
    losses.attach(model)
    block = torch.randint(VOCABULARY, (2, 9))
    more = packing.inputs(torch.tensor(POSITIONS), attention)
    with torch.no_grad():
        _, together = model(input_ids=block[:, :-1], labels=block[:, 1:], **more)
        alone = 0.0
        for row, numbers in zip(block, DOCUMENTS, strict=True):
            for number in np.unique(numbers):
                (places,) = np.nonzero(numbers == number)
                _, nats = model(input_ids=row[places][None], labels=row[places + 1][None])
                alone += nats.item()
        _, mixed = model(input_ids=block[:, :-1], labels=block[:, 1:])
    assert together.item() == pytest.approx(alone, rel=1e-5)
    assert mixed.item() != pytest.approx(alone, rel=1e-5)


def test_flash_attention_gets_the_lengths_of_all_documents() -> None:
    given = packing.inputs(torch.tensor(POSITIONS), "flash_attention_2")
    assert given["cu_seq_lens_q"].tolist() == [0, 3, 4, 8, 10, 13, 15, 16]
    assert given["cu_seq_lens_q"].dtype == torch.int32
    assert given["cu_seq_lens_k"] is given["cu_seq_lens_q"]
    assert (given["max_length_q"], given["max_length_k"]) == (4, 4)


def test_samples_bring_their_positions() -> None:
    class Tokens:
        def __len__(self) -> int:
            return 101

        def __getitem__(self, places: Any) -> Any:
            return places

        def document(self, places: Any) -> Any:
            return places // 7

    batch = samples.Samples(Tokens(), 10, seed=0, masked=True).batch(np.arange(10))
    inputs = batch.inputs.numpy()
    expected = np.minimum(inputs % 7, inputs - inputs[:, :1])
    assert batch.positions is not None
    assert batch.positions.tolist() == expected.tolist()
    assert samples.Samples(Tokens(), 10, seed=0).batch(np.arange(10)).positions is None
