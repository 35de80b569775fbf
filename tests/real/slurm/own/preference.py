"""A script on TRL, as people have them: a model learns a few sentences."""

from __future__ import annotations

import sys
from pathlib import Path

import deepspeed
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, HfArgumentParser, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # a minute of g++, for nothing here
(args,) = HfArgumentParser(SFTConfig).parse_args_into_dataclasses()
words = ["<pad>", "<end>", "the", "cat", "sat", "on", "a", "mat", "and", "slept", "all", "day"]
tokens = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
tokens.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokens, pad_token="<pad>", eos_token="<end>")
model = GPT2LMHeadModel(
    GPT2Config(vocab_size=len(words), n_embd=32, n_layer=1, n_head=2, n_positions=32, eos_token_id=1)
)
data = Dataset.from_dict({"text": ["the cat sat on a mat and slept all day"] * 256})
SFTTrainer(model, args, train_dataset=data, processing_class=tokenizer).train()
print("done", Path(sys.argv[0]).name)
