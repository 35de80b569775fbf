"""Whether what must be equal on all ranks is: after a silent corruption the odd rank is named, and nothing is saved.

Owns the comparison. All ranks compute the hidden states and loss of one input that is the same for all, which a chip
that is at fault gets wrong; ranks with other GPUs or libraries do too. Under ZeRO 0 to 2 every rank has all parameters
as well, equal bit for bit: a sum of their bits as whole numbers shows any one that has flipped, and costs a read of the
memory. What no second rank has (states of ZeRO's optimizer, gradients, experts that are spread) is not seen. Chips that
compute wrongly in silence are described in https://arxiv.org/abs/2102.11245 and, of training, in
https://arxiv.org/abs/2407.21783, section 3.3.4.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import heartbeat
from ending import CORRUPTED

from workloads.session import Stop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import torch
    from deepspeed import DeepSpeedEngine

    from workloads import metrics
    from workloads.saver import Saver
    from workloads.session import Session
    from workloads.training import Training

COMPUTED = ("the last hidden states of one input", "its loss")
_MOST = 3  # names in a message


class Looked(NamedTuple):
    """What a rank has of that which must be equal: names, and a whole number for each."""

    names: Sequence[str]
    values: torch.Tensor  # int64


@dataclass
class Replicas:
    """Compares the ranks. `look`: what this rank has; `good`: the last step after which all had the same."""

    session: Session
    log: metrics.Log
    look: Callable[[], list[Looked]]
    good: int | None = None

    @heartbeat.told(heartbeat.EVALUATE)
    def check(self, step: int) -> None:
        """Compare what the ranks have after `step`; all ranks call it.

        Raises Stop with CORRUPTED on every rank where they differ, of which the odd one is the first to leave.
        """
        import torch
        from torch import distributed

        looks = self.look()
        values = torch.cat([look.values for look in looks])
        # one all-reduce: the highest and, as ~ turns the order round, the lowest
        ends = torch.stack([values, ~values])
        distributed.all_reduce(ends, op=distributed.ReduceOp.MAX)
        differs = ends[0] != ~ends[1]
        if not differs.any():
            self.good = step
            return
        every = [name for look in looks for name in look.names]
        names = [name for name, differ in zip(every, differs.tolist(), strict=True) if differ]
        answers: list[Any] = [None] * self.session.world_size
        distributed.all_gather_object(answers, (socket.gethostname(), tuple(values.tolist())))
        odd, certain = outvoted([numbers for _, numbers in answers])
        hosts = [host for host, _ in answers]
        self._tell(step, odd, hosts, certain=certain, names=names)

    def compare(self, step: int, saver: Saver) -> None:
        """`check`, which raises once what is being written of when the ranks agreed is complete."""
        try:
            self.check(step)
        except Stop:
            with contextlib.suppress(Stop):
                saver.settle()
            raise

    def _tell(self, step: int, odd: list[int], hosts: list[str], *, certain: bool, names: list[str]) -> None:
        """Log what was found, and raise the Stop of `check`."""
        facts = {"ranks": odd, "hosts": [hosts[rank] for rank in odd], "certain": certain, "names": names}
        self.log.event("corrupted", step, since=self.good, **facts)
        found = ", ".join(f"rank {rank} on {hosts[rank]}" for rank in odd[: 2 * _MOST])
        found += f" and {len(odd) - 2 * _MOST} more" if len(odd) > 2 * _MOST else ""
        what = ", ".join(names[:_MOST]) + (f" and {len(names) - _MOST} more" if len(names) > _MOST else "")
        others = len(hosts) - len(odd)
        text = (
            f"{found} {'differs' if len(odd) == 1 else 'differ'} from the {others} other ranks in {what}"
            if certain
            else f"{found} differ in {what}, and no majority says who is right"
        )
        if certain and self.session.rank in odd:
            blame(f"corrupted: differs from {others} other ranks in {names[0]} after step {step}")
        before = (
            "it is the first comparison of this attempt: hosts with other GPUs or libraries differ too"
            if self.good is None
            else f"after step {self.good} they were equal. Nothing since then was saved: the newest checkpoint is of "
            "when they were equal"
        )
        raise Stop(f"after step {step} {text}; {before}", CORRUPTED, leaves=odd[0] if certain else None)


def of(training: Training) -> Replicas | None:
    """What is compared between the ranks of a training; nothing without --verify-every, or with one rank."""
    import numpy as np

    from workloads.training import next_token_loss

    this, engine = training.this, training.engine
    if not training.args.verify_every or this.world_size == 1:
        return None
    fixed = training.data.samples.batch(np.arange(training.size.micro))  # the run's first samples

    def loss() -> torch.Tensor:
        return next_token_loss(engine, fixed, training.group, this.device)[1]

    # where ranks have parts of the input, they have other results
    return between(this, training.log, lambda: engine, loss if training.group.size == 1 else None)


def between(
    this: Session,
    log: metrics.Log,
    engine: Callable[[], DeepSpeedEngine],
    loss: Callable[[], torch.Tensor] | None,
) -> Replicas:
    """Compares the parameters that each rank has whole, and what `loss` computes of one input, if it is given."""

    def look() -> Iterator[Looked]:
        if engine().zero_optimization_stage() < 3:
            yield parameters(engine())
        if loss is not None:
            yield computed(engine(), loss)

    return Replicas(this, log, lambda: list(look()))


def outvoted(values: Sequence[object]) -> tuple[list[int], bool]:
    """The ranks whose value is not that of the majority, and True; all ranks, and False, where there is none."""
    common, count = Counter(values).most_common(1)[0]
    if 2 * count <= len(values):
        return list(range(len(values))), False
    return [rank for rank, value in enumerate(values) if value != common], True


def blame(why: str) -> None:
    """Tell this host's node entry that the host is at fault: node.py puts it on the list of unfit ones."""
    folder = os.environ.get(heartbeat.VARIABLE)
    if folder:
        with contextlib.suppress(OSError):
            (Path(folder) / heartbeat.BLAME).write_text(why, encoding="utf-8")


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor's elements, their bits taken as whole numbers, modulo 2^64: int64, a scalar."""
    import torch

    whole = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    return tensor.detach().view(whole).sum(dtype=torch.int64)


def parameters(engine: DeepSpeedEngine) -> Looked:
    """Of each parameter that every rank has whole; experts that are spread over ranks are left out."""
    import torch

    whole = {name: p for name, p in engine.module.named_parameters() if getattr(p, "allreduce", True)}
    return Looked(list(whole), torch.stack([bits(parameter) for parameter in whole.values()]))


def computed(engine: DeepSpeedEngine, loss: Callable[[], torch.Tensor]) -> Looked:
    """Of one input, without dropout and gradients: the last hidden states, and the loss, which `loss` computes."""
    import torch

    states: list[torch.Tensor] = []
    hook = _body(engine.module).register_forward_hook(
        lambda _module, _given, result: states.append(result[0])
    )
    engine.eval()
    with hook, torch.no_grad():
        result = loss()
    engine.train()
    seen = [*states[-1:], result.reshape(1)]
    return Looked(COMPUTED[-len(seen) :], torch.stack([bits(one) for one in seen]))


def _body(model: Any) -> Any:
    """What computes a model's hidden states: all but its last layer, or an encoder alone."""
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    body = plain.base_model
    return plain.get_encoder() if body is plain and plain.config.is_encoder_decoder else body
