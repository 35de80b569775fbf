"""A rank of pretraining that silently gets something wrong at a step: `--fault=parameter` or `--fault=result`.

Started as `python -m tests.docker.workloads.faulty_rank`, as workloads.pretrain is, and at fault once in a run's life;
test_replicas.py says what should come of it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workloads.training import Training

RANK, STEP = 1, 5
PARAMETER = "model.norm.weight"


def flip(training: Training) -> None:
    """One bit of one element of one parameter."""
    import torch

    parameter = dict(training.engine.module.named_parameters())[PARAMETER]
    parameter.data.view(torch.int32).view(-1)[7] ^= 1 << 25  # of the exponent: a sixteenth of 1


def compute_wrongly(training: Training) -> None:
    """The result of the last norm is wrong in one place from now on."""

    def wrong(_module: Any, _given: Any, result: Any) -> Any:
        result = result.clone()
        result.view(-1)[3] += 1.0
        return result

    training.engine.module.base_model.norm.register_forward_hook(wrong)


def main() -> None:
    from workloads import pretrain, training

    (word,) = (word for word in sys.argv if word.startswith("--fault="))
    sys.argv.remove(word)
    fault = {"parameter": flip, "result": compute_wrongly}[word.partition("=")[2]]
    step = training.Training.step

    def faulty(self: Training) -> bool:
        stop = step(self)
        mark = self.this.run_dir / "faulty"
        if (self.this.rank, self.progress.step) == (RANK, STEP) and not mark.exists():
            mark.touch()
            fault(self)
        return stop

    training.Training.step = faulty  # type: ignore[method-assign]
    sys.argv[0] = "pretrain"
    pretrain.main()


if __name__ == "__main__":
    main()
