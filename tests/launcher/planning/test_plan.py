"""A plan is a function of its files: same in, same out, nothing changed; and each variable says why it is there."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher import ROOT, schedulers
from launcher.errors import Place, PlanError, Problem
from launcher.fabrics import variables
from launcher.files import load
from launcher.planning import plan, ranks_environment
from tests import samples

if TYPE_CHECKING:
    from pathlib import Path

NAMES = st.from_regex(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", fullmatch=True)
GPU: dict[str, Any] = {
    "gpu": "h100-80gb",
    "slots": 8,
    "fabric": "infiniband",
    "image": "registry.example.com/deepspeed-train",
}


def refused(job_fields: dict[str, Any], **cluster_fields: Any) -> list[str]:
    with pytest.raises(PlanError) as caught:
        samples.decided(job_fields, **cluster_fields)
    return [str(problem) for problem in caught.value.problems]


def test_numbers() -> None:
    made = samples.decided({"nodes": 4, "batch": {"micro": 2, "global": 128}}, **GPU)
    assert (made.nodes, made.slots, made.world_size) == (4, 8, 32)
    assert (made.batch.micro, made.batch.accumulation, made.batch.train) == (2, 2, 128)
    assert made.folder == f"/shared/runs/{made.id}"
    assert made.gpu


# The id


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("workload", "args", "hint"),
    [
        ("pretrain", {}, "add args.compile: inductor, or leave it out"),
        ("pretrain", {"compile": "inductor"}, ""),
        ("./train.py", {}, ""),
    ],
)
def test_deepcompile_needs_a_job_that_compiles(workload: str, args: dict[str, Any], hint: str) -> None:
    job = {"workload": workload, "args": args, "deepspeed": {"compile": {"deepcompile": True}}}
    card = {"gpu": "h100-80gb", "slots": 8, "memory": "2000GB"}
    if not hint:
        samples.decided(job, **card)
        return
    with pytest.raises(PlanError) as refused:
        samples.decided(job, **card)
    what = "deepspeed.compile.deepcompile does nothing in a job that does not compile"
    assert str(refused.value.problems[0]) == f"{what}; {hint}"


@pytest.mark.heavy
def test_the_id_is_the_same_in_another_process() -> None:
    code = (
        "from tests import samples; print(samples.decided({'env': {'B': '1', 'A': '2'}}, **{'slots': 4}).id)"
    )
    ids = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert ids == {samples.decided({"env": {"B": "1", "A": "2"}}, slots=4).id + "\n"}


def test_equal_files_make_equal_plans() -> None:
    fields = {
        "args": {"lr": 1e-4, "data": ["a"]},
        "env": {"A": "1"},
        "deepspeed": {"preset": "zero3", "x": {"y": 1}},
    }
    assert samples.decided(fields, **GPU) == samples.decided(copy.deepcopy(fields), **GPU)


def test_every_difference_makes_another_id() -> None:
    jobs: list[dict[str, Any]] = [
        {},
        {"name": "other"},
        {"nodes": 2},
        {"walltime": "1h"},
        {"model": "gpt2"},
        {"batch": {"micro": 2}},
        {"batch": {"micro": 1, "accumulation": 2}},
        {"precision": "bf16"},
        {"deepspeed": "zero2"},
        {"deepspeed": {"gradient_clipping": 0.5}},
        {"args": {"seed": 1}},
        {"args": {"seed": "1"}},
        {"checkpoint": {"every": 1}},
        {"checkpoint": {"resume": "/a"}},
        {"restarts": 0},
        {"env": {"A": "1"}},
        {"env": {"A": {"secret": "a"}}},
        {"env": {"A": None}},
    ]
    clusters: list[dict[str, Any]] = [
        {"slots": 3},
        {"fabric": "tcp"},
        {"image": "other"},
        {"mounts": {"/a": "/a"}},
        {"mounts": {"/a": {"host": "/a", "readonly": True}}},
        {"slurm": {"partition": "a"}},
        {"env": {"A": "1"}},
    ]
    ids = [samples.decided(fields).id for fields in jobs] + [
        samples.decided(**fields).id for fields in clusters
    ]
    site = samples.SITE._replace(image_tag="fedcba987654")
    ids.append(plan.make(load.Loaded(samples.job(), samples.cluster()), site).id)
    ids.append(plan.make(load.Loaded(samples.job(), samples.cluster()), samples.SITE, "again").id)
    assert len(set(ids)) == len(ids)


def test_where_it_is_submitted_from_is_not_part_of_the_id() -> None:
    site = plan.Workspace("/elsewhere", "/other/runs", "/usr/bin/python3", samples.SITE.image_tag)
    assert plan.make(load.Loaded(samples.job(), samples.cluster()), site).id == samples.decided().id


@given(NAMES, st.one_of(st.just(""), NAMES))
def test_the_id_is_a_dns_label_with_room_for_a_number(name: str, suffix: str) -> None:
    made = plan.make(load.Loaded(samples.job(name=name), samples.cluster()), samples.SITE, suffix)
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", made.id)
    assert len(f"{made.id}-99-4095") <= 63
    assert made.id.startswith(name[:40])


# Environment


def reasons(made: plan.Plan) -> dict[str, tuple[str, str]]:
    names = [variable.name for variable in made.environment]
    assert len(names) == len(set(names))
    return {v.name: (v.value, v.why) for v in made.environment}


def test_the_fabric_then_the_cluster_then_the_job() -> None:
    found = reasons(
        samples.decided(
            {"env": {"NCCL_NET": "Socket", "MINE": "job"}},
            **GPU,
            env={"NCCL_DEBUG": "INFO", "NCCL_NET": "IB2", "MINE": "site", "SITE": "1"},
        )
    )
    assert found["NCCL_DEBUG"] == ("INFO", "from the cluster file, instead of 'WARN'")
    assert found["NCCL_NET"] == ("Socket", "from the job file, instead of 'IB2'")
    assert found["MINE"] == ("job", "from the job file, instead of 'site'")
    assert found["SITE"] == ("1", "from the cluster file")


def test_every_variable_says_why() -> None:
    assert all(why for _, why in reasons(samples.decided({"env": {"A": "1"}}, **GPU)).values())


def test_null_leaves_a_variable_out() -> None:
    assert "NCCL_DEBUG" in reasons(samples.decided(**GPU))
    assert "NCCL_DEBUG" not in reasons(samples.decided({"env": {"NCCL_DEBUG": None}}, **GPU))


def test_the_node_entry_makes_the_compile_caches_that_a_job_does_not_name() -> None:
    made = samples.decided({"env": {"TRITON_CACHE_DIR": "/mine"}}, scratch="/local")
    assert reasons(made)["TRITON_CACHE_DIR"][0] == "/mine"
    assert ranks_environment.caches(made, "train:1") == [
        "--scratch=/local",
        "--caches=TORCH_EXTENSIONS_DIR,TORCHINDUCTOR_CACHE_DIR",
        "--caches-for=train:1, cpu",
    ]


def test_what_the_node_entry_and_the_scheduler_set_is_refused_at_once() -> None:
    names = [*variables.RESERVED]
    assert {"RUN_DIR", "DEEPSPEED_CONFIG", "RANK", "MASTER_ADDR", "SLURM_NODEID"} <= set(names)
    said = refused({"env": dict.fromkeys(names[::2], "1")}, env=dict.fromkeys(names[1::2], "1"))
    assert sorted(said) == sorted(f"{n} cannot be set: {variables.RESERVED[n]}; leave it out" for n in names)


@pytest.mark.parametrize("size", [2**17 - 3, 2**17 - 2])
def test_a_value_that_linux_starts_no_process_with_is_refused(size: int) -> None:
    """`X=` and a NUL come to it (execve(2), MAX_ARG_STRLEN)."""
    words, env = ["true"], {"X": "y" * size}
    if size + 3 <= 2**17:
        samples.decided({"env": {"X": "y" * size}})
        subprocess.run(words, env=env, check=True)
        return
    hint = "put it into a file and give the file's name"
    message = f"env.X has 131,073 bytes, and Linux takes 131,072 in one piece; {hint}"
    assert refused({"env": {"X": "y" * size}}) == [message]
    assert refused({}, env={"X": "y" * size}) == [message]
    with pytest.raises(OSError, match="too long"):
        subprocess.run(words, env=env, check=True)


def test_values_that_are_too_much_together_are_refused() -> None:
    values = {f"X{number}": "y" * 100_000 for number in range(30)}
    said = refused({"env": values, "workload": "./own.py", "args": {"text": "z" * 100_001}})
    hint = "Linux starts a process with about 1,835,008: put values into files and give their names"
    assert said == [f"env and args have 3,100,149 bytes, most of them args.text; {hint}"]
    long = refused({"workload": "./own.py", "args": {"text": ["z" * 2**17, "z"]}})
    assert [message.partition(",")[0] for message in long] == ["args.text has 131"]


def test_a_secret_is_a_reference_and_nothing_else() -> None:
    made = samples.decided(
        {"env": {"TOKEN": {"secret": "hf-token"}, "KEYED": {"secret": "all", "key": "hf"}}},
        env={"TOKEN": "plain", "OTHER": {"secret": "other"}},
    )
    assert {(s.variable, s.name, s.key) for s in made.secrets} == {
        ("TOKEN", "hf-token", "TOKEN"),
        ("KEYED", "all", "hf"),
        ("OTHER", "other", "OTHER"),
    }
    assert not {"TOKEN", "KEYED", "OTHER"} & set(reasons(made))


def test_the_job_can_leave_the_clusters_secret_out() -> None:
    assert samples.decided({"env": {"TOKEN": None}}, env={"TOKEN": {"secret": "a"}}).secrets == ()
    made = samples.decided({"env": {"TOKEN": "plain"}}, env={"TOKEN": {"secret": "a"}})
    assert made.secrets == ()
    assert reasons(made)["TOKEN"][0] == "plain"


# Purity


def test_inputs_are_not_changed() -> None:
    job = samples.job(
        deepspeed={"preset": "zeropp", "zero_optimization": {"stage": 3, "zero_hpz_partition_size": "slots"}},
        args={"data": ["a", "b"]},
        env={"A": "1"},
        nodes=2,
    )
    cluster = samples.cluster(mounts={"/a": "/a"}, env={"B": "2"}, gpu="h100-80gb", fabric="tcp")
    before = copy.deepcopy((job, cluster))
    first = plan.make(load.Loaded(job, cluster), samples.SITE)
    first.config["zero_optimization"]["stage"] = 0
    assert (job, cluster) == before
    assert plan.make(load.Loaded(job, cluster), samples.SITE).config["zero_optimization"]["stage"] == 3


# What cannot work


def test_everything_that_cannot_work_is_said_at_once() -> None:
    assert refused(
        {"nodes": 4, "precision": "fp16", "model": None, "batch": {"micro": 3, "global": 16}},
        slots=8,
        cpus=4,
        hosts=2,
    ) == [
        "the job needs 4 hosts, the cluster has 2; use nodes: 2",
        "slots 8 exceeds the host's 4 cores; use fewer slots",
        "precision fp16 needs a GPU; use bf16 or fp32 on a CPU",
        "workload 'pretrain' needs a model; add `model:` to the job",
        "batch.global 16 does not divide by micro 3 × world size 32 = 96; use batch.global 96",
    ]


@pytest.mark.parametrize(
    ("gpu", "precision"),
    [(None, "fp32"), ("v100-32gb", "fp16"), ("a100-80gb", "bf16"), ("h100-80gb", "bf16")],
)
def test_automatic_precision(gpu: str | None, precision: str) -> None:
    made = samples.decided(gpu=gpu)
    assert made.precision == precision
    assert [key for key in ("bf16", "fp16") if key in made.config] == ([precision] if gpu else [])


@pytest.mark.parametrize(
    ("image", "full"),
    [
        ("deepspeed-train", "deepspeed-train:0123456789ab-cpu"),
        (
            "registry.example.com:5000/deepspeed-train",
            "registry.example.com:5000/deepspeed-train:0123456789ab-cpu",
        ),
        ("pytorch/pytorch", "pytorch/pytorch"),
        ("registry.example.com:5000/train:1", "registry.example.com:5000/train:1"),
        ("train@sha256:aa", "train@sha256:aa"),
        ("/images/train.sqsh", "/images/train.sqsh"),
        ("/images/train.sif", "/images/train.sif"),
    ],
)
def test_image_tag(image: str, full: str) -> None:
    assert samples.decided(image=image).image == full


def test_image_flavour() -> None:
    assert (
        samples.decided(image="deepspeed-train", gpu="h100-80gb").image == "deepspeed-train:0123456789ab-cuda"
    )


@pytest.mark.parametrize("gpu", [None, "v100-32gb", "h100-80gb"])
@pytest.mark.parametrize("section", [{"enabled": True}, {"enabled": True, "loss_scale": 0}])
@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_the_precision_of_a_pasted_configuration(name: str, section: dict[str, Any], gpu: str | None) -> None:
    """`precision: auto` is what the configuration turns on, where the device has it."""
    job = {"deepspeed": {"preset": "zero1", name: section}}
    if (name, gpu) in {("fp16", "v100-32gb"), ("fp16", "h100-80gb"), ("bf16", "h100-80gb"), ("bf16", None)}:
        made = samples.decided(job, gpu=gpu)
        assert made.precision == name
        assert [key for key in ("bf16", "fp16") if key in made.config] == [name]
        return
    with pytest.raises(PlanError, match=f"deepspeed.{name} is on, and"):
        samples.decided(job, gpu=gpu)


def test_a_part_of_a_card_has_the_rates_of_the_whole() -> None:
    part = {"name": "h100-80gb", "memory": "10GB"}
    (note,) = (note for note in samples.decided(gpu=part).notes if "a part of" in note)
    assert note.startswith(
        "10.0 GB is a part of a h100-80gb, and step times are by the rates of the whole one"
    )
    for whole in ({**part, "bf16_tflops": 140}, {**part, "memory": "79GB"}, "h100-80gb"):
        assert not [note for note in samples.decided(gpu=whole).notes if "a part of" in note]


# Where a fault is: the field, though it is found after the files were read

JOB_FILE = "name: demo\nmodel: gpt2\nbatch:\n  micro: 1\n  global: 7\ncluster: here.yaml\n"
CLUSTER_FILE = "slots: 2\nfabric: loopback\ncpus: 1\nmounts: {/data: /mnt/data}\n"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "job.yaml").write_text(JOB_FILE)
    (tmp_path / "here.yaml").write_text(CLUSTER_FILE)
    return tmp_path / "job.yaml"


def test_a_fault_is_placed_in_the_file_that_holds_its_field(files: Path) -> None:
    with pytest.raises(PlanError) as caught:
        plan.make(samples.loaded(str(files)), samples.SITE)
    places = {str(p.place): p.message.split()[0] for p in caught.value.problems}
    assert places == {f"{files.parent}/here.yaml:1:1": "slots", f"{files}:5:3": "batch.global"}


def test_a_fault_of_a_setting_is_placed_on_the_command_line(files: Path) -> None:
    words = ["batch.global=9", "cluster.cpus=2"]
    with pytest.raises(PlanError) as caught:
        plan.make(samples.loaded(str(files), None, words), samples.SITE)
    assert [str(p.place) for p in caught.value.problems] == ["--set batch.global=9"]


def test_what_a_renderer_refuses_is_placed_too(files: Path) -> None:
    made = plan.make(samples.loaded(str(files), None, ["batch.global=8", "cluster.cpus=2"]), samples.SITE)
    with pytest.raises(PlanError) as caught:
        schedulers.load("slurm").render(made)
    assert [str(p.place) for p in caught.value.problems] == [f"{files.parent}/here.yaml:4:10"]


def test_a_field_that_nobody_wrote_is_placed_at_the_nearest_one_above() -> None:
    problem = Problem("wrong", about=("job", "deepspeed", "zero_optimization", "stage"))
    written: dict[tuple[str | int, ...], Place] = {
        ("deepspeed",): Place("job.yaml", 3, 1),
        (): Place("job.yaml", 1, 1),
    }
    assert problem.at({"job": written}).place == Place("job.yaml", 3, 1)
    del written[("deepspeed",)]
    assert problem.at({"job": written}).place == Place("job.yaml", 1, 1)
    assert problem.at({}).place is None
    assert Problem("wrong", place=Place("x")).at({"job": written}).place == Place("x")
