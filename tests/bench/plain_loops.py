"""Supervised fine-tuning, reward modelling, DPO and RLOO as the papers say them, in torch alone.

Ouyang et al. 2022 (https://arxiv.org/abs/2203.02155) for the first two, Rafailov et al. 2023
(https://arxiv.org/abs/2305.18290, equation 7) for DPO, Ahmadian et al. 2024 (https://arxiv.org/abs/2402.14740,
section 3.2) for RLOO. No code is shared with docker/workloads.
"""

from __future__ import annotations

import copy
import itertools
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import logsigmoid
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from tests.bench import plain_experts, plain_ppo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Row = dict[str, str]
    Text = tuple[torch.Tensor, int]  # ids, and where the answer begins
    # rows of a batch → its loss, and the figure that is compared
    Batch = Callable[[list[Row]], tuple[torch.Tensor, float]]

DPO_BETA = 0.1


def figures(
    stage: str, folder: Path, batches: list[list[Row]], *, seed: int, settings: dict[str, Any]
) -> Iterator[float]:
    """The figure of each step of `stage` (sft, reward, dpo, rloo), whose rows are a batch; `settings` has its rates.

    That of rloo has also tokens, draw, beta, answers to a prompt, and reward, which tells what an answer is worth.
    """
    torch.manual_seed(seed)  # of the reward model's last layer
    kinds: dict[str, Callable[..., tuple[Any, Batch]]] = {
        "sft": _sft,
        "reward": _reward,
        "dpo": _dpo,
        "rloo": _rloo,
    }
    model, batch = kinds[stage](folder, settings)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0)
    for rows, rate in zip(batches, settings["rates"], strict=True):
        loss, figure = batch(rows)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()
        yield figure


def _text(tokenizer: Any, prompt: str, answer: str) -> Text:
    """The ids of prompt and answer with the end token, and where the answer begins."""
    before = tokenizer(prompt)["input_ids"]
    after = tokenizer(answer, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    return torch.tensor(before + after), len(before)


def _sums(model: Any, texts: list[Text]) -> torch.Tensor:
    return torch.stack([logs.sum() for logs in plain_ppo.logs(model, texts)])


def _sft(folder: Path, settings: dict[str, Any]) -> tuple[Any, Batch]:
    del settings
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)

    def batch(rows: list[Row]) -> tuple[torch.Tensor, float]:
        texts = [_text(tokenizer, row["prompt"], row["completion"]) for row in rows]
        logs = torch.cat(plain_ppo.logs(model, texts))
        lengths = [len(ids) - begin for ids, begin in texts]
        balance = plain_experts.balance(model, [ids for ids, _ in texts], lengths)
        return balance - logs.mean(), -float(logs.mean().detach())

    return model, batch


def _reward(folder: Path, settings: dict[str, Any]) -> tuple[Any, Batch]:
    del settings
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1)

    def scores(rows: list[Row], answer: str) -> torch.Tensor:
        texts = [_text(tokenizer, row["prompt"], row[answer])[0] for row in rows]
        hidden = model.model(pad_sequence(texts, batch_first=True)).last_hidden_state
        last = hidden[range(len(texts)), [len(ids) - 1 for ids in texts]]
        numbers: torch.Tensor = model.score(last)[:, 0]
        return numbers

    def batch(rows: list[Row]) -> tuple[torch.Tensor, float]:
        loss = -logsigmoid(scores(rows, "chosen") - scores(rows, "rejected")).mean()
        texts = [
            _text(tokenizer, row["prompt"], row[key])[0] for row in rows for key in ("chosen", "rejected")
        ]
        return loss + plain_experts.balance(model, texts), float(loss.detach())

    return model, batch


def _dpo(folder: Path, settings: dict[str, Any]) -> tuple[Any, Batch]:
    del settings
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    start = copy.deepcopy(model)

    def gains(rows: list[Row], answer: str) -> torch.Tensor:
        texts = [_text(tokenizer, row["prompt"], row[answer]) for row in rows]
        with torch.no_grad():
            before = _sums(start, texts)
        return _sums(model, texts) - before

    def batch(rows: list[Row]) -> tuple[torch.Tensor, float]:
        loss = -logsigmoid(DPO_BETA * (gains(rows, "chosen") - gains(rows, "rejected"))).mean()
        return loss, float(loss.detach())

    return model, batch


def _rloo(folder: Path, settings: dict[str, Any]) -> tuple[Any, Batch]:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    start, places = copy.deepcopy(model), itertools.count(0, settings["answers"])

    def of_prompt(prompt: str) -> tuple[torch.Tensor, list[float]]:
        prompts = [prompt] * settings["answers"]
        answers = plain_ppo.answers(model, tokenizer, prompts, place=next(places), settings=settings)
        scores = [
            settings["reward"](tokenizer.decode(ids[begin:], skip_special_tokens=True))
            for ids, begin in answers
        ]
        with torch.no_grad():
            before = _sums(start, answers)
        logs = _sums(model, answers)
        worth = torch.tensor(scores) - settings["beta"] * (logs.detach() - before)
        others = (worth.sum() - worth) / (settings["answers"] - 1)
        return -((worth - others) * logs).mean(), scores

    def batch(rows: list[Row]) -> tuple[torch.Tensor, float]:
        losses, scores = zip(*(of_prompt(row["prompt"]) for row in rows), strict=True)
        flat = [score for some in scores for score in some]
        return torch.stack(losses).mean(), sum(flat) / len(flat)

    return model, batch
