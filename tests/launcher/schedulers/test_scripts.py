"""What the scripts of a run do when something is missing, and what the ranks' variables do to them: nothing.

Bash runs the scripts; Slurm and the ranks are stand-ins, but for the last test, where the node entry is the real one.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from launcher import ROOT, schedulers
from launcher.files import load
from launcher.planning import plan
from tests import samples, standins

if TYPE_CHECKING:
    from pathlib import Path

# Every program outside of bash that a script calls, and two that it once called.
CALLED = (
    "mkdir",
    "rm",
    "sed",
    "sleep",
    "id",
    "flock",
    "mv",
    "scontrol",
    "srun",
    "sinfo",
    "apptainer",
    "seq",
    "cat",
)
BORROWED = ("sh", "env", "mkdir", "rm", "sed", "sleep", "id", "flock", "mv", "seq", "cat")


def staged(stage: standins.Stage, scheduler: str, **cluster: object) -> str:
    job = {"env": {"TOKEN": {"secret": "token"}}, "workload": "/own.py", "restarts": 1}
    own = {"secrets": str(stage.folder), **cluster}
    (stage.folder / "token").write_text("s3cret")
    made = plan.make(
        load.Loaded(samples.job(**job), samples.cluster(**{scheduler: own})), stage.site("plain")
    )
    return schedulers.load(scheduler).render(made)["job.sh"]


def on_path_alone(stage: standins.Stage, absent: str) -> dict[str, str]:
    """A PATH with what the scripts call and nothing else, without `absent`."""
    for name in BORROWED:
        (stage.folder / "bin" / name).symlink_to(f"/usr/bin/{name}")
    (stage.folder / "bin" / absent).unlink(missing_ok=True)
    return {"PATH": f"{stage.folder}/bin"}


PROGRAM_THAT_SAVES = """
while [ "$1" != -- ]; do case $1 in --folder) f=$2 ;; --attempt) a=$2 ;; esac; shift; done
echo "75 0 host-1 1.0" >"$f/outcome-$a"
exit 75"""


@pytest.mark.parametrize("absent", CALLED)
@pytest.mark.parametrize("scheduler", ["local", "slurm"])
@pytest.mark.heavy
def test_no_success_without_ranks(scheduler: str, absent: str, tmp_path: Path) -> None:
    stage = standins.Stage(tmp_path)
    code = stage.run(staged(stage, scheduler), **on_path_alone(stage, absent))
    started = (stage.folder / "dump" / "words").exists()
    assert (code == 0) == started, f"exit code {code}"
    written = next(stage.folder.glob("named/plain/runs/*/exit_code"), None)
    assert written is None or (written.read_text() == "0\n") == started


@pytest.mark.parametrize("absent", ["", "flock", "mv", "apptainer", "mkdir"])
@pytest.mark.heavy
def test_no_success_without_an_image(absent: str, tmp_path: Path) -> None:
    stage = standins.Stage(tmp_path)
    text = staged(stage, "slurm", container="apptainer")
    stage.program(stage.folder / "bin" / "apptainer", 'exec >>"$DUMP/apptainer"; echo "$@"; exit 3')
    assert stage.run(text, **on_path_alone(stage, absent or "absent")) == (73 if absent == "mkdir" else 71)


@pytest.mark.parametrize("scheduler", ["local", "slurm"])
@pytest.mark.parametrize("outcome", [None, "", "abc 0 n1 1.0", "-1 0 n1 1.0", "\n"])
@pytest.mark.heavy
def test_a_program_that_ends_with_0_is_no_success(
    scheduler: str, outcome: str | None, tmp_path: Path
) -> None:
    """The node entry, or srun, may end with 0 and never have started a rank: a wrapper, a plugin, another python."""
    stage = standins.Stage(tmp_path)
    text = staged(stage, scheduler)
    write = (
        ""
        if outcome is None
        else f"""
while [ "$1" != -- ]; do case $1 in --folder) f=$2 ;; --attempt) a=$2 ;; esac; shift; done
printf '%s' '{outcome}' >"$f/outcome-${{a:-0}}\""""
    )
    stage.program(stage.folder / "named" / "plain" / "python", f":{write}")
    assert stage.run(text) == 71
    (written,) = stage.folder.glob("named/plain/runs/*/exit_code")
    assert written.read_text() == "71\n"


@pytest.mark.parametrize("scheduler", ["local", "slurm"])
def test_every_path_out_of_a_script_leaves_its_exit_code(scheduler: str, tmp_path: Path) -> None:
    """Where the run folder can be written, a plain `exit` would leave `status` without an answer."""
    text = staged(standins.Stage(tmp_path), scheduler)
    plain = [line for line in text.splitlines() if re.search(r"\bexit [1-9]", line)]
    assert [line for line in plain if not line.startswith(('mkdir -p "$run/logs"', "rm -f"))] == []


