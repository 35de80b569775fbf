"""A script on the Hugging Face Trainer, as people have them; it knows nothing of the launcher."""

from __future__ import annotations

import deepspeed
import torch
from transformers import GPT2Config, GPT2LMHeadModel, HfArgumentParser, Trainer, TrainingArguments

deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # a minute of g++, for nothing here
(args,) = HfArgumentParser(TrainingArguments).parse_args_into_dataclasses()
torch.manual_seed(0)
model = GPT2LMHeadModel(GPT2Config(vocab_size=32, n_embd=32, n_layer=1, n_head=2, n_positions=16))
rows = [torch.arange(start, start + 16) % 32 for start in range(32)]
data = [{"input_ids": row, "labels": row} for row in rows * 8]
trainer = Trainer(model, args, train_dataset=data)
trainer.train()
assert trainer.accelerator.distributed_type == "DEEPSPEED" or not args.deepspeed
