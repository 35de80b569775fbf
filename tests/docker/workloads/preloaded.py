"""What each rank would find out or build anew, done once in the process that ranks are forks of (forks.py)."""

from __future__ import annotations

import gc

import deepspeed.ops
from transformers import conversion_mapping
from workloads import imports

imports.deepspeed()
deepspeed.ops.__compatible_ops__  # noqa: B018  (which ops can be compiled here: reads setuptools, asks compilers)
conversion_mapping.get_checkpoint_conversion_mapping("llama")  # builds all models' regular expressions
gc.freeze()  # half a million objects, which no rank need search for garbage