@pytest.mark.parametrize("of", ["7", "36_2", "6", "36_1", ""])
@pytest.mark.parametrize("job", ["7", "36_2"])
def test_a_job_that_was_cancelled_before_its_script_began_starts_nothing(
    of: str, job: str, tmp_path: Path
) -> None:
    """What was said of an earlier job of this folder is over. Of an array's element the array's script says the id."""
    stage = standins.Stage(tmp_path)
    text = staged(stage, "slurm")
    assert stage.run(text) == 0
    (folder,) = stage.folder.glob("named/plain/runs/*/")
    (stage.folder / "dump" / "words").unlink()
    (folder / "cancelled").write_text(of and f"{of}\n")
    stage.program(stage.folder / "bin" / "scancel", 'echo "$@" >"$DUMP/scancel"')
    assert stage.run(text, *([] if job == "7" else [job])) == (71 if of == job else 0)
    assert (folder / "cancelled").exists() == (of == job)
    assert (stage.folder / "dump" / "words").exists() == (of != job)
    assert (stage.folder / "dump" / "scancel").exists() == (of == job)


def test_an_element_of_an_array_speaks_for_itself_alone(tmp_path: Path) -> None:
    """The last element's SLURM_JOB_ID is the array's own, by which Slurm means all of its elements."""
    stage = standins.Stage(tmp_path)
    text = staged(stage, "slurm")
    node = stage.folder / "named" / "plain" / "python"
    stage.program(node, PROGRAM_THAT_SAVES)
    for tool in ("scontrol", "squeue", "sacct", "scancel"):
        stage.program(
            stage.folder / "bin" / tool, 'echo "$0 $*" >>"$DUMP/asked"; [ "$1" = show ] && echo host-1'
        )
    array = '#!/bin/bash\nexec bash ./element.sh "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"\n'
    (stage.folder / "cwd" / "element.sh").write_text(text)
    stage.run(array, SLURM_ARRAY_JOB_ID="7", SLURM_ARRAY_TASK_ID="3")
    asked = [line.split()[1:] for line in (stage.folder / "dump" / "asked").read_text().splitlines()]
    assert ["requeue", "7_3"] in asked
    assert "7" not in {word for words in asked for word in words}


@pytest.mark.heavy  # it waits
@pytest.mark.parametrize("name", ["TERM", "USR2"])
def test_a_signal_while_hosts_are_started_reaches_all_of_them(name: str, tmp_path: Path) -> None:
    stage = standins.Stage(tmp_path)
    text = staged(stage, "local").replace('entries+=("$!")', 'entries+=("$!"); sleep 0.5')
    assert "sleep 0.5" in text
    text = text.replace("node < 1;", "node < 3;")
    told = """
while [ "$1" != -- ]; do case $1 in --node) n=$2 ;; --folder) f=$2 ;; esac; shift; done
trap 'touch "$DUMP/told-$n"; kill $!; echo "75 0 host-1 1.0" >"$f/outcome-0"; exit 75' TERM USR2
[ "$n" != 0 ] || kill -{name} $PPID
sleep 20 & wait"""
    stage.program(stage.folder / "named" / "plain" / "python", told.replace("{name}", name))
    assert stage.run(text) == 75
    assert sorted(path.name for path in (stage.folder / "dump").iterdir()) == ["told-0", "told-1", "told-2"]


# What bash sets, changes or refuses by itself, what the scripts call their own variables, and what changes programs.
NAMES = re.findall(
    r"\w+",
    """
    BASH BASHOPTS BASHPID BASH_ENV BASH_VERSINFO COMP_WORDBREAKS DIRSTACK ENV EPOCHSECONDS EUID FUNCNAME GROUPS HISTCMD
    HOSTNAME IFS LINENO OLDPWD OPTIND PATH PIPESTATUS PPID PS4 PWD RANDOM SECONDS SHELLOPTS SHLVL SRANDOM TZ UID _
    LANG LC_ALL LD_LIBRARY_PATH PYTHONHASHSEED POSIXLY_CORRECT TMPDIR HOME USER
    run attempt restarts node entries entry code ended got host hosts image now names before said finish bad value state
    LAUNCHER_SECRET_0 LAUNCHER_SECRET_1 SLURM_JOB_ID SLURM_JOB_NODELIST
    """,
)
DUMP = "import json, os; json.dump(dict(os.environ), open(os.environ['RUN_DIR'] + '/dump.json', 'w'))"
VALUES = ("0", "a'b\"c $HOME `id` $(touch pwned) #x\\", "/x:/y", "\n\r\n\t é\x1b\x7f\x01", "")


