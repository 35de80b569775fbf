"""What the script of a job with spares does when a host goes: attempts inside the job, and when it is put back.

Bash runs the script; srun and Slurm's other commands are stand-ins. tests/real/slurm/test_spares.py has real hosts.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from launcher import schedulers
from launcher.files import load
from launcher.planning import plan
from tests import samples, standins

pytestmark = pytest.mark.heavy  # programs of their own

# What srun is asked for, and on which hosts; what is done then is the scenario's.
SRUN = """
case "$*" in
  */preflight.py*) what=check ;; */node.py*) what=ranks ;; *SLURMD_NODENAME*) what=look ;; *) exec sleep 60 ;;
esac
while [ $# -gt 0 ]; do
  case $1 in --nodelist=*) list=${1#*=} ;; --folder) folder=$2 ;; --attempt) attempt=$2 ;; esac
  case $1 in --spares) echo "$2" >>"$DUMP/spares" ;; esac
  shift
done
echo "$what $list" >>"$DUMP/steps"
outcome() { echo "$1 -1 $2 1.0" >"$folder/outcome-$attempt"; }
scenario() {
%s
}
# a TaskProlog of the site's prints a line where a task starts
answers=$(echo "$list" | tr , '\\n' | grep -v "${SILENT:-nobody}")
case $what in look) [ -z "$answers" ] || printf 'welcome\\n%%s\\n' "$answers" ;; *) scenario ;; esac
"""
SCONTROL = """
case "$*" in
  "show hostnames"*) printf 'host-1\\nhost-2\\nhost-3\\nhost-4\\n' | head -n "$HOSTS" | grep -vxf "$DUMP/gone" ;;
  requeue*) echo "$*" >>"$DUMP/requeued"; exit 1 ;;
esac
"""
LOST = "7-0) outcome 70 host-2; exec sleep 60 ;;"
WELL = "*) outcome 0 host-1 ;;"


@dataclass
class Done:
    """What a script has left."""

    code: int
    folder: Path
    steps: list[str]
    requeued: bool
    held: list[str]  # hosts beside those that train, of each attempt

    @property
    def bad(self) -> list[str]:
        path = self.folder.parent / "bad-hosts.txt"
        return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def idle(self) -> list[str]:
        return (self.folder / "spares").read_text().split()


def ran(
    tmp_path: Path,
    *cases: str,
    preflight: bool = False,
    silent: str = "nobody",
    there: int = 0,
    later: bool = False,
    **job: Any,
) -> Done:
    """The script of a job of two hosts and a spare after its end; `cases` of `$attempt` say what each step does.

    `silent`: hosts that answer nothing; `there`: hosts that Slurm gives; 0: as many as the job may have; `later`: the
    job runs elsewhere when the script ends.
    """
    stage = standins.Stage(tmp_path)
    fields = {"workload": "/own.py", "nodes": 2, "spares": 1, "preflight": preflight, **job}
    made = plan.make(load.Loaded(samples.job(**fields), samples.cluster(slots=1)), stage.site("plain"))
    cases = cases if preflight else ('case "$attempt" in', *cases, "esac")
    stage.program(tmp_path / "bin" / "srun", SRUN % "\n".join(cases))
    stage.program(tmp_path / "bin" / "scontrol", SCONTROL)
    stage.program(tmp_path / "bin" / "sinfo", 'cat "$DUMP/down" 2>/dev/null')
    (tmp_path / "dump" / "gone").write_text("nobody\n")
    script = schedulers.load("slurm").render(made)["job.sh"]
    code = stage.run(script, HOSTS=str(there or made.allocated), SILENT=silent)
    asked = tmp_path / "dump" / "steps"
    steps = asked.read_text().splitlines() if asked.exists() else []
    (folder,) = tmp_path.glob("named/plain/runs/*-*/")
    if not later:
        assert (folder / "exit_code").read_text() == f"{code}\n"
    held = tmp_path / "dump" / "spares"
    return Done(
        code=code,
        folder=folder,
        steps=steps,
        requeued=(tmp_path / "dump" / "requeued").exists(),
        held=held.read_text().split() if held.exists() else [],
    )


def test_a_host_more_is_allocated_and_the_job_outlives_one() -> None:
    script = schedulers.load("slurm").render(samples.decided({"nodes": 2, "spares": 1}))["job.sh"]
    assert {"#SBATCH --nodes=3", "#SBATCH --no-kill"} <= set(script.splitlines())
    words = [str(Path(sys.executable).with_name("shellcheck")), "--shell=bash", "-"]
    done = subprocess.run(words, input=script, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "timeout --kill-after=5 20 srun" in script  # one with a host that is gone outlives SIGTERM
    without = schedulers.load("slurm").render(samples.decided({"nodes": 2}))["job.sh"]
    assert "no-kill" not in without
    assert without.count("--overlap") == 1, "to ask who answers"


# Preflight finds that host-3 is unfit, and in its next round that the others are fit.
UNFIT = """
case $what,$list in
  check,*host-3*) outcome 76 host-3; echo "host-3 scratch: full" >"$folder/unfit-$attempt"; exit 76 ;;
  check,*) printf 'host-1\\nhost-2\\n' >"$folder/chosen-$attempt" ;;
  ranks,*) outcome 0 host-1 ;;
