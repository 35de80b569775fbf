"""The load-balancing loss of a mixture of experts, added to whatever else its training minimizes.

Owns what is noted of the routers at each forward pass that has a gradient, and how much of it goes with a micro batch,
so that a step's is the same however the step is cut. The arithmetic of a sequence is routing.py's.

A step's loss is the coefficient times a mean over its sequences. DeepSpeed and the Trainer take the mean of what ranks
give. Where a loss is a mean over a micro batch's samples, whose number is the same everywhere, that of its sequences
goes with it, and is divided by the accumulation where that is. Where it is a sum over labels, divided by those of the
whole step (Hugging Face's num_items_in_batch) and multiplied by the ranks, each sequence counts as its labels do: so
packs, and micro batches with unlike numbers of labels, add up to the same mean.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from workloads import routing
from workloads.samples import IGNORED

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from transformers import PreTrainedModel, Trainer


class Noted(NamedTuple):
    """Of one forward pass."""

    losses: torch.Tensor  # [sequences]
    sequences: torch.Tensor  # [samples, length]: to which a token belongs, -1 for padding


class Balance:
    """Notes how the routers of a model choose while it learns."""

    def __init__(
        self, model: PreTrainedModel, *, packed: bool = False, group: ProcessGroup | None = None
    ) -> None:
        """`packed`: one sample holds many sequences, whose positions begin at 0; `group`: ranks that share samples."""
        self.noted: list[Noted] = []
        self._settings, self._packed, self._group = model.config, packed, group
        self._sums: list[torch.Tensor] = []  # choices and entropy since the last figures
        model.config.output_router_logits = False  # transformers would add its own loss
        model.base_model.register_forward_pre_hook(self._ask, with_kwargs=True)
        model.base_model.register_forward_hook(self._note, with_kwargs=True)

    def mean(self) -> torch.Tensor:
        """The weighted loss of what was noted since the last call, a mean over sequences; 0 where nothing was."""
        losses = [losses for losses, _ in self._taken()]
        return self._weight * torch.cat(losses).mean() if losses else torch.zeros(())

    def by_labels(self, labels: torch.Tensor) -> torch.Tensor:
        """The weighted losses of what was noted since the last call, added up: each as often as it has `labels`.

        Those of [samples, length]; the first token of a sequence is predicted by nothing, and does not count.
        """
        total = torch.zeros((), device=labels.device)
        for losses, sequences in self._taken():
            learned = labels != IGNORED
            learned[:, 0] = False
            learned[:, 1:] &= sequences[:, 1:] == sequences[:, :-1]
            counts = torch.bincount(sequences[learned & (sequences >= 0)], minlength=len(losses))
            total = total + (losses * counts).sum()
        return self._weight * total

    def figures(self) -> dict[str, Any]:
        """What metrics.jsonl says of the routers since the last call; all ranks call it."""
        for sums in self._sums:
            torch.distributed.all_reduce(sums)
        found = routing.figures(self._sums[0], self._sums[1], self._settings) if self._sums else {}
        self._sums = []
        return found

    @property
    def _weight(self) -> float:
        return routing.coefficient(self._settings)

    def _taken(self) -> list[Noted]:
        noted, self.noted = self.noted, []
        return noted

    def _ask(self, _: Any, args: Any, given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**given, "output_router_logits": True} if torch.is_grad_enabled() else given

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _note(self, _: Any, args: Any, given: dict[str, Any], outputs: Any) -> None:
        del args
        if not torch.is_grad_enabled():
            return
        places = self._sequences(outputs.last_hidden_state, given)
        routed = routing.routing(outputs.router_logits, self._settings, places.flatten(), self._group)
        self.noted.append(Noted(routed.balance, places))
        sums = [routed.choices, routed.entropy]
        self._sums = [a + b for a, b in zip(self._sums, sums, strict=True)] if self._sums else sums

    def _sequences(self, hidden: torch.Tensor, given: dict[str, Any]) -> torch.Tensor:
        if self._packed:
            places: torch.Tensor = (given["position_ids"] == 0).flatten().cumsum(0).view(hidden.shape[:2]) - 1
            return places
        places = torch.arange(len(hidden), device=hidden.device)[:, None].expand(hidden.shape[:2])
        mask = given.get("attention_mask")
        return places if mask is None else places.masked_fill(mask == 0, -1)


def of(model: PreTrainedModel, **how: Any) -> Balance | None:
    """What notes a model's routers; None for a model without a load-balancing loss. `how` is of Balance."""
    return Balance(model, **how) if routing.balanced(model.config) else None


def follow(trainer: Trainer, balance: Balance) -> None:
    """Have the Trainer minimize the load-balancing loss too. What it reports as the loss stays without it."""
    trainer.aux_loss_enabled = False  # TRL's own
    inner = trainer.compute_loss

    def compute_loss(
        model: Any, inputs: dict[str, Any], *args: Any, num_items_in_batch: Any = None, **more: Any
    ) -> Any:
        labels = inputs.get("labels")
        loss = inner(model, inputs, *args, num_items_in_batch=num_items_in_batch, **more)
        if not balance.noted:  # an evaluation
            return loss
        if labels is not None and num_items_in_batch is not None:
            added = balance.by_labels(labels) * trainer.accelerator.num_processes / num_items_in_batch
        else:
            steps = trainer.current_gradient_accumulation_steps if trainer.loss_is_scaled_for_ga else 1
            added = balance.mean() / steps
        return loss + (added - added.detach())

    trainer.compute_loss = compute_loss
