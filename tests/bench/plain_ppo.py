"""Proximal policy optimization for text as the papers say it, in torch alone: what chat_ppo is compared with.

Schulman et al. 2017 (https://arxiv.org/abs/1707.06347) for the clipped loss, Schulman et al. 2016
(https://arxiv.org/abs/1506.02438, equation 16) for the advantages as the sum that it defines, Ouyang et al. 2022
(https://arxiv.org/abs/2203.02155) for a reward at the end and a KL penalty at each token. No code is shared with
docker/workloads, and answers are drawn by torch.multinomial.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

CLIP, GAMMA, LAMBDA = 0.2, 1.0, 0.95


def rewards(
    folder: Path, prompts: list[str], reward: Callable[[str], float], *, seed: int, settings: dict[str, Any]
) -> Iterator[float]:
    """The mean reward of each step; `settings`: steps, batch, tokens, lr, beta."""
    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    policy = AutoModelForCausalLM.from_pretrained(folder)
    critic = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1)
    reference = copy.deepcopy(policy)
    optimizers = [
        torch.optim.AdamW(m.parameters(), settings["lr"], betas=(0.9, 0.95), weight_decay=0)
        for m in (policy, critic)
    ]
    order = [n % len(prompts) for n in range(settings["steps"] * settings["batch"])]
    for step in range(settings["steps"]):
        rate = settings["lr"] * (1 - step / settings["steps"])
        batch = [prompts[n] for n in order[step * settings["batch"] :][: settings["batch"]]]
        answers = [answer(policy, tokenizer, prompt, settings["tokens"]) for prompt in batch]
        scores = [reward(tokenizer.decode(ids[begin:], skip_special_tokens=True)) for ids, begin in answers]
        episodes = [_episode(policy, reference, critic, ids, begin) for ids, begin in answers]
        advantages, returns = [], []
        for (old, kept, values), score in zip(episodes, scores, strict=True):
            earned = -settings["beta"] * (old - kept)
            earned[-1] += score
            gains = _advantages(earned, values)
            advantages.append(gains)
            returns.append(gains + values)
        flat = torch.cat(advantages)
        mean, deviation, count = flat.mean(), flat.std(correction=0), len(flat)
        losses = torch.zeros(2)
        for (ids, begin), (old, _, values), gains, target in zip(
            answers, episodes, advantages, returns, strict=True
        ):
            ratio = (logs(policy, ids, begin) - old).exp()
            gain = (gains - mean) / (deviation + 1e-4)
            surrogate = torch.min(ratio * gain, ratio.clamp(1 - CLIP, 1 + CLIP) * gain)
            new = _values(critic, ids, begin)
            near = values + (new - values).clamp(-CLIP, CLIP)
            squared = torch.max((new - target) ** 2, (near - target) ** 2)
            losses = losses + torch.stack([-surrogate.sum(), 0.5 * squared.sum()]) / count
        losses.sum().backward()
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                torch.nn.utils.clip_grad_norm_(group["params"], 1.0)
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad()
        yield sum(scores) / len(scores)


def answer(policy: Any, tokenizer: Any, prompt: str, tokens: int) -> tuple[torch.Tensor, int]:
    """Prompt and answer, drawn token by token, and where the answer begins."""
    ids = torch.tensor(tokenizer(prompt)["input_ids"])
    begin = len(ids)
    for _ in range(tokens):
        with torch.no_grad():
            probabilities = policy(ids[None]).logits[0, -1].softmax(-1)
        ids = torch.cat([ids, torch.multinomial(probabilities, 1)])
        if ids[-1] == tokenizer.eos_token_id:
            break
    return ids, begin


def _episode(
    policy: Any, reference: Any, critic: Any, ids: torch.Tensor, begin: int
) -> tuple[torch.Tensor, ...]:
    with torch.no_grad():
        return logs(policy, ids, begin), logs(reference, ids, begin), _values(critic, ids, begin)


def logs(model: Any, ids: torch.Tensor, begin: int) -> torch.Tensor:
    """Log-probability of each token of `ids` from `begin` on."""
    logits = model(ids[None]).logits[0, begin - 1 : -1]
    return logits.log_softmax(-1).gather(-1, ids[begin:, None]).squeeze(-1)


def _values(critic: Any, ids: torch.Tensor, begin: int) -> torch.Tensor:
    hidden = critic.model(ids[None]).last_hidden_state
    values: torch.Tensor = critic.score(hidden)[0, begin - 1 : -1, 0]
    return values


def _advantages(earned: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    after = torch.cat([values[1:], torch.zeros(1)])
    surprises = earned + GAMMA * after - values
    length = len(surprises)
    powers = (GAMMA * LAMBDA) ** torch.arange(length)
    return torch.stack([(powers[: length - t] * surprises[t:]).sum() for t in range(length)])
