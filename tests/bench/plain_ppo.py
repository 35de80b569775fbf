"""Proximal policy optimization for text as the papers say it, in torch alone: what chat_ppo is compared with.

Schulman et al. 2017 (https://arxiv.org/abs/1707.06347) for the clipped loss, Schulman et al. 2016
(https://arxiv.org/abs/1506.02438, equation 16) for the advantages as the sum that it defines, Ouyang et al. 2022
(https://arxiv.org/abs/2203.02155) for a reward at the end and a KL penalty at each token. No code is shared with
docker/workloads; how a token is drawn is given.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from tests.bench import plain_experts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Text = tuple[torch.Tensor, int]  # ids, and where the answer begins

CLIP, GAMMA, LAMBDA = 0.2, 1.0, 0.95


def rewards(
    folder: Path,
    batches: list[list[str]],
    reward: Callable[[str], float],
    *,
    seed: int,
    settings: dict[str, Any],
) -> Iterator[float]:
    """The mean reward of each step, whose prompts are a batch; `settings`: rates (of each step), tokens, beta, draw."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    policy = AutoModelForCausalLM.from_pretrained(folder)
    torch.manual_seed(seed)  # of the critic's last layer
    critic = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1)
    reference = copy.deepcopy(policy)
    optimizers = [
        torch.optim.AdamW(m.parameters(), betas=(0.9, 0.95), weight_decay=0) for m in (policy, critic)
    ]
    place = 0
    for prompts, rate in zip(batches, settings["rates"], strict=True):
        texts = answers(policy, tokenizer, prompts, place=place, settings=settings)
        place += len(prompts)
        scores = [reward(tokenizer.decode(ids[begin:], skip_special_tokens=True)) for ids, begin in texts]
        with torch.no_grad():
            old, values = logs(policy, texts), _values(critic, texts)
            kept = logs(reference, texts)
        advantages = []
        for before, by_reference, estimates, score in zip(old, kept, values, scores, strict=True):
            earned = -settings["beta"] * (before - by_reference)
            earned[-1] += score
            advantages.append(_advantages(earned, estimates))
        loss = _loss(
            torch.cat(logs(policy, texts)) - torch.cat(old),
            torch.cat(advantages),
            new=torch.cat(_values(critic, texts)),
            values=torch.cat(values),
        )
        whole = [ids for ids, _ in texts]
        (loss + sum(plain_experts.balance(model, whole) for model in (policy, critic))).backward()
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                torch.nn.utils.clip_grad_norm_(group["params"], 1.0)
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad()
        yield sum(scores) / len(scores)


def _loss(
    distance: torch.Tensor, gains: torch.Tensor, *, new: torch.Tensor, values: torch.Tensor
) -> torch.Tensor:
    """The mean over the answers' tokens; `distance` is of the log-probabilities, `gains` are not whitened yet."""
    target = gains + values
    gain = (gains - gains.mean()) / (gains.std(correction=0) + 1e-8)
    ratio = distance.exp()
    surrogate = torch.min(ratio * gain, ratio.clamp(1 - CLIP, 1 + CLIP) * gain)
    near = values + (new - values).clamp(-CLIP, CLIP)
    squared = torch.max((new - target) ** 2, (near - target) ** 2)
    return (0.5 * squared - surrogate).mean()


def answers(
    policy: Any, tokenizer: Any, prompts: list[str], *, place: int, settings: dict[str, Any]
) -> list[Text]:
    """Each prompt with an answer of settings' `tokens` at most, and where the answer begins.

    `draw` gives a token to each of the answers that still grow, from their places in the run (of which `place` is the
    first prompt's) and scores, [answers, vocabulary].
    """
    texts = [torch.tensor(tokenizer(prompt)["input_ids"]) for prompt in prompts]
    begins = [len(ids) for ids in texts]
    for _ in range(settings["tokens"]):
        growing = [
            n for n, ids in enumerate(texts) if len(ids) == begins[n] or ids[-1] != tokenizer.eos_token_id
        ]
        if not growing:
            break
        with torch.no_grad():
            logits = policy(pad_sequence([texts[n] for n in growing], batch_first=True)).logits
        last = logits[range(len(growing)), [len(texts[n]) - 1 for n in growing]]
        drawn = settings["draw"]([place + n for n in growing], last)
        for n, token in zip(growing, drawn, strict=True):
            texts[n] = torch.cat([texts[n], token[None]])
    return [*zip(texts, begins, strict=True)]


def logs(model: Any, texts: list[Text]) -> list[torch.Tensor]:
    """Log-probability of each token of each answer; what fills up shorter texts comes after them, and is not seen."""
    ids = pad_sequence([ids for ids, _ in texts], batch_first=True)
    logits = model(ids).logits[:, :-1].log_softmax(-1)
    rows = logits.gather(-1, ids[:, 1:, None])[..., 0]
    return [row[begin - 1 : len(own) - 1] for row, (own, begin) in zip(rows, texts, strict=True)]


def _values(critic: Any, texts: list[Text]) -> list[torch.Tensor]:
    hidden = critic.model(pad_sequence([ids for ids, _ in texts], batch_first=True)).last_hidden_state
    rows = critic.score(hidden)[..., 0]
    return [row[begin - 1 : len(own) - 1] for row, (own, begin) in zip(rows, texts, strict=True)]


def _advantages(earned: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    after = torch.cat([values[1:], torch.zeros(1)])
    surprises = earned + GAMMA * after - values
    length = len(surprises)
    powers = (GAMMA * LAMBDA) ** torch.arange(length)
    return torch.stack([(powers[: length - t] * surprises[t:]).sum() for t in range(length)])
