"""Programs of the user's own from the job file to the node entry: what is said of them, and what they are given."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from launcher import entry, schedulers, workloads
from launcher.files import load, validation
from launcher.files.job import Job
from launcher.planning import on_this_machine, own_program, plan
from launcher.rendering import command
from launcher.reports import tables
from tests import samples

if TYPE_CHECKING:
    from pathlib import Path

    from launcher.planning.plan import Plan

TORCHRUN = {"command": ["torchrun", "train.py", "$RUN_DIR"], "processes": "host"}


def options(decided: Plan, scheduler: str) -> list[str]:
    return command.options(decided, "none", stops=scheduler == "slurm")


def test_the_node_entry_is_told_what_differs_from_our_workloads() -> None:
    ours = samples.decided()
    assert options(ours, "slurm") == []
    script = samples.decided({"workload": "./train.py", "args": {"out": "$RUN_DIR"}})
    assert options(script, "slurm") == ["--names-from=1"]
    assert command.ranks(script, "/r", "/c") == ["./train.py", "--out=$RUN_DIR"]
    job = {**TORCHRUN, "signal": "none", "checkpoint": {"requeue": True}, "args": {"lr": 0.1}}
    own = samples.decided(job, python="/opt/env", slurm={"signal_seconds": 90})
    told = ["--program", "--names-from=0", "--processes=host", "--signal=none", "--python=/opt/env"]
    assert options(own, "local") == told
    assert options(own, "slurm") == [*told, "--requeue-after=60"]
    assert command.ranks(own, "/r", "/c") == ["torchrun", "train.py", "$RUN_DIR", "--lr=0.1"]


def test_a_command_is_a_workload_of_that_name_in_what_is_kept_of_a_job() -> None:
    job = samples.job(**TORCHRUN)
    assert (job.workload, workloads.is_script(job.workload)) == (workloads.COMMAND, True)
    assert validation.build(Job, validation.written(job)) == job
    a, b = (samples.decided({"command": ["python", word]}).id for word in "ab")
    assert a != b


@pytest.mark.parametrize("scheduler", ["local", "slurm", "kubernetes"])
def test_own_programs_have_the_plan_in_their_environment(scheduler: str) -> None:
    job = {
        "workload": "/mine/train.py",
        "model": "it's $(a) model",
        "batch": {"micro": 2, "global": 8},
        "checkpoint": {"every": 50, "keep": 2, "resume": "older-1a2b3c"},
        "env": {"CHECKPOINT_KEEP": "7"},
    }
    decided = plan.make(load.Loaded(samples.job(**job), samples.cluster(fabric="tcp")), samples.SITE)
    runs = "/runs" if scheduler == "kubernetes" else samples.SITE.runs
    expected = {
        "MODEL": "it's $(a) model",
        "BATCH_MICRO": "2",
        "BATCH_ACCUMULATION": "2",
        "BATCH_GLOBAL": "8",
        "CHECKPOINT_EVERY": "50",
        "CHECKPOINT_KEEP": "7",
        "RESUME_FROM": f"{runs}/older-1a2b3c/checkpoints",
    }
    found = environment(scheduler, decided)
    assert {name: found.get(name) for name in expected} == expected
    ours = plan.make(load.Loaded(samples.job(), samples.cluster(fabric="tcp")), samples.SITE)
    assert not set(expected) & set(environment(scheduler, ours))


def environment(scheduler: str, decided: Plan) -> dict[str, str]:
    """The variables that a rendered job sets, as the ranks get them."""
    files = schedulers.load(scheduler).render(decided)
    if scheduler == "kubernetes":
        objects: list[dict[str, Any]] = list(yaml.safe_load_all(files["manifest.yaml"]))
        (job,) = [o for o in objects if o["kind"] == "Job"]
        (container,) = job["spec"]["template"]["spec"]["containers"]
        # Kubernetes makes one $ of two
        return {v["name"]: v["value"].replace("$$", "$") for v in container["env"] if "value" in v}
    from launcher.planning import ranks_environment

    entries = json.loads(ranks_environment.document(decided))
    return {name: entry.get("value", "") for name, entry in entries.items()}


def test_every_name_has_a_value_where_it_can_be_written() -> None:
    given = own_program.variables(samples.decided({"workload": "./t.py"}), "/runs")
    of_hosts = {
        "HOSTFILE",
        "MASTER_ADDR",
        "MASTER_PORT",
        "NNODES",
        "NODE_RANK",
        "NPROC_PER_NODE",
        "WORLD_SIZE",
    }
    run = {"RUN_DIR", "DEEPSPEED_CONFIG"}
    assert {*given, *of_hosts, *run, *entry.of_a_rank()} == set(entry.names())


def test_the_plan_says_what_the_program_is_given_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(samples.CLUSTER)
    (tmp_path / "job.yaml").write_text(
        "name: demo\ncluster: ./site.yaml\ncommand: [torchrun, it's.py]\nprocesses: host\n"
    )
    loaded = samples.loaded(str(tmp_path / "job.yaml"))
    text = tables.plan(plan.make(loaded, samples.SITE))
    assert "torchrun 'it'\"'\"'s.py', one process a host" in text
    assert "steps" not in text
    assert "\nbatch " not in text
    settings = ["checkpoint.every=50", "checkpoint.requeue=true", "batch.micro=2"]
    decided = plan.make(samples.loaded(str(tmp_path / "job.yaml"), settings=settings), samples.SITE)
    assert "CHECKPOINT_EVERY=50, CHECKPOINT_KEEP=3: for the program to follow; put back" in tables.plan(
        decided
    )
    assert "BATCH_MICRO=2" in tables.plan(decided)
    assert not [note for note in decided.notes if "checkpoint" in note]


@pytest.mark.parametrize("scheduler", ["local", "slurm"])
def test_what_hosts_would_not_find_is_said_where_it_can_be_known(scheduler: str, tmp_path: Path) -> None:
    site = samples.SITE._replace(runs=str(tmp_path / "runs"), python=sys.executable)

    def wrong(words: list[str], python: str | None = None) -> list[str]:
        job, cluster = samples.job(command=words), samples.cluster(python=python)
        decided = plan.make(load.Loaded(job, cluster), site)
        return [problem.message for problem in on_this_machine.problems(decided, scheduler)]

    assert wrong(["python", "x"]) == []
    assert wrong([f"{tmp_path}/gone"])[0].endswith("is not here")  # a long path is cut
    assert wrong([str(tmp_path)])[0].endswith("is a folder")
    assert wrong(["$RUN_DIR/gone"]) == []
    assert wrong(["python"], f"{tmp_path}/venv") == [
        f"python {tmp_path}/venv: there is no {tmp_path}/venv here"
    ]
    assert wrong(["python"], sys.executable) == []
    elsewhere = wrong(["no-such-program"])
    assert bool(elsewhere) == (scheduler == "local")


def test_of_other_file_systems_than_the_runs_nothing_is_known() -> None:
    """A host may have what this machine has not: /proc is on no disk."""
    job, cluster = samples.job(command=["/proc/gone"]), samples.cluster(python="/proc/venv")
    decided = plan.make(load.Loaded(job, cluster), samples.SITE._replace(runs="/"))
    assert list(on_this_machine.problems(decided, "slurm")) == []
    assert list(on_this_machine.problems(decided, "local")) != []


def test_of_a_file_system_that_is_not_here_nothing_is_known() -> None:
    """A laptop, or a machine that checks jobs in git, has neither /apps nor the environments there."""
    job = samples.job(command=["/no-such-mount/apps/run"])
    site = samples.SITE._replace(runs="/")
    for cluster in (samples.cluster(), samples.cluster(python="/no-such-mount/conda/envs/train")):
        decided = plan.make(load.Loaded(job, cluster), site)
        assert list(on_this_machine.problems(decided, "slurm")) == []
        assert list(on_this_machine.problems(decided, "local")) != []


@pytest.mark.parametrize(
    ("scheduler", "names"),
    [("local", ["checkpoint.requeue", "preflight"]), ("kubernetes", ["checkpoint.requeue"])],
)
def test_what_is_not_done_everywhere_is_said(scheduler: str, names: list[str]) -> None:
    asked = samples.decided({"checkpoint": {"requeue": True}, "preflight": True, "nodes": 2})
    told = [w.message for w in schedulers.warnings(scheduler, asked) if " is not done: " in w.message]
    assert [message.partition(" ")[0] for message in told] == names
    usual = schedulers.warnings(scheduler, samples.decided({"nodes": 2}))
    assert not any(" is not done" in w.message for w in usual)


def test_a_secret_that_is_not_on_this_machine(tmp_path: Path) -> None:
    cluster = samples.cluster(local={"secrets": str(tmp_path)}, slurm={"secrets": str(tmp_path)})
    decided = plan.make(load.Loaded(samples.job(env={"HF_TOKEN": {"secret": "hf"}}), cluster), samples.SITE)

    def wrong(scheduler: str) -> list[str]:
        return [problem.message for problem in on_this_machine.problems(decided, scheduler)]

    assert wrong("slurm") == [], "the hosts' files are looked for where the job starts"
    assert wrong("local") == [f"secret 'hf': {tmp_path}/hf is not there"]
    (tmp_path / "hf").touch()
    assert wrong("local") == [f"secret 'hf': {tmp_path}/hf is empty"]
    (tmp_path / "hf").write_text("x")
    assert wrong("local") == []


def test_files_that_a_workload_would_not_find_on_this_machine(tmp_path: Path) -> None:
    site = samples.SITE._replace(runs=str(tmp_path / "runs"))

    def wrong(scheduler: str, model: str, *data: str, **cluster: Any) -> list[str]:
        job = samples.job(workload="pretrain", model=model, args={"data": list(data)})
        decided = plan.make(load.Loaded(job, samples.cluster(**cluster)), site)
        return [
            problem.message.rpartition("/")[2] for problem in on_this_machine.problems(decided, scheduler)
        ]

    gone, tokens, left = (str(tmp_path / name) for name in ("gone.txt", "tokens", "runs/r-1/export"))
    (tmp_path / "tokens.idx").touch()
    assert wrong("local", str(tmp_path / "none"), gone) == ["none' is not here", "gone.txt' is not here"]
    assert wrong("local", left, tokens, "builtin", "hf:owner/name") == [], (
        "an earlier stage leaves its export there"
    )
    assert wrong("local", "byte-gpt", "gone.txt") == ["args.data.0: 'gone.txt' is not here"]
    assert wrong("slurm", "byte-gpt", gone) == []
    assert wrong("local", "byte-gpt", gone, image="a:1", local={"container": "podman"}) == []
