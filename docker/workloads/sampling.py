"""How the next token is chosen: the likeliest, or one drawn with random numbers of the text's own.

Owns the draw. Each text has a generator of its own, so that it depends on its seed alone: not on the other texts of
its batch, the size of the batch, or the rank that computes it. What the model computes for it differs by rounding only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch
    from transformers import GenerationConfig

# keys of a generation config that do not shape the distribution, or are the job's options
HARMLESS = (
    *(
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "decoder_start_token_id",
        "max_length",
        "max_new_tokens",
    ),
    *("do_sample", "temperature", "use_cache", "transformers_version"),
    *("output_attentions", "output_hidden_states", "output_scores", "return_dict_in_generate"),
)


@dataclass(frozen=True)
class Sampling:
    """Temperature 0 takes the likeliest token; top_p 1 draws from all. The rest is as in OpenAI's API."""

    temperature: float = 1.0
    top_p: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)


class Chooser:
    """A logits processor of transformers' generate that chooses each row's token itself.

    What it returns leaves one token a row, which greedy search then takes. `seeds` holds numbers for each row of the
    batch, such as a run's seed and the prompt's position.
    """

    def __init__(self, sampling: Sampling, seeds: Sequence[Sequence[int]]) -> None:
        import numpy as np

        self.sampling = sampling
        self.generators = [np.random.default_rng(list(seed)) for seed in seeds]
        self.prompt_length: int | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores of one token a row: input_ids [batch, sequence], scores [batch, vocabulary] → as scores."""
        import torch

        if self.prompt_length is None:
            self.prompt_length = input_ids.shape[1]
        uniforms = torch.tensor([generator.random() for generator in self.generators], dtype=torch.float64)
        shaped = adjusted(scores, input_ids[:, self.prompt_length :], self.sampling)
        tokens = choose(shaped, self.sampling, uniforms.to(scores.device))
        return torch.full_like(scores, -torch.inf).scatter(1, tokens[:, None], 0.0)


def adjusted(scores: torch.Tensor, generated: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Scores with the penalties and biases of OpenAI's API: both [batch, vocabulary]; generated [batch, new tokens].

    https://platform.openai.com/docs/api-reference/completions/create (logit - count x frequency - presence if any).
    """
    import torch

    scores = scores.float()
    if sampling.presence_penalty or sampling.frequency_penalty:
        ones = torch.ones_like(generated, dtype=scores.dtype)
        counts = torch.zeros_like(scores).scatter_add(1, generated, ones)
        scores = scores - counts * sampling.frequency_penalty - (counts > 0) * sampling.presence_penalty
    if sampling.logit_bias:
        scores = scores.clone()
        for token, bias in sampling.logit_bias.items():
            scores[:, token] += bias
    return scores


def choose(scores: torch.Tensor, sampling: Sampling, uniforms: torch.Tensor) -> torch.Tensor:
    """A token for each row: scores [batch, vocabulary], uniforms [batch] in [0, 1) → [batch].

    With top_p only the likeliest tokens are drawn from whose probabilities first reach it (nucleus sampling,
    https://arxiv.org/abs/1904.09751).
    """
    if sampling.temperature == 0:
        return scores.argmax(-1)
    scaled = (scores - scores.amax(-1, keepdim=True)).double() / sampling.temperature
    probabilities, tokens = scaled.softmax(-1), None
    if sampling.top_p < 1:
        probabilities, tokens = probabilities.sort(dim=-1, descending=True, stable=True)
        before = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities.where(before < sampling.top_p, 0.0)
    sums = probabilities.cumsum(-1)
    places = (sums <= uniforms[:, None] * sums[:, -1:]).sum(-1, keepdim=True)
    return (places if tokens is None else tokens.gather(-1, places))[:, 0]


# and values that shape nothing
NEUTRAL = {
    "top_k": 0,
    "top_p": 1,
    "typical_p": 1,
    "min_p": 0,
    "repetition_penalty": 1,
    "no_repeat_ngram_size": 0,
}


def unused(model: str, settings: GenerationConfig) -> str:
    """What to say of a model whose generation config asks of sampling what is not done here; empty for others."""
    wanted = settings.to_diff_dict()
    listed = ", ".join(
        f"{key}={value}"
        for key, value in wanted.items()
        if key not in HARMLESS and not key.startswith("_") and value not in (None, NEUTRAL.get(key))
    )
    if not listed:
        return ""
    return f"the generation config of {model} is not used for sampling: {listed}"


def unused_of(model: str) -> str:
    """The same of a folder or a model of the hub."""
    from transformers import GenerationConfig

    try:
        return unused(model, GenerationConfig.from_pretrained(model))
    except (OSError, ValueError):  # it has none
        return ""
