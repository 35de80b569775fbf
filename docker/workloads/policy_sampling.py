"""Answers sampled from a policy: each depends on the weights, the prompt and its place in the run, and on nothing else.

Owns how tokens are drawn: not from a rank's stream of random numbers, whose place depends on how the batch is cut,
but with a generator for each answer; and that nothing else shapes the distribution, as its log-probabilities are
those of the ratios.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig, LogitsProcessor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from deepspeed import DeepSpeedEngine
    from transformers import PreTrainedModel

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


class GumbelNoise(LogitsProcessor):  # type: ignore[misc]
    """Adds noise to logits / temperature so that the likeliest token is a sample of softmax(logits / temperature).

    The noise is Gumbel's (https://arxiv.org/abs/1411.0030, section 2), for each row from a generator of its seed.
    """

    def __init__(self, seeds: Sequence[int], temperature: float, device: torch.device) -> None:
        self.temperature = temperature
        self.generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        del input_ids
        exponential = [torch.empty_like(scores[0]).exponential_(generator=g) for g in self.generators]
        return scores / self.temperature - torch.stack(exponential).log()


def draw_by_place(
    model: PreTrainedModel, temperature: float, seeds: Callable[[int], Sequence[int]]
) -> Callable[..., torch.Tensor]:
    """`model.generate` that samples with `seeds(rows)`; of a generation config it takes lengths and tokens alone."""
    generate = model.generate

    def draw(*, generation_config: GenerationConfig, **given: Any) -> torch.Tensor:
        ids = given["input_ids"]
        lengths = ("max_new_tokens", "eos_token_id", "pad_token_id", "bos_token_id")
        config = GenerationConfig(
            **{key: getattr(generation_config, key) for key in lengths}, do_sample=False
        )
        noise = GumbelNoise(seeds(len(ids)), temperature, ids.device)
        with plain(model):
            tokens: torch.Tensor = generate(generation_config=config, logits_processor=[noise], **given)
        return tokens

    return draw


@contextlib.contextmanager
def plain(model: PreTrainedModel) -> Iterator[None]:
    """Let no key of the model's own generation config fill in what a call leaves open."""
    own, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


def ignored(model: PreTrainedModel) -> dict[str, Any]:
    """What a model's generation config asks of sampling, and training does not do."""
    wanted = model.generation_config.to_diff_dict()
    return {key: value for key, value in wanted.items() if key not in HARMLESS and not key.startswith("_")}


@contextlib.contextmanager
def gathered(engine: DeepSpeedEngine, partitioned: bool) -> Iterator[None]:
    """Have all weights of a ZeRO-3 engine whole on every rank, instead of layer by layer for each token."""
    if not partitioned:
        yield
        return
    import deepspeed
    from trl.models.utils import add_hooks, remove_hooks

    with deepspeed.zero.GatheredParameters(list(engine.module.parameters())):
        remove_hooks(engine)
        try:
            yield
        finally:
            add_hooks(engine)