@pytest.mark.heavy  # runs whole jobs
@pytest.mark.parametrize("number", range(len(VALUES)))
def test_any_name_and_value_arrives_and_changes_nothing(number: int, tmp_path: Path) -> None:
    """All names at once, each with a value that the next case gives to its neighbour."""
    (tmp_path / "own.py").write_text(DUMP)
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "token").write_text("s3cret\n")
    env = {name: VALUES[(number + place) % len(VALUES)] for place, name in enumerate(NAMES)}
    env["PYTHONHASHSEED"] = "7"  # Python takes numbers alone
    secrets = {"entry_secret": {"secret": "token"}, "GROUPS_": {"secret": "token"}}
    job = samples.job(workload=f"{tmp_path}/own.py", env={**env, **secrets}, nodes=2)
    cluster = samples.cluster(slots=1, scratch=str(tmp_path), local={"secrets": f"{tmp_path}/secrets"})
    site = plan.Workspace(str(ROOT), f"{tmp_path}/runs", sys.executable, "tag")
    made = plan.make(load.Loaded(job, cluster), site)
    (tmp_path / "job.sh").write_text(schedulers.load("local").render(made)["job.sh"])
    done = subprocess.run(["bash", str(tmp_path / "job.sh")], cwd=tmp_path, timeout=120)
    folder = tmp_path / "runs" / made.id
    assert done.returncode == 0, (folder / "logs" / "job.log").read_text()
    found = json.loads((folder / "dump.json").read_text())
    assert {name: found.get(name) for name in env} == env
    assert {name: found[name] for name in secrets} == dict.fromkeys(secrets, "s3cret")
    assert not list(tmp_path.rglob("pwned"))
    written = [path for path in folder.rglob("*") if path.is_file() and path.name != "dump.json"]
    assert written
    assert all("s3cret" not in path.read_text(errors="replace") for path in written)
    assert os.access(folder / "environment.json", os.R_OK)
    assert (folder / "environment.json").stat().st_mode & 0o777 == 0o600


def test_setup_leaves_the_path_that_travels(tmp_path: Path) -> None:
    """/etc/profile, which is read for `module`, may set PATH anew; Slurm's own commands may be on the user's alone."""
    stage = standins.Stage(tmp_path)
    assert stage.run(staged(stage, "slurm", setup=["true"])) == 0
    assert stage.dumped("srun"), "this one, not that of the machine"


@pytest.mark.parametrize(
    "line", ["set -e", "set -euo pipefail", "trap 'exit 1' ERR", "set -f; IFS=,", "set -C", "set -k"]
)
def test_shell_options_of_setup_change_nothing_of_the_script(line: str, tmp_path: Path) -> None:
    """With `set -e` it ended with its step: no exit code of the run was left, and what had saved was not put back."""
    stage = standins.Stage(tmp_path)
    text = staged(stage, "slurm", setup=[line])
    stage.program(stage.folder / "named" / "plain" / "python", PROGRAM_THAT_SAVES)
    for tool in ("scontrol", "sacct"):
        asked = 'echo "${0##*/} $*" >>"$DUMP/asked"; case "$*" in *hostnames*) echo host-1 ;; requeue*) exit 1 ;; esac'
        stage.program(stage.folder / "bin" / tool, asked)
    assert stage.run(text) == 75
    assert "scontrol requeue 7" in (stage.folder / "dump" / "asked").read_text().splitlines()
    (written,) = stage.folder.glob("named/plain/runs/*/exit_code")
    assert written.read_text() == "75\n"


# What the commands of Slurm say of a job that completes because of scancel: with data_parser v0.0.40 (23.11) and later,
# before it, and without the plugin that writes JSON.
@pytest.mark.parametrize(
    ("shown", "accounted", "requeued"),
    [
        ('"job_state": [ "CANCELLED", "COMPLETING" ]', "CANCELLED by 0", False),
        ('"job_state": [ "CANCELLED", "COMPLETING" ]', "", False),
        ('"job_state": "COMPLETING"', "CANCELLED by 1000", False),
        ("", "CANCELLED by 1000", False),
        ('"job_state": [ "RUNNING" ]', "RUNNING", True),
        ('"job_state": "RUNNING"', "", True),
    ],
)
def test_a_job_that_scancel_ended_is_not_put_back(
    shown: str, accounted: str, requeued: bool, tmp_path: Path
) -> None:
    stage = standins.Stage(tmp_path)
    text = staged(stage, "slurm")
    stage.program(stage.folder / "named" / "plain" / "python", PROGRAM_THAT_SAVES)
    scontrol = """case "$*" in
  *hostnames*) echo host-1 ;;
  *--json) echo "$SHOWN" ;;
  requeue*) echo "$*" >"$DUMP/requeued"; exit 1 ;;
esac"""
    stage.program(stage.folder / "bin" / "scontrol", scontrol)
    stage.program(stage.folder / "bin" / "sacct", '[ -z "$ACCOUNTED" ] || echo "$ACCOUNTED"')
    assert stage.run(text, SHOWN=shown, ACCOUNTED=accounted) == 75
    assert (stage.folder / "dump" / "requeued").exists() == requeued
