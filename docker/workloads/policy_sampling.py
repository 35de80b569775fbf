"""Answers sampled from a policy: each depends on the weights, the prompt and its place in the run, and on nothing else.

Owns that nothing but the temperature shapes the distribution, as its log-probabilities are those of the ratios, and
that each answer has random numbers of its own (sampling.py): not a rank's stream of them, whose place depends on how
the batch is cut.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from transformers import GenerationConfig

from workloads.sampling import Chooser, Sampling

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import torch
    from deepspeed import DeepSpeedEngine
    from transformers import PreTrainedModel


def draw_by_place(
    model: PreTrainedModel, temperature: float, seeds: Callable[[int], Sequence[Sequence[int]]]
) -> Callable[..., torch.Tensor]:
    """`model.generate` that samples with `seeds(rows)`: numbers for each row, such as the run's seed and a place.

    Of a generation config it takes lengths and tokens alone.
    """
    generate = model.generate

    def draw(*, generation_config: GenerationConfig, **given: Any) -> torch.Tensor:
        ids = given["input_ids"]
        lengths = ("max_new_tokens", "eos_token_id", "pad_token_id", "bos_token_id")
        config = GenerationConfig(
            **{key: getattr(generation_config, key) for key in lengths}, do_sample=False
        )
        chooser = Chooser(Sampling(temperature), seeds(len(ids)))
        with plain(model):
            tokens: torch.Tensor = generate(generation_config=config, logits_processor=[chooser], **given)
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


def head_from_outside(model: PreTrainedModel) -> None:
    """Tell ZeRO-3 that the model itself reads its last layer's weights, for TRL's fused head never calls that layer.

    DeepSpeed finds out by itself where the weights are partitioned then. After sampling layer by layer they are not:
    they were fetched ahead for the last layer, and would be missing in the backward pass.
    https://deepspeed.readthedocs.io/en/latest/zero3.html#registering-external-parameters
    """
    import deepspeed

    for parameter in model.get_output_embeddings().parameters(recurse=False):
        deepspeed.zero.register_external_parameter(model, parameter)


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
