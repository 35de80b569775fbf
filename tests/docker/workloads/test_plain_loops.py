"""Every stage learns, step by step, what a loop in torch learns that was written from the papers.

With the same weights, batches, rates and random numbers, without DeepSpeed, Trainer or TRL: so what differs is a
mistake of one of the two. The loops are the bench's.
"""

from __future__ import annotations

import pytest

pytest.importorskip("trl", reason="the train extra is not installed")

from tests.bench import rivals, toy, training

pytestmark = pytest.mark.deepspeed

SEED, STEPS = 0, 5


@pytest.fixture(scope="session")
def curves(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[list[float], list[float]]]:
    """Of each stage, the figure of each step of the workload and of the plain loop."""
    folder = tmp_path_factory.mktemp("plain")
    toy.prepare(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            toy, "STAGES", {name: stage._replace(steps=STEPS) for name, stage in toy.STAGES.items()}
        )
        ours = training.our_curves(folder, [*toy.STAGES], SEED + 1)
        return {stage: (ours[stage][SEED], rivals.plain(folder, stage, SEED)) for stage in toy.STAGES}


@pytest.mark.parametrize("stage", toy.STAGES)
def test_the_steps_are_those_of_a_plain_loop(
    stage: str, curves: dict[str, tuple[list[float], list[float]]]
) -> None:
    ours, plain = curves[stage]
    assert len(set(ours)) == STEPS
    assert ours == pytest.approx(plain, rel=1e-5)
