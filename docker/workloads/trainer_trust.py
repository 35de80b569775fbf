"""What shows whether the ranks of a Trainer compute what they should: that they agree, and digests for `prove`.

Owns what a sample of a Trainer's batch is, however the batch is padded, packed or cut into ranks; what is compared and
hashed is of replicas.py and evidence.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workloads import evidence, replicas
from workloads.stages import IGNORED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    import torch
    from transformers import Trainer

    from workloads.stages import Stage

    Judge = Callable[[Any, dict[str, torch.Tensor]], Iterable[torch.Tensor]]


def agreement(trainer: Trainer, stage: Stage, judge: Judge | None) -> replicas.Replicas | None:
    """What is compared between the ranks, by what `judge` says first of the run's first examples.

    None without --verify-every, with one rank, or where a workload has no judge.
    """
    this = stage.this
    if not vars(stage.args).get("verify_every") or this.world_size == 1 or judge is None:
        return None
    first = trainer._remove_unused_columns(trainer.train_dataset.select(range(stage.size.micro)))
    batch = trainer.data_collator(list(first))

    def loss() -> torch.Tensor:
        return next(iter(judge(trainer.model_wrapped, trainer._prepare_inputs(dict(batch)))))

    return replicas.between(this, stage.log, lambda: trainer.deepspeed, loss)


def digests(trainer: Trainer, stage: Stage) -> evidence.Evidence | None:
    """Counts the samples of each step from now on; None without --digests."""
    if not vars(stage.args).get("digests"):
        return None
    kept, batches = evidence.Evidence(stage.this, stage.log), trainer.get_batch_samples

    def seen(*given: Any, **more: Any) -> Any:
        found = batches(*given, **more)
        for batch in found[0]:
            kept.see(samples(batch))
        return found

    trainer.get_batch_samples = seen
    return kept


def samples(batch: Mapping[str, torch.Tensor]) -> Iterator[torch.Tensor]:
    """The examples of a batch, each as one row of numbers: its tokens, and those of them that are learned.

    What only fills a row up to the longest is left out; packed examples are told apart by their positions, which begin
    anew with each.
    """
    import torch

    for number, tokens in enumerate(batch["input_ids"]):
        of_row = {key: batch[key][number] for key in _OF_A_TOKEN if key in batch}
        labels = of_row.pop("labels", tokens[:0])
        if "position_ids" in of_row:
            starts = torch.nonzero(of_row["position_ids"] == 0).flatten()[1:].tolist()
            pieces = zip(tokens.tensor_split(starts), labels.tensor_split(starts), strict=True)
            yield from (torch.cat(piece) for piece in pieces)
            continue
        there = of_row.get("attention_mask", torch.ones_like(tokens)).bool()
        parts = [tokens[there], labels[labels != IGNORED]]
        if "completion_mask" in of_row:
            parts.append(of_row["completion_mask"][there])
        yield torch.cat(parts)


_OF_A_TOKEN = ("labels", "attention_mask", "completion_mask", "position_ids")
