"""Trainers on two ranks go on from their hosts' own disks, agree with each other, and tell what `prove` compares.

The runs are of few processes (cuts.py): each workload is interrupted and goes on, two are also undisturbed.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("trl", reason="the train extra is not installed")

from tests.docker.workloads import ranks, tiny
from tests.docker.workloads.test_lora import ADAM, MODEL, rows

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.deepspeed
WORDS = ("--max-steps=4", "--log-every=4", "--seq-length=48", "--lr=1e-2", "--checkpoint-every=4")
TRUST = ("--verify-every=2", "--digests")
LORA = ("--lora-rank=4", "--lora-dropout=0.2")
# workload, its data, ZeRO stage, and options
KINDS = {
    "finetune": ("prompts", 3, LORA),
    "chat_sft": ("prompts", 2, ("--checkpoint-async",)),
    "chat_reward": ("pairs", 2, ()),
    "chat_dpo": ("pairs", 1, ("--lora-rank=4",)),
}
UNDISTURBED = ("finetune", "chat_sft")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all runs."""
    folder = tmp_path_factory.mktemp("trainers")
    tiny.save(folder / "model", MODEL)
    for name, lines in rows().items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))

    def case(workload: str, name: str, **more: Any) -> dict[str, Any]:
        data, stage, words = KINDS[workload]
        own = ("--checkpoint-local", folder / f"scratch {name}", "--checkpoint-local-every", 1)
        place = ("--model", folder / "model", "--data", folder / f"{data}.jsonl")
        return {
            "workload": workload,
            "run_dir": str(folder / f"{workload} {name}"),
            "config": ranks.deepspeed(2, stage, 2, 2, **ADAM),
            "words": [str(word) for word in (*place, *WORDS, *TRUST, *words, *own)],
            **more,
        }

    cases = [case(workload, "whole") for workload in UNDISTURBED]
    for workload in KINDS:
        cases += [case(workload, "cut", stop_before=3), case(workload, "cut")]
    run = ranks.start_cases(folder / "ranks", 2, cases)
    assert set(run.wait(2 * ranks.TIMEOUT)) == {0}, run.output()
    ends = [
        line.rpartition(" ended with ")[2] for line in run.output(0).splitlines() if " ended with " in line
    ]
    assert ends == ["0"] * len(UNDISTURBED) + ["an interruption", "0"] * len(KINDS), run.output()
    return folder


def told(runs: Path, name: str, event: str | None = None) -> list[dict[str, Any]]:
    lines = map(json.loads, (runs / name / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line.get("event") == event]


@pytest.mark.parametrize("workload", KINDS)
def test_they_go_on_from_the_hosts_own_disks(workload: str, runs: Path) -> None:
    name = f"{workload} cut"
    assert [start["resumed_from"] for start in told(runs, name, "start")] == [None, "checkpoint-2"]
    assert sorted(saved["step"] for saved in told(runs, name, "own_disk")) == [1, 2, 3]
    here = [path.name for path in (runs / name / "checkpoints").glob("checkpoint-*")]
    assert here == ["checkpoint-4"], "what is on own disks is not in the run's folder"
    steps = told(runs, name)
    assert [step["step"] for step in steps] == [1, 2, 3, 4]
    assert all(len(step["samples"]) == 16 for step in steps)
    assert not told(runs, name, "corrupted")


@pytest.mark.parametrize("workload", UNDISTURBED)
def test_what_goes_on_is_bit_for_bit_what_nothing_has_disturbed(workload: str, runs: Path) -> None:
    whole, cut = f"{workload} whole", f"{workload} cut"
    for figure in ("loss", "samples", "tokens", "grad_norm"):
        one, other = ({step["step"]: step[figure] for step in told(runs, name)} for name in (whole, cut))
        assert one == other, figure
    states = [
        {key: value for key, value in told(runs, name, "state")[-1].items() if key != "time"}
        for name in (whole, cut)
    ]
    assert states[0] == states[1]
    assert {"parameters", "optimizer", "parameters_norm", "exp_avg_norm"} <= states[0].keys()
    assert [state["step"] for state in told(runs, cut, "state")] == [2, 4]  # once it was loaded, and saved
