"""A script on accelerate, as people have them: DeepSpeed where a configuration is named, plain data parallel else."""

from __future__ import annotations

import os
import sys

import deepspeed
import torch
from accelerate import Accelerator, DeepSpeedPlugin
from torch.utils.data import DataLoader

deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # a minute of g++, for nothing here
plugin = DeepSpeedPlugin(hf_ds_config=sys.argv[1]) if len(sys.argv) > 1 else None
accelerator = Accelerator(cpu=True, deepspeed_plugin=plugin)
torch.manual_seed(0)
model = torch.nn.Linear(16, 1)
inputs = torch.randn(256, 16)
rows = [(row, row.sum(0, keepdim=True)) for row in inputs]
optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
model, optimizer, loader = accelerator.prepare(model, optimizer, DataLoader(rows, batch_size=4))
for step, (some, wanted) in enumerate(loader, 1):
    loss = (model(some) - wanted).square().mean()
    accelerator.backward(loss)
    optimizer.step()
    optimizer.zero_grad()
    mean = accelerator.gather(loss.detach().reshape(1)).mean().item()
    accelerator.print(f"step {step} loss {mean:.4f} world {accelerator.num_processes}", flush=True)
accelerator.wait_for_everyone()
accelerator.end_training()
sys.stdout.flush()
os._exit(0)  # gloo's threads may abort a regular exit