esac"""
VARYING: dict[str, Any] = {"spares": 0, "checkpoint": {"any_ranks": True}}


def configured(done: Done, name: str = "gradient_accumulation_steps") -> int:
    return int(json.loads((done.folder / "ds_config.json").read_text())[name])


def test_a_job_goes_on_with_fewer_hosts(tmp_path: Path) -> None:
    """Of three hosts two train, among which the batch divides; when one of these is lost the third takes its place."""
    batch = {"micro": 1, "global": 8}
    done = ran(tmp_path, LOST, WELL, **VARYING, nodes={"min": 1, "max": 4}, batch=batch, there=3)
    assert (done.code, done.bad, done.idle, done.requeued) == (0, ["host-2"], [], False)
    assert done.steps == ["ranks host-2,host-3", "look host-1,host-3", "ranks host-1,host-3"]
    assert "2 of 3 hosts train: a step divides among so many" in (done.folder / "logs/job.log").read_text()
    assert configured(done) == 4


def test_with_fewer_hosts_each_rank_has_more_of_a_step(tmp_path: Path) -> None:
    batch = {"micro": 1, "global": 12}
    done = ran(tmp_path, LOST, WELL, **VARYING, nodes={"min": 1, "max": 3}, batch=batch)
    assert (done.code, done.idle) == (0, [])
    assert [step for step in done.steps if "ranks" in step] == [
        "ranks host-1,host-2,host-3",
        "ranks host-1,host-3",
    ]
    assert (configured(done), configured(done, "train_batch_size")) == (6, 12)
    told = json.loads((done.folder / "environment.json").read_text())
    assert told["BATCH_ACCUMULATION"]["value"] == "6"
    assert (done.folder / "environment.json").stat().st_mode & 0o77 == 0


def test_with_fewer_than_the_fewest_it_is_put_back(tmp_path: Path) -> None:
    done = ran(tmp_path, LOST, "*) outcome 70 host-3; exit 70 ;;", **VARYING, nodes={"min": 2, "max": 3})
    assert (done.code, done.bad, done.requeued) == (70, ["host-2", "host-3"], True)
    assert "1 hosts are left, and 2 are needed" in (done.folder / "logs" / "job.log").read_text()


def test_preflight_is_told_the_numbers_and_an_unfit_host_is_done_without(tmp_path: Path) -> None:
    done = ran(tmp_path, UNFIT, preflight=True, **VARYING, nodes={"min": 1, "max": 3})
    assert (done.code, done.bad, done.idle) == (0, ["host-3"], [])
    assert done.steps == ["check host-1,host-2,host-3", "check host-1,host-2", "ranks host-1,host-2"]
    assert "--choose=1 \\\n    --choose=2 \\\n    --choose=3" in (tmp_path / "job.sh").read_text()


def test_the_script_of_a_range_is_well_formed() -> None:
    job = {"nodes": {"min": 1, "max": 4}, "batch": {"micro": 1, "global": 8}}
    script = schedulers.load("slurm").render(samples.decided(job))["job.sh"]
    assert {"#SBATCH --nodes=1-4", "#SBATCH --no-kill"} <= set(script.splitlines())
    words = [str(Path(sys.executable).with_name("shellcheck")), "--shell=bash", "-"]
    done = subprocess.run(words, input=script, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    one = {"nodes": {"min": 3, "max": 4}, "batch": {"micro": 1, "global": 8}}
    script = schedulers.load("slurm").render(samples.decided(one))["job.sh"]
    assert "#SBATCH --nodes=4" in script.splitlines()
    assert "no-kill" not in script


def test_a_spare_takes_the_place_of_a_lost_host(tmp_path: Path) -> None:
    """srun would wait for the host that is lost, and the host of the script is the last to train."""
    done = ran(tmp_path, LOST, WELL)
    assert (done.code, done.bad, done.idle, done.requeued) == (0, ["host-2"], [], False)
    assert done.steps == ["ranks host-2,host-3", "look host-1,host-3", "ranks host-1,host-3"]
    assert done.held == ["1", "0"]
    assert (done.folder / "hostfile-7-1").read_text() == "host-1 slots=1\nhost-3 slots=1\n"
    log = (done.folder / "logs" / "job.log").read_text()
    assert "attempt 1, inside job 7, on host-1 host-3; idle: \n" in log


def test_a_host_that_hangs_is_replaced_and_a_rank_that_fails_is_not(tmp_path: Path) -> None:
    hang = '7-0) outcome 72 host-3; echo "host-3 stalled: x" >"$folder/unfit-7-0"; : >"$folder/again-7-0"; exit 72 ;;'
    fails = '7-1) outcome 139 host-2; : >"$folder/again-7-1"; exit 139 ;;'
    done = ran(tmp_path, hang, fails, WELL, spares=2)
    assert (done.code, done.bad, done.idle) == (0, ["host-3"], ["host-1"])
    assert done.held == ["2", "2", "2"], "the job has a host that hangs until its end"
    assert [step for step in done.steps if step.startswith("ranks")] == [
        "ranks host-2,host-3",
        "ranks host-2,host-4",
        "ranks host-2,host-4",
    ]


def test_a_host_that_computes_other_bits_is_replaced(tmp_path: Path) -> None:
    blamed = 'echo "host-2 corrupted: differs" >"$folder/unfit-7-0"; : >"$folder/again-7-0"'
    done = ran(tmp_path, f'7-0) echo "78 0 host-2 1.0" >"$folder/outcome-7-0"; {blamed}; exit 78 ;;', WELL)
    assert (done.code, done.bad, done.idle, done.requeued) == (0, ["host-2"], [], False)
    assert done.steps[-1] == "ranks host-1,host-3"
    assert "host-2 20" in (done.folder.parent / "bad-hosts.txt").read_text()


def test_a_host_on_which_ranks_fail_twice_running_is_replaced(tmp_path: Path) -> None:
    outcome = 'echo "134 1 host-3 1.0" >"$folder/outcome-$attempt"'
    fails = f'7-0 | 7-1) {outcome}; : >"$folder/again-$attempt"; exit 134 ;;'
    done = ran(tmp_path, fails, WELL)
    assert (done.code, done.bad, done.idle) == (0, ["host-3"], [])
    assert [step for step in done.steps if "ranks" in step] == [
        "ranks host-2,host-3",
        "ranks host-2,host-3",
        "ranks host-1,host-2",
    ]


def test_a_host_that_is_cut_off_and_blames_another_is_found(tmp_path: Path) -> None:
    done = ran(tmp_path, LOST, WELL, silent="host-3")
    assert (done.code, done.bad, done.idle) == (0, ["host-3"], [])
    assert done.steps[1:] == ["look host-1,host-3", "look host-2", "ranks host-1,host-2"]


def test_one_that_slurm_has_taken_out_of_the_job_already_is_found_too(tmp_path: Path) -> None:
    taken = '7-0) outcome 70 host-3; echo host-2 >"$DUMP/gone"; exec sleep 60 ;;'
    done = ran(tmp_path, taken, WELL)
    assert (done.code, done.bad, done.idle) == (0, ["host-2"], [])
    assert done.steps[1:] == ["look host-1", "look host-3", "ranks host-1,host-3"]


def test_the_first_host_is_cut_off_and_another_ones_rank_fails_of_it_before_that_is_known(
    tmp_path: Path,
) -> None:
    """A rank whose connection ended is the first failure that is written down, and nobody has decided on a restart."""
    fails = 'outcome() { echo "1 1 host-3 1.0" >"$folder/outcome-$attempt"; }; outcome; exit 1'
    done = ran(tmp_path, f"7-0) {fails} ;;", WELL, silent="host-2")
    assert (done.code, done.bad, done.idle) == (0, ["host-2"], [])
    assert done.steps[1:] == ["look host-2", "look host-1", "look host-1,host-3", "ranks host-1,host-3"]


def test_no_host_is_lost_where_none_answers(tmp_path: Path) -> None:
    """As after scancel: Slurm starts nothing any more in a job that it ends."""
    done = ran(tmp_path, '*) echo "143 0 host-2 1.0" >"$folder/outcome-7-0"; exit 143 ;;', silent="host")
    assert (done.code, done.bad, done.requeued) == (143, [], False)


@pytest.mark.parametrize("job", [{"spares": 1}, {**VARYING, "nodes": {"min": 1, "max": 3}}])
def test_a_host_that_is_lost_with_no_restart_left_is_blamed(job: dict[str, Any], tmp_path: Path) -> None:
    done = ran(tmp_path, LOST, **job, restarts=0)
    assert (done.code, done.bad, done.requeued) == (70, ["host-2"], False)
    assert "command not found" not in (done.folder / "logs" / "job.log").read_text()


@pytest.mark.parametrize("preflight", [False, True])
def test_too_few_hosts_are_no_success(preflight: bool, tmp_path: Path) -> None:
    """`sbatch --nodes=1 job.sh` takes the place of the script's own number."""
    done = ran(tmp_path, WELL, preflight=preflight, there=1)
    assert (done.code, done.steps) == (71, [])
    assert "1 hosts are left, and 2 are needed" in (done.folder / "logs" / "job.log").read_text()


