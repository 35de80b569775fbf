"""Which options of sbatch a cluster file may hold: full names alone, with values where sbatch takes one."""

from __future__ import annotations

from typing import Any

import pytest

from launcher.errors import PlanError, SpecError
from launcher.schedulers import slurm
from launcher.schedulers.slurm import options, sbatch
from tests import samples

NAMES = sorted(sbatch.options())


def messages(**cluster: Any) -> list[str]:
    try:
        options.of(samples.decided(slurm=cluster))
    except (PlanError, SpecError) as error:
        return [str(problem) for problem in error.problems]
    return []


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.heavy
def test_no_start_of_a_name_is_taken_for_it(name: str) -> None:
    starts = [name[:length] for length in range(1, len(name)) if name[:length] not in sbatch.options()]
    said = "\n".join(messages(sbatch=dict.fromkeys(starts, 1)))
    assert [start for start in starts if f"sbatch.{start} is not " not in said] == []


def test_names_that_the_launcher_or_a_submission_cannot_have() -> None:
    refused = {name for name in NAMES if sbatch.name_problem(name)[0]}
    assert refused == set(sbatch.BREAKING)
    assert not set(sbatch.BREAKING) - set(NAMES)
    for name in ("parsable", "quiet", "test-only", "wrap", "wait", "version", "help", "usage", "clusters"):
        assert messages(sbatch={name: True})
    for name in ("array", "job-name", "output", "tasks", "ntasks-per-node", "no-requeue", "container"):
        assert messages(sbatch={name: True})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"arra": "0-3"}, "arra is not the full name of an option of sbatch; did you mean 'array'?"),
        (
            {"partitio": "x"},
            "partitio is not the full name of an option of sbatch; did you mean 'partition'?",
        ),
        ({"mem_per_cpu": "1G"}, "mem_per_cpu is not an option of sbatch; did you mean 'mem-per-cpu'?"),
        ({"--mem": 0}, "--mem is not an option of sbatch; did you mean 'mem'?"),
        ({"reservatoin": "x"}, "reservatoin is not an option of sbatch; did you mean 'reservation'?"),
        ({"C": "h100"}, "C is not an option of sbatch; write the long name without leading dashes"),
        ({"hold": 5}, "hold takes no value; write hold: true"),
        ({"constraint": True}, "constraint needs a value; write constraint: VALUE"),
        ({"comment": "a\rb"}, "comment cannot be written in an #SBATCH line; give it one value on one line"),
        ({"wait": True}, "wait breaks the submission; use the launcher's --wait"),
    ],
)
def test_message(given: dict[str, Any], said: str) -> None:
    assert messages(sbatch=given) == [f"slurm.sbatch.{said}"]


def test_what_is_taken() -> None:
    given = {
        "constraint": "h100",
        "mem-per-cpu": "1G",
        "hold": True,
        "exclusive": "user",
        "nice": True,
        "qos": None,
    }
    assert messages(sbatch={**given, "contiguous": False, "tmpfs-of-this-site": 5}) == [
        "slurm.sbatch.qos is set by the launcher; use `slurm.qos`"
    ]


def test_a_dependency_of_ones_own_beside_another() -> None:
    decided = samples.decided(slurm={"sbatch": {"dependency": "afterany:3"}})
    assert ("dependency", "afterany:3") in options.of(decided)
    with pytest.raises(PlanError, match="dependency is set by what this job runs after"):
        options.of(decided._replace(after=("7",)))


@pytest.mark.parametrize("line", ["#SBATCH --array=0-3", "module load x\n#SBATCH --wait", "#SBATCH hetjob"])
def test_setup_holds_no_options(line: str) -> None:
    assert messages(setup=[line]) == ["slurm.setup holds an #SBATCH line; use slurm.sbatch for options"]


def test_a_walltime_that_slurm_can_count() -> None:
    assert options.of(samples.decided({"walltime": "24855d"}))
    with pytest.raises(PlanError, match="is more than Slurm can count; use at most 24855d"):
        options.of(samples.decided({"walltime": "24856d"}))


def test_a_script_has_no_dos_line_break() -> None:
    job = {"workload": "/a.py", "args": {"text": "a\r\nb", "end": "\r"}, "env": {"A": "\r\n"}}
    script = slurm.render(samples.decided(job))["job.sh"]
    assert "\r" not in script
