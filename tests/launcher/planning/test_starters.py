"""Commands that start ranks themselves: told before N trainings of one rank succeed in the place of one of N."""

from __future__ import annotations

from typing import Any

import pytest

from launcher.errors import PlanError
from launcher.planning import starters
from tests import samples

ONCE_A_SLOT = "starts the ranks itself, and would be started once a slot"
ON_EACH = "starts the ranks of all hosts, and is started on each"


def said(command: str, slots: int = 8, **job: Any) -> str:
    made = samples.job(workload="command", command=command.split(), **job)
    return " ".join(problem.message for problem in starters.problems(made, slots))


@pytest.mark.parametrize(
    "command",
    [
        "torchrun train.py",
        "/opt/venv/bin/torchrun --max-restarts=0 train.py",
        "python -m torch.distributed.run train.py",
        "python3.12 -u -m torch.distributed.launch train.py",
        "accelerate launch train.py",
        "python -m accelerate.commands.launch train.py",
        "env NCCL_DEBUG=INFO torchrun train.py",
        "uv run torchrun train.py",
        "uv run --no-sync --with x torchrun train.py",
        "env -u FOO torchrun train.py",
        "python -X faulthandler -W ignore -m torch.distributed.run train.py",
        "accelerate-launch train.py",
        "deepspeed train.py",
        "mpirun -n 8 python train.py",
        "srun python train.py",
    ],
)
def test_what_starts_ranks_is_started_once_a_host(command: str) -> None:
    assert ONCE_A_SLOT in said(command)
    assert said(command, processes="host") == ""
    assert said(command, slots=1) == "", "it is the only rank"


@pytest.mark.parametrize(
    "command", ["deepspeed train.py", "mpirun python train.py", "srun train", "horovodrun train"]
)
@pytest.mark.parametrize("processes", ["slot", "host"])
def test_what_starts_the_ranks_of_all_hosts_has_no_place_on_each(command: str, processes: str) -> None:
    assert ON_EACH in said(command, nodes={"max": 2}, processes=processes)


@pytest.mark.parametrize(
    "command",
    [
        "python train.py",
        "python -m my.package.train --launcher torchrun",
        "accelerate config",
        "./train --deepspeed ds_config.json",
        "bash -c torchrun",
        "python -u train.py torchrun",
        "python train.py deepspeed",
        "llamafactory-cli train cfg.yaml",
        "env",
    ],
)
def test_other_programs_are_none(command: str) -> None:
    assert said(command, nodes={"max": 2}) == ""


@pytest.mark.parametrize(
    ("options", "fits"),
    [
        ("--nnodes=1", False),
        ("--nnodes 3", False),
        ("--standalone", False),
        ("--nnodes=2", True),
        ("--nnodes=02", True),
        ("t.py --nnodes=1", True),
        ("t.py --standalone", True),
        ("--nnodes=1:4", True),
        ("--nnodes=$NNODES", True),
        ("", True),
    ],
)
def test_the_hosts_that_it_is_told_of_are_the_jobs(options: str, fits: bool) -> None:
    told = said(f"torchrun {options} train.py", nodes={"max": 2}, processes="host")
    assert (told == "") == fits
    assert fits or "and the job has 2" in told


def test_it_is_refused_with_its_place() -> None:
    with pytest.raises(PlanError, match=ONCE_A_SLOT):
        samples.decided({"workload": "command", "command": ["torchrun", "a.py"]}, slots=2)