def test_a_host_in_two_partitions_is_gone_once(tmp_path: Path) -> None:
    """sinfo has a line for each of them."""
    down = '7-0) printf "host-4\\nhost-4\\n" >"$DUMP/down"; outcome 70 host-2; exec sleep 60 ;;'
    done = ran(tmp_path, down, WELL, spares=2)
    assert (done.code, done.bad, done.held) == (0, ["host-4", "host-2"], ["2", "0"])


def test_two_hosts_are_lost_at_once(tmp_path: Path) -> None:
    done = ran(tmp_path, LOST, WELL, silent="host-[23]", spares=2)
    assert (done.code, sorted(done.bad)) == (0, ["host-2", "host-3"])
    assert done.steps[-1] == "ranks host-1,host-4"


@pytest.mark.parametrize(
    ("silent", "bad"),
    [
        ("host-2", ["host-2"]),
        ("host-1", ["host-1"]),  # the one that is cut off was the first to say that another is lost
        ("host-[12]", []),  # the script's own host is cut off: what it hears says nothing of others
        ("nobody", ["host-2"]),  # its node entry was killed
    ],
)
def test_without_spares_a_host_that_answers_is_not_lost(silent: str, bad: list[str], tmp_path: Path) -> None:
    done = ran(tmp_path, "*) outcome 70 host-2; exit 70 ;;", silent=silent, spares=0)
    assert (done.code, done.bad, done.requeued) == (70, bad, True)


