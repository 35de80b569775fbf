"""The draw of the next token: its distribution, and that a text's random numbers are its own."""

from __future__ import annotations

import pytest
import torch
from workloads.sampling import Chooser, Sampling, adjusted, choose

pytestmark = pytest.mark.torch
SCORES = torch.tensor([0.5, -1.0, 2.0, 1.0, -torch.inf])


def draws(sampling: Sampling, count: int) -> torch.Tensor:
    """How often each token is drawn for evenly spread random numbers."""
    uniforms = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return choose(SCORES.expand(count, -1), sampling, uniforms).bincount(minlength=len(SCORES)) / count


def test_tokens_are_drawn_as_often_as_the_model_holds_them_likely() -> None:
    for temperature in (0.5, 1.0, 2.0):
        expected = (SCORES / temperature).softmax(-1)
        torch.testing.assert_close(draws(Sampling(temperature), 10_000), expected, atol=2e-4, rtol=0)
    assert draws(Sampling(0.0), 10)[2] == 1
    assert draws(Sampling(1e-300), 10)[2] == 1


def test_the_nucleus_is_drawn_from_alone() -> None:
    p = SCORES.softmax(-1)
    kept = torch.tensor([0.0, 0.0, p[2], p[3], 0.0])
    share = float(p[2]) + 0.01  # needs the second likeliest too
    torch.testing.assert_close(draws(Sampling(1.0, share), 10_000), kept / kept.sum(), atol=2e-4, rtol=0)
    assert draws(Sampling(1.0, 1e-9), 10)[2] == 1


def test_the_highest_random_number_draws_a_token_that_can_be() -> None:
    almost_one = torch.tensor([1 - 2**-53], dtype=torch.float64)
    for top_p in (1.0, 0.9, 0.3):
        token = choose(SCORES[None], Sampling(1.0, top_p), almost_one)
        assert SCORES[token] > -torch.inf


def test_a_text_has_random_numbers_of_its_own() -> None:
    torch.manual_seed(0)
    ids, steps = torch.zeros(3, 1, dtype=torch.long), torch.randn(6, 3, 50)
    together, alone = Chooser(Sampling(), [(7, n) for n in range(3)]), Chooser(Sampling(), [(7, 2)])
    for scores in steps:
        assert torch.equal(together(ids, scores)[2:], alone(ids[:1], scores[2:]))
    same, other = Chooser(Sampling(), [(7, 0)]), Chooser(Sampling(), [(8, 0)])
    again = Chooser(Sampling(), [(7, 0)])
    chosen = [
        [chooser(ids[:1], scores[:1]).argmax().item() for scores in steps] for chooser in (same, again, other)
    ]
    assert chosen[0] == chosen[1] != chosen[2]


def test_penalties_count_what_was_generated() -> None:
    scores, generated = torch.zeros(2, 4), torch.tensor([[1, 1, 2], [3, 3, 3]])
    sampling = Sampling(presence_penalty=0.5, frequency_penalty=1.0, logit_bias={0: 3.0})
    assert adjusted(scores, generated, sampling).tolist() == [[3.0, -2.5, -1.5, 0.0], [3.0, 0.0, 0.0, -3.5]]
    assert adjusted(scores, generated[:, :0], sampling).tolist() == [[3.0, 0.0, 0.0, 0.0]] * 2
    assert scores.sum() == 0
