"""Proximal policy optimization by TRL's PPOTrainer, which releases up to 1.6 have: what chat_ppo is compared with.

    pip install --no-deps --target FOLDER trl==1.6.0
    PYTHONPATH=FOLDER python -m tests.bench.published_ppo SETTINGS

SETTINGS is JSON: model (a folder), batches (prompts of each step), output_dir, tokens, lr, beta, seed. Prints the mean
score of each step as JSON. A rule is in the place of a reward model: the share of lower-case letters. Its own are that
it does not clip gradients, and that an answer's score comes with the padding after its end token.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch

from tests.bench import toy


class Rule(torch.nn.Module):  # type: ignore[misc]
    """Stands where the trainer wants a reward model; `scores` is what it is asked for instead."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__()
        self.tokenizer = tokenizer

    def scores(self, ids: torch.Tensor, begin: int) -> torch.Tensor:
        """What the answers, which begin there, are worth: [rows, length] → [rows]."""
        texts = [self.tokenizer.decode(row[begin:], skip_special_tokens=True) for row in ids]
        return torch.tensor([toy.lower_case(text) for text in texts])


def curve(given: dict[str, Any]) -> list[float]:
    """The mean score of each step."""
    from datasets import Dataset
    from torch.utils.data import DataLoader
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        AutoTokenizer,
        PrinterCallback,
        get_scheduler,
    )
    from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

    tokenizer = AutoTokenizer.from_pretrained(given["model"], padding_side="left")
    tokenizer.add_special_tokens({"pad_token": "<|padding|>"})
    prompts = [prompt for batch in given["batches"] for prompt in batch]
    by_model = ppo_trainer.get_reward

    def get_reward(model: Any, ids: torch.Tensor, pad: int, begin: int) -> Any:
        return (
            (None, model.scores(ids, begin), None)
            if isinstance(model, Rule)
            else by_model(model, ids, pad, begin)
        )

    ppo_trainer.get_reward = get_reward
    policy, reference = (AutoModelForCausalLM.from_pretrained(given["model"]) for _ in range(2))
    torch.manual_seed(given["seed"])
    critic = AutoModelForSequenceClassification.from_pretrained(given["model"], num_labels=1)
    trainer = PPOTrainer(
        args=_config(PPOConfig, given),
        processing_class=tokenizer,
        model=policy,
        ref_model=reference,
        reward_model=Rule(tokenizer),
        value_model=critic,
        train_dataset=Dataset.from_list([{"input_ids": tokenizer(text)["input_ids"]} for text in prompts]),
        eval_dataset=Dataset.from_list([{"input_ids": tokenizer(text)["input_ids"]} for text in prompts[:1]]),
    )
    trainer.remove_callback(PrinterCallback)
    # in place of its own order and of a schedule that would end one step later
    size = len(given["batches"][0])
    trainer.dataloader = DataLoader(trainer.train_dataset, size, collate_fn=trainer.data_collator)
    trainer.lr_scheduler = get_scheduler("cosine", trainer.optimizer, 0, len(given["batches"]) - 1)
    trainer.train()
    return [line["objective/scores"] for line in trainer.state.log_history if "objective/scores" in line]


def _config(kind: Any, given: dict[str, Any]) -> Any:
    return kind(
        output_dir=given["output_dir"],
        total_episodes=sum(map(len, given["batches"])),
        per_device_train_batch_size=len(given["batches"][0]),
        num_ppo_epochs=1,
        response_length=given["tokens"],
        stop_token="eos",
        temperature=1.0,
        kl_coef=given["beta"],
        vf_coef=1.0,
        learning_rate=given["lr"],
        lr_scheduler_type="cosine",
        adam_beta2=0.95,
        max_grad_norm=1.0,
        weight_decay=0.0,
        logging_steps=1,
        num_sample_generations=0,
        seed=given["seed"],
        use_cpu=True,
        bf16=False,
        save_strategy="no",
        disable_tqdm=True,
        report_to=[],
    )


def main() -> None:
    torch.set_num_threads(1)
    print("curve", json.dumps(curve(json.loads(sys.argv[1]))))


if __name__ == "__main__":
    main()
