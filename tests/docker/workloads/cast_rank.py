"""A rank that splits models over its host's devices and prints which of their buffers are still as they were loaded."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import torch
from deepspeed.accelerator import get_accelerator
from transformers import AutoConfig, AutoModelForCausalLM
from workloads import inference, session

from tests.docker.workloads import ranks

if TYPE_CHECKING:
    from workloads.session import Session

GEMMA = {**ranks.LLAMA, "model_type": "gemma3_text", "head_dim": 12, "query_pre_attn_scalar": 12}


def compare(args: argparse.Namespace, this: Session) -> int:
    """Print a line a model and type, on rank 0; returns 0."""
    # DeepSpeed computes in fp16 on GPUs only, but it splits and casts alike
    get_accelerator().supported_dtypes = lambda: [torch.float16, torch.bfloat16]
    for keys in (ranks.LLAMA, GEMMA):
        for dtype in (torch.float16, torch.bfloat16):
            settings = AutoConfig.for_model(**keys)
            model = AutoModelForCausalLM.from_config(settings, dtype=dtype).eval()
            loaded = {name: buffer.clone() for name, buffer in model.named_buffers()}
            split = inference._tensor_parallel(model, dtype, this).model
            same = {
                name: buffer.dtype == loaded[name].dtype and torch.equal(buffer, loaded[name])
                for name, buffer in split.named_buffers()
            }
            assert same.keys() == loaded.keys()
            assert {parameter.dtype for parameter in split.parameters()} == {dtype}
            changed = [name for name, as_loaded in same.items() if not as_loaded]
            if this.rank == 0:
                outcome = f"changed: {', '.join(changed)}" if changed else "each as loaded"
                print(f"{keys['model_type']} {dtype}: {len(same)} buffers, {outcome}", flush=True)
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.set_defaults(run_dir="run")
    session.run(parser, compare)
