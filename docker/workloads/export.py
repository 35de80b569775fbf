"""A model for transformers from any complete checkpoint of a run, without its ranks: `python -m workloads.export`.

`launcher checkpoints RUN --export DIR` calls it. It needs no GPU, and memory for the model in fp32 twice.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ending import BAD_INPUT

from workloads import architectures, checkpoint_folder, digests, engines, session
from workloads.session import Stop

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from workloads.checkpoint_folder import Checkpoint

MODEL = "mp_rank_00_model_states.pt"


def export(checkpoint: Checkpoint, folder: Path) -> None:
    """Write the model of a checkpoint to a new folder: safetensors, configurations and tokenizer.

    Weights have the precision that the run trained in; ZeRO-3's come from the optimizer's fp32. Raises Stop for a
    damaged checkpoint and for one that does not hold a whole model.
    """
    if damage := digests.damaged(checkpoint.path, checkpoint.digests, checkpoint.digests):
        raise Stop(f"{checkpoint.path} is damaged: {'; '.join(damage)}")
    model, tokenizer = skeleton(checkpoint.path.parent / checkpoint_folder.MODEL)
    kind = engines.type_of(checkpoint.identity.precision)
    buffers = dict(model.to(kind).named_buffers())  # its own precision is what config.json names
    weights = {
        name: tensor.to(kind) if tensor.is_floating_point() and name not in buffers else tensor
        for name, tensor in states(checkpoint).items()
    }
    missing = {name for name, _ in model.named_parameters()} - weights.keys()
    if missing:
        raise Stop(
            f"{checkpoint.path} has no weights of {', '.join(sorted(missing)[:3])}{_adapters(checkpoint)}"
        )
    if any(".lora_" in name for name in weights):
        raise Stop(
            f"{checkpoint.path} has LoRA's adapters beside the weights, and they are merged only at the end of a run: "
            "resume it with args.merge"
        )
    half = folder.with_name(f".{folder.name}.half")
    architectures.write(model, tokenizer, weights, half)
    half.rename(folder)


def skeleton(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model that a run trains, without memory for its weights, and its tokenizer. Raises Stop."""
    import torch
    import transformers

    if not (folder / "config.json").is_file():
        raise Stop(
            f"{folder} is missing: this run is older than exports from checkpoints; resume it with args.export "
            "to have one at its end"
        )
    settings = transformers.AutoConfig.from_pretrained(folder)
    kind = getattr(transformers, (settings.architectures or ["?"])[0], None)
    if kind is None:
        raise Stop(f"transformers {transformers.__version__} has no {settings.architectures} of {folder}")
    with torch.device("meta"):
        model = kind(settings)
    if (folder / "generation_config.json").is_file():
        model.generation_config = transformers.GenerationConfig.from_pretrained(folder)
    return model, transformers.AutoTokenizer.from_pretrained(folder)


def states(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """The model's weights by name, whole, in the memory of this process. Raises Stop where ranks hold apart parts."""
    import torch

    folder = _deepspeed(checkpoint.path)
    if any(folder.glob("*expert_*_model_states.pt")):
        raise Stop(
            f"{folder} has experts that ranks hold apart (expert_parallel), which are not put together"
        )
    if checkpoint.identity.zero_stage < 3:
        kept = torch.load(folder / MODEL, map_location="cpu", mmap=True, weights_only=False)["module"]
    else:
        from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

        kept = get_fp32_state_dict_from_zero_checkpoint(str(folder.parent), tag=folder.name)
    return {architectures.plain_name(name): tensor for name, tensor in kept.items()}


def _deepspeed(path: Path) -> Path:
    """Where in a checkpoint DeepSpeed's files are: the Hugging Face Trainer has a folder for them."""
    inner = [folder for folder in path.iterdir() if re.fullmatch(r"global_step\d+", folder.name)]
    return inner[0] if inner else path


def _adapters(checkpoint: Checkpoint) -> str:
    alone = checkpoint.path / "adapter_model.safetensors"
    return f": it has LoRA's adapters alone, which peft loads from {alone.parent}" if alone.exists() else ""


def main(words: list[str] | None = None) -> int:
    """Export as the options say; 0, or the exit code of bad input after a line that says what is wrong."""
    parser = argparse.ArgumentParser(prog="workloads.export", description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="a folder such as RUN/checkpoints/step-00000500")
    parser.add_argument("output", type=Path, help="a folder that does not exist yet")
    args: Any = parser.parse_args(words)
    os.environ.setdefault("RANK", "0")
    session.be_quiet()
    if not sys.stderr.isatty():
        os.environ["TQDM_DISABLE"] = "1"
    try:
        if args.output.exists():
            raise Stop(f"{args.output} exists: name a new folder")
        export(checkpoint_folder.read(args.checkpoint), args.output)
    except (Stop, OSError, ValueError) as error:
        print(f"error: {error.message if isinstance(error, Stop) else error}", file=sys.stderr)
        return BAD_INPUT
    return 0


if __name__ == "__main__":
    sys.exit(main())