@pytest.mark.parametrize("spares", [0, 1])
def test_a_host_that_was_cut_off_does_not_end_the_attempt_that_runs_elsewhere(
    spares: int, tmp_path: Path
) -> None:
    """Nor has it Slurm start the job again, which may have ended well."""
    later = '*) : >"$folder/hostfile-7-1"; echo {} >"$folder/events.jsonl"; outcome 70 host-2; exit 70 ;;'
    done = ran(tmp_path, later, spares=spares, later=True)
    assert [step for step in done.steps if "ranks" in step] == done.steps[:1]
    assert not done.requeued
    assert not (done.folder / "exit_code").exists()
    assert (done.folder / "events.jsonl").read_text() == "{}\n"


def test_the_ends_of_attempts_are_told_as_slurm_counts_them(tmp_path: Path) -> None:
    """Of each attempt inside the job too: the next one begins at that moment."""
    lost = '7-0) printf "{}\\n{cut" >"$folder/events.jsonl"; outcome 70 host-2; exec sleep 60 ;;'
    done = ran(tmp_path, lost, WELL)
    _, cut, *ends = (done.folder / "events.jsonl").read_text().splitlines()
    assert cut == "{cut"
    told = [json.loads(end) for end in ends]
    assert [(end["event"], end["attempt"], end["by"]) for end in told] == [
        ("ended", "7-0", "slurm"),
        ("ended", "7-1", "slurm"),
    ]
    assert told[0]["time"] <= told[1]["time"]


