"""`nodes: {min, max}`: the numbers of hosts that divide a batch, a plan for each of them, and what is refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, strategies

from launcher import schedulers
from launcher.cli import main
from launcher.errors import PlanError, Problem
from launcher.files import load, validation
from launcher.files.job import Job, Nodes
from launcher.planning import elastic, fit, recorded, tuning
from launcher.planning import space as spaces
from launcher.reports import tables
from launcher.runs import record
from launcher.submission import proving
from tests import samples

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from launcher.planning.plan import Plan

CLUSTER: dict[str, Any] = {"slots": 4, "hosts": 8, "memory": "64GB"}
JOB: dict[str, Any] = {"nodes": {"min": 2, "max": 4}, "batch": {"micro": 1, "global": 32}}


def refused(job: dict[str, Any], **cluster: Any) -> list[str]:
    with pytest.raises(PlanError) as caught:
        samples.decided(job, **{**CLUSTER, **cluster})
    return [str(problem) for problem in caught.value.problems]


@given(
    micro=strategies.integers(1, 6),
    slots=strategies.integers(1, 8),
    train=strategies.integers(1, 200),
    ends=strategies.tuples(strategies.integers(1, 12), strategies.integers(1, 12)).map(sorted),
    degree=strategies.sampled_from((1, 1, 2, 4)),
)
def test_the_numbers_are_those_that_a_fixed_number_would_allow(
    micro: int, slots: int, train: int, ends: list[int], degree: int
) -> None:
    """Each keeps the batch, to the sample; every other number between min and max is refused where it is fixed."""
    batch, args = {"micro": micro, "global": train}, {"sequence-parallel": degree}
    job = samples.job(nodes={"min": ends[0], "max": ends[1]}, batch=batch, args=args)
    cluster = samples.cluster(slots=slots)
    numbers = elastic.dividing(job, cluster)
    for number in range(ends[0], ends[1] + 1):
        alone = samples.job(nodes=number, batch=batch, args=args)
        if number not in numbers:
            wrong = (number * slots) % degree
            if not wrong:
                with pytest.raises(PlanError, match="does not divide"):
                    fit.batch(alone, cluster)
            continue
        sizes = fit.batch(alone, cluster)
        assert (sizes.micro, sizes.train) == (micro, train)
        assert sizes.accumulation * micro * number * slots // degree == train
    if not numbers:
        said = elastic._numbers_or_batch(job, cluster, train)
        assert said.startswith(("these numbers divide it: ", "no number does: use batch.global "))


def test_each_number_has_a_plan_and_the_batch_is_the_same() -> None:
    made = samples.decided(JOB, **CLUSTER)
    assert (made.numbers, made.nodes, made.allocated, made.fewest) == ((2, 4), 4, 4, 2)
    assert [tuple(size.batch) for size in made.sizes] == [(1, 4, 32), (1, 2, 32)]
    for size in made.sizes:
        alone = samples.decided({**JOB, "nodes": size.nodes}, **CLUSTER)
        assert (size.config, size.batch) == (alone.config, alone.batch)
        assert made.on(size).world_size == size.nodes * 4
    assert [str(left) for left in made.left_out] == ["3 hosts: a step does not divide among their ranks"]
    assert made.notes[-1:] == ("nodes: not on 3 hosts: a step does not divide among their ranks",)


def test_a_number_with_which_the_job_cannot_be_is_left_out() -> None:
    """Where that is every number, what is wrong is said as of a job with one number."""

    def but_with(*wrong: int) -> Callable[[Job], Plan]:
        def plan_of(job: Job) -> Plan:
            if job.nodes.max in wrong:
                raise PlanError(Problem(f"not with {job.nodes.max}", about=("job", "nodes")))
            return samples.decided({**JOB, "nodes": job.nodes.max}, **CLUSTER)

        return plan_of

    job, cluster = samples.job(**JOB), samples.cluster(**CLUSTER)
    made = elastic.plan(job, cluster, but_with(4))
    assert (made.numbers, [str(left) for left in made.left_out][1:]) == ((2,), ["4 hosts: not with 4"])
    with pytest.raises(PlanError, match="not with 4"):
        elastic.plan(job, cluster, but_with(2, 4))


def test_a_number_alone_is_what_it_always_was() -> None:
    for nodes in (3, {"max": 3}, {"min": 3, "max": 3}):
        made = samples.decided({"nodes": nodes, "batch": {"micro": 1}}, **CLUSTER)
        assert (made.numbers, made.sizes, made.stays) == ((3,), (), False)
    assert validation.written(samples.job(nodes={"max": 3}))["nodes"] == 3
    assert "nodes" not in validation.written(samples.job(nodes=1))
    assert validation.build(Job, {"name": "a", "nodes": 2}).nodes == Nodes(max=2)


def test_what_auto_is_with_the_fewest_hosts_holds_for_all() -> None:
    """Four hosts alone would do with ZeRO-1, from whose checkpoints one host could not go on."""
    job = {"model": "llama-2-13b", "batch": {"micro": 1, "global": 64}, "args": {"seq-length": 2048}}
    cluster = {"slots": 8, "gpu": "a100-80gb", "memory": "1TB"}
    fixed = {n: samples.decided({**job, "nodes": n}, **cluster) for n in (1, 4)}
    made = samples.decided({**job, "nodes": {"min": 1, "max": 4}}, **cluster)
    assert (fixed[1].preset, fixed[4].preset) == ("zero2", "zero1")
    assert made.preset == "zero2"
    assert made.args == fixed[1].args
    assert made.numbers == (1, 2, 4)
    assert {size.config["zero_optimization"]["stage"] for size in made.sizes} == {2}
    totals = [size.estimate.evaluation.memory.slot.total for size in made.sizes if size.estimate]
    assert totals == sorted(totals, reverse=True)


def test_a_number_on_which_it_does_not_fit_is_left_out_with_why() -> None:
    job = {"model": "llama-2-7b", "batch": {"micro": 1, "global": 64}, "deepspeed": "zero3"}
    cluster = {"slots": 1, "gpu": "a100-80gb", "memory": "1TB", "hosts": 8}
    made = samples.decided({**job, "nodes": {"min": 1, "max": 8}}, **cluster)
    assert made.numbers == (2, 4, 8)
    assert [left.nodes for left in made.left_out] == [(3, 5, 6, 7), (1,)]
    assert made.left_out[1].why == "needs 115.7 GB per GPU, 85.0 GB available"
    assert made.estimate
    assert made.estimate.fits
    nowhere = samples.decided({**job, "nodes": {"min": 1, "max": 2}}, **{**cluster, "hosts": 1})
    assert nowhere.estimate
    assert (nowhere.numbers, nowhere.estimate.fits) == ((1,), False)
    assert [str(left) for left in nowhere.left_out] == ["2 hosts: the cluster has 1"]


def test_no_more_hosts_than_the_cluster_has() -> None:
    made = samples.decided({**JOB, "nodes": {"min": 1, "max": 6}}, **{**CLUSTER, "hosts": 3})
    assert made.numbers == (1, 2)
    assert [str(left) for left in made.left_out] == [
        "3 hosts: a step does not divide among their ranks",
        "4 to 6 hosts: the cluster has 3",
    ]
    said = refused({**JOB, "nodes": {"min": 2, "max": 4}}, hosts=1)
    assert said == ["the job needs 2 hosts, the cluster has 1; use nodes: 1"]


def test_a_program_of_ones_own_says_that_it_goes_on() -> None:
    own = {**JOB, "workload": "/own.py", "model": None, "batch": {"micro": 1}}
    (said,) = refused(own)
    assert "add checkpoint: {any_ranks: true}; else use nodes: 4" in said
    made = samples.decided({**own, "checkpoint": {"any_ranks": True}}, **CLUSTER)
    assert made.numbers == (2, 3, 4)


def test_everything_that_is_wrong_is_said_at_once() -> None:
    said = refused({**JOB, "spares": 1, "precision": "fp16", "checkpoint": {"any_ranks": True}})
    assert len(said) == 3
    for words in ("spares: a job of nodes: {min, max}", "fp16 needs a GPU", "checkpoint.any_ranks: "):
        assert any(words in one for one in said), words
    assert len(refused({**JOB, "batch": {"micro": 1, "global": 100}})) == 1


def test_ranks_that_share_a_model_count_as_one() -> None:
    own = {"workload": "/own.py", "model": None, "checkpoint": {"any_ranks": True}}
    job = {**own, "nodes": {"min": 1, "max": 4}, "batch": {"micro": 1, "global": 12}}
    for keys in ({"tensor_parallel": {"autotp_size": 4}}, {"sequence_parallel_size": 4}):
        made = samples.decided({**job, "deepspeed": keys}, **CLUSTER)
        assert made.numbers == (1, 2, 3, 4)
        assert [size.batch.accumulation for size in made.sizes] == [12, 6, 4, 3]
    six = samples.decided({**job, "deepspeed": {"pipeline": {"stages": 6}}}, **CLUSTER)
    assert six.numbers == (3,)
    assert [left.nodes for left in six.left_out] == [(1, 2, 4)]


def test_a_range_without_a_restart_is_warned_of() -> None:
    (warning,) = samples.decided({**JOB, "restarts": 0}, **CLUSTER).warnings
    assert "restarts is 0" in str(warning)


def test_what_plan_shows_and_a_record_keeps() -> None:
    made = samples.decided(JOB, **CLUSTER)
    text = tables.plan(made)
    assert "hosts × slots  4 × 4 = 16 ranks" in text
    assert "or             2 × 4 = 8 ranks, accumulation 4, " in text
    assert "not on         3 hosts: a step does not divide among their ranks" in text
    told = json.loads(tables.plan_json(made))
    assert [(s["nodes"], s["world_size"], s["accumulation"]) for s in told["sizes"]] == [
        (2, 8, 4),
        (4, 16, 2),
    ]
    assert all(size["needed"] < size["capacity"] for size in told["sizes"])
    assert told["left_out"] == [{"nodes": [3], "why": "a step does not divide among their ranks"}]
    kept = json.loads(record.plan_text(made))
    kept["sizes"][0]["config"]["gradient_clipping"] = 0.5
    again = recorded.plan(kept, {}, samples.SITE)
    assert (again.numbers, again.job.nodes, again.id) == (made.numbers, Nodes(min=2, max=4), made.id)
    assert [size.config["gradient_clipping"] for size in again.sizes] == [0.5, 1.0]
    found = recorded.estimate(kept)
    assert found
    assert found.machine.hosts == 4


@pytest.mark.parametrize("numbers", [(), (4, 2), (2, 2), (1, 4), (2, 9), (2, 4, 10**30)])
def test_a_record_with_other_sizes_than_its_job_may_have_is_none(numbers: tuple[int, ...]) -> None:
    kept = json.loads(record.plan_text(samples.decided(JOB, **CLUSTER)))
    kept["sizes"] = [{**kept["sizes"][0], "nodes": number} for number in numbers]
    with pytest.raises(PlanError, match="not one that this launcher reads: sizes"):
        recorded.plan(kept, {}, samples.SITE)


@pytest.mark.heavy
def test_this_machine_has_the_most_and_no_kind_of_kubernetes_varies() -> None:
    made = samples.decided(JOB, **{**CLUSTER, "slots": 1, "image": "registry.example.com/train:1"})
    assert "127.0.0.4" in schedulers.load("local").render(made)["job.sh"]
    for kind in ("job", "jobset", "trainjob", "mpijob", "pytorchjob", "leaderworkerset"):
        kubernetes = validation.build(type(made.cluster.kubernetes), {"kind": kind, "runs": "runs"})
        cluster = made.cluster.__class__(**{**vars(made.cluster), "kubernetes": kubernetes, "fabric": "tcp"})
        with pytest.raises(PlanError) as caught:
            schedulers.load("kubernetes").render(made._replace(cluster=cluster))
        (said,) = [str(p) for p in caught.value.problems if "nodes: {min, max}" in str(p)]
        assert "use nodes: 4; a new run goes on with another number: --set nodes=2" in said


def test_other_verbs_take_the_most(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(samples.JOB.replace("{micro: 1}", "{micro: 1, global: 16}") + "nodes: {min: 1, max: 3}\n")
    (tmp_path / "here.yaml").write_text(samples.CLUSTER + "memory: 8GB\n")
    assert main.main(["plan", str(job), "--max-model", "gpt2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["fits"]
    assert main.main(["plan", str(job), "--min-nodes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["nodes"] == 1
    made = samples.decided(JOB, **CLUSTER)
    assert "nodes=4" in proving.settings(made, 16)
    assert "nodes.min" in proving.left_out(made)
    space = spaces.parse(["preset=zero1", "micro=1", "checkpointing=false"])
    wishes = tuning.Wishes(space, steps=5, limit=600, most=4)
    loaded = load.Loaded(samples.job(**JOB), samples.cluster(**CLUSTER))
    assert tuning.make(loaded, samples.SITE, "", wishes).numbers == (4,)
