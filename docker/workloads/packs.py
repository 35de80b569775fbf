"""Several examples in one: TRL's packing, in which each example attends to itself alone.

Owns for which models that holds. Examples are told apart by their positions, which begin anew with each: transformers
makes the mask of eager and sdpa attention of them where nothing is cached, which the Trainer sees to, and flash
attention takes their lengths. TRL 1.16 packs for any model; here it is refused where this was not seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workloads import options, packages
from workloads.formats import Row
from workloads.session import Stop

if TYPE_CHECKING:
    import argparse

    from transformers import PretrainedConfig

    from workloads.stages import Stage

# whose examples do not see each other, by tests/docker/workloads/test_packs.py
APART = ("gpt2", "gpt_neox", "llama", "mistral", "mixtral", "phi3", "qwen2", "qwen3", "gemma2", "gemma3_text")


def add_option(group: argparse._ArgumentGroup) -> None:
    """Add the packing."""
    group.add_argument(
        "--packing",
        action=options.SWITCH,
        default=False,
        help="put as many examples into one as fit into --seq-length, each of which attends to itself alone; a sample "
        "of the batch is then such a pack",
    )


def check(settings: PretrainedConfig) -> None:
    """Raise Stop for a model whose packed examples would see each other."""
    if settings.model_type not in APART:
        raise Stop(
            f"--packing: it is not known that packed examples of a {settings.model_type} do not see each other; it is "
            f"of {', '.join(APART)}: leave it out"
        )


def pack(rows: list[Row], stage: Stage) -> list[Row]:
    """The examples, as many in each as fit into the stage's length; `seq_lengths` says where they are."""
    packages.require("trl", "--packing")
    from datasets import Dataset
    from trl import pack_dataset

    if not rows:
        return rows
    columns = Dataset.from_list([{key: row[key] for key in ("input_ids", "labels")} for row in rows])
    return [Row(row) for row in pack_dataset(columns, stage.length)]


def collator(stage: Stage) -> Any:
    """What makes a batch of packed examples: one long row of all of them, with positions."""
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    return DataCollatorForLanguageModeling(stage.tokenizer.pad_token_id, padding_free=True)
