"""Trains, saves and resumes: all that a program of your own needs to outlive its walltime. README.md says why."""

import os
import signal
import sys

import deepspeed
import torch

leave: list[int] = []
for number in (signal.SIGUSR2, signal.SIGTERM):
    signal.signal(number, lambda number, _: leave.append(number))  # a note; the loop acts on it

model = torch.nn.Linear(16, 1)
optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=os.environ["DEEPSPEED_CONFIG"])
checkpoints = os.environ["RUN_DIR"] + "/checkpoints"
engine.load_checkpoint(checkpoints)  # of the attempt before this one; there is none the first time
while engine.global_steps < int(sys.argv[1].partition("=")[2]):
    torch.manual_seed(1000 * engine.micro_steps + engine.global_rank)  # the data follow from the step
    inputs = torch.randn(engine.train_micro_batch_size_per_gpu(), 16, device=engine.device)
    loss = (engine(inputs) - inputs.sum(1, keepdim=True)).square().mean()
    engine.backward(loss)
    engine.step()
    told = torch.tensor(float(bool(leave)), device=engine.device)
    torch.distributed.all_reduce(told)  # one rank may hear first: all leave after the same step
    if engine.is_gradient_accumulation_boundary() and engine.global_rank == 0:
        print(f"step {engine.global_steps} loss {loss.item():.4f}", flush=True)
    if told or engine.global_steps % int(os.environ["CHECKPOINT_EVERY"]) == 0:
        engine.save_checkpoint(checkpoints)
    if told:
        sys.exit(75)  # saved: put me back into the queue
