"""TRL's trainers of policy optimization without a critic, with this project's sampling and rewards.

Owns what is put in the place of TRL's own: rewards of the sampled ids instead of a text without beginning and end,
answers that do not depend on how the batch is cut, and positions that do not depend on padding.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import torch

from workloads import examples, judges, policy_sampling, tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable

    from workloads.stages import Stage


def reward(stage: Stage) -> Callable[..., list[float]]:
    """The reward function that TRL calls with the texts and ids of answers."""
    score, size, device = judges.score(stage), stage.size.micro, stage.this.device

    def by_ids(prompts: list[str], completion_ids: list[list[int]], **_: object) -> list[float]:
        texts = [tokenizer.prompt_ids(stage.tokenizer, prompt) for prompt in prompts]
        begin, width = max(map(len, texts)), max(map(len, completion_ids))
        rows, masks = [], []
        for text, answer in zip(texts, completion_ids, strict=True):
            before, after = begin - len(text), width - len(answer)
            pad = stage.tokenizer.pad_token_id
            rows.append([pad] * before + text + answer + [pad] * after)
            masks.append([0] * before + [1] * (len(text) + len(answer)) + [0] * after)
        ids, mask = torch.tensor(rows, device=device), torch.tensor(masks, device=device)
        scores = [score(i, m, begin) for i, m in zip(ids.split(size), mask.split(size), strict=True)]
        return [float(number) for number in torch.cat(scores)]

    return by_ids


def draw_by_place(trainer: Any, stage: Stage) -> None:
    """Have the trainer's policy sample each answer by its place in the run, and see positions without the padding."""
    policy = trainer.model.get_base_model() if stage.args.lora_rank else trainer.model
    this = stage.this
    drawn: Counter[tuple[int, int]] = Counter()  # answers so far, by step and whether it is of training
    held_out = examples.evaluation_size(max(1, len(stage.held_out)), stage.size.total)

    def seeds(rows: int) -> list[tuple[int, ...]]:
        when = (trainer.state.global_step, int(trainer.model.training))
        first = drawn[when] + this.rank * rows
        drawn[when] += this.world_size * rows
        places = [first + row for row in range(rows)]
        if not trainer.model.training:  # an example that is evaluated twice is answered alike
            places = [place % held_out for place in places]
        return [(stage.args.seed, *when, place) for place in places]

    policy.generate = policy_sampling.draw_by_place(policy, stage.args.temperature, seeds)
    reference = trainer.ref_model and trainer.accelerator.unwrap_model(trainer.ref_model)
    for model in filter(None, (trainer.model, reference)):
        model.register_forward_pre_hook(_positions, with_kwargs=True)


def _positions(module: Any, args: tuple[Any, ...], given: dict[str, Any]) -> Any:
    # TRL pads prompts at the left and gives no positions: a GPT-2 would count the padding
    mask = given.get("attention_mask")
    if given.get("position_ids") is None and mask is not None and given["input_ids"].shape == mask.shape:
        given["position_ids"] = judges.places(mask)
    return args, given