def test_without_a_spare_left_it_is_put_back(tmp_path: Path) -> None:
    done = ran(tmp_path, LOST, "*) outcome 70 host-3; exit 70 ;;")
    assert (done.code, done.bad, done.requeued) == (70, ["host-2", "host-3"], True)
    assert "1 hosts are left, and 2 are needed" in (done.folder / "logs" / "job.log").read_text()


@pytest.mark.parametrize(
    ("case", "job", "requeued"),
    [
        ("*) outcome 1 host-2; exit 1 ;;", {}, False),  # restarts.py left no word that it may help
        ("*) outcome 70 host-2; exit 70 ;;", {"restarts": 0}, False),
        ("*) outcome 75 host-2; exit 75 ;;", {}, True),
    ],
)
def test_what_is_not_tried_again_inside_the_job(
    case: str, job: dict[str, Any], requeued: bool, tmp_path: Path
) -> None:
    done = ran(tmp_path, case, **job)
    assert len([step for step in done.steps if "ranks" in step]) == 1
    assert done.requeued == requeued


def test_preflight_takes_the_best_and_an_unfit_host_is_left_out(tmp_path: Path) -> None:
    done = ran(tmp_path, UNFIT, preflight=True)
    assert (done.code, done.bad, done.idle) == (0, ["host-3"], [])
    assert done.steps == ["check host-1,host-2,host-3", "check host-1,host-2", "ranks host-1,host-2"]


def test_too_few_fit_hosts_end_the_job(tmp_path: Path) -> None:
    scenario = 'outcome 76 host-2; printf "host-2 x\\nhost-3 x\\n" >"$folder/unfit-$attempt"; exit 76'
    done = ran(tmp_path, scenario, preflight=True)
    assert (done.code, done.steps, done.requeued) == (76, ["check host-1,host-2,host-3"], False)
    assert done.bad == ["host-2", "host-3"]
