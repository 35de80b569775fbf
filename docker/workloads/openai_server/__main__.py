"""Load a model and serve it: `python -m workloads.openai_server MODEL`. VLLM_API_KEY holds the key, as for vLLM."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

import torch
import uvicorn
from transformers import AutoModelForCausalLM, GenerationConfig

from workloads import architectures, options, sampling, tokenizer
from workloads.openai_server import app
from workloads.openai_server.decoding import Generator
from workloads.openai_server.work import Limits

if TYPE_CHECKING:
    from transformers import PreTrainedModel

GRACE = 10  # seconds that answers have to end in after SIGTERM
UNLIMITED = 8192  # tokens of a context whose model has no limit of its own


def parser() -> argparse.ArgumentParser:
    """The command line, which serve.py writes."""
    command = argparse.ArgumentParser(prog="python -m workloads.openai_server", allow_abbrev=False)
    command.add_argument("model")
    command.add_argument("--served-model-name", required=True)
    command.add_argument("--host", required=True)
    command.add_argument("--port", type=options.port, required=True)
    command.add_argument("--max-model-len", type=options.positive)
    command.add_argument("--chat-template")
    command.add_argument("--dtype", default="auto")
    return command


def load(args: argparse.Namespace) -> Generator:
    """The model on a GPU if there is one, in its weights' own type."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    own_tokenizer = tokenizer.of_model(args.model)
    if args.chat_template:
        with open(args.chat_template, encoding="utf-8") as file:  # noqa: PTH123
            own_tokenizer.chat_template = file.read()
    model: PreTrainedModel = (
        AutoModelForCausalLM.from_pretrained(args.model, dtype=args.dtype).to(device).eval()
    )
    if unused := sampling.unused(args.model, model.generation_config):
        print(unused, file=sys.stderr, flush=True)
    ends = architectures.end_tokens(model.generation_config, own_tokenizer.eos_token_id)
    # how to sample is a request's to say, and where to end the choices' own
    model.generation_config = GenerationConfig(pad_token_id=0)
    positions = architectures.positions(model.config) or args.max_model_len or UNLIMITED
    limits = Limits(
        min(positions, args.max_model_len or positions), model.get_input_embeddings().num_embeddings
    )
    return Generator(model, own_tokenizer, ends, limits)


def main() -> None:
    """Serve until a signal comes."""
    args = parser().parse_args()
    server = app.Server(load(args), args.served_model_name)
    guarded = app.application(server, os.environ.get("VLLM_API_KEY") or None)
    uvicorn.run(guarded, host=args.host, port=args.port, timeout_graceful_shutdown=GRACE)


if __name__ == "__main__":
    main()
