"""A job and a cluster come back from what a run folder keeps of them, and so does the plan of every job that ships."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, cast

import pytest

from launcher import ROOT, schedulers
from launcher.errors import LauncherError, PlanError
from launcher.files import restored, validation
from launcher.files.job import Job
from launcher.planning import plan, recorded
from launcher.runs import record
from tests import golden, samples

if TYPE_CHECKING:
    from pathlib import Path

    from launcher.planning.plan import Plan

JOBS = [path for path in golden.job_files() if "\npipeline:" not in path.read_text(encoding="utf-8")]


def again(before: Plan) -> Plan:
    """The plan as its run folder has it."""
    spellings = json.loads(json.dumps(recorded.spellings(before)))
    return recorded.plan(json.loads(record.plan_text(before)), spellings, samples.SITE)


@pytest.mark.parametrize("path", JOBS, ids=lambda path: str(path.relative_to(ROOT / "jobs")))
@pytest.mark.heavy
def test_a_recorded_plan_renders_to_the_same(path: Path) -> None:
    before = plan.make(samples.loaded(str(path)), samples.SITE)
    after = again(before)
    for name in schedulers.SCHEDULERS:
        try:
            wanted = schedulers.load(name).render(before)
        except LauncherError as error:
            with pytest.raises(type(error)):
                schedulers.load(name).render(after)
            continue
        assert schedulers.load(name).render(after) == wanted


def test_values_of_every_kind_come_back(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(
        f"{samples.JOB}workload: ./a b.py\nwalltime: 90m\n"
        "args: {tag: 007, size: 1.50, big: 1e-05, list: [0x1f, 'it''s $(x)']}\n"
        'env: {TOKEN: {secret: hf-token}, LINES: "a\\nb"}\ndeepspeed: {preset: zero1, steps_per_print: 7}\n'
    )
    (tmp_path / "here.yaml").write_text(
        samples.CLUSTER + "mounts: {/data: {host: /data, readonly: true}}\nmemory: 64GB\n"
    )
    before = plan.make(samples.loaded(str(tmp_path / "job.yaml")), samples.SITE)
    after = again(before)
    assert (after.job, after.cluster) == (before.job, before.cluster)
    assert schedulers.load("slurm").render(after) == schedulers.load("slurm").render(before)
    assert "--tag=007" in schedulers.load("slurm").render(after)["job.sh"]


def test_the_number_of_an_id_is_not_part_of_the_next_one() -> None:
    before = samples.decided()
    assert again(before._replace(id=f"{before.id}-12")).id == before.id
    assert again(before._replace(id="demo-p3-012345")).id == "demo-p3-012345"


@pytest.mark.parametrize("broken", [[], {"id": 1}, {"job": {"odd": 1}, "cluster": {}, "args": {}}])
def test_a_foreign_record_is_refused(broken: object) -> None:
    with pytest.raises(PlanError, match=r"plan\.json"):
        recorded.plan(broken, {}, samples.SITE)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("args", "a", "args: `key: value` lines are expected"),
        ("job", None, "job: `key: value` lines are expected"),
        ("batch", {"micro": 0, "accumulation": 1, "train": 1}, "batch.micro: must be at least 1"),
        ("image", 7, "image: text is expected"),
        ("environment", {"A": 1}, "environment.A: text is expected"),
        ("cluster", {"slots": -1}, "cluster.slots: must be at least 1"),
        ("cluster", {"slots": 1, "fabric": "\u2028"}, "unknown fabric"),
        ("job", {"name": "demo", "workload": "later"}, "unknown workload 'later'"),
        ("args", {"data": {"weight": 1}}, "args.data"),
        ("id", [None], "id: text is expected"),
    ],
)
def test_what_stands_where_it_cannot_is_named(key: str, value: object, message: str) -> None:
    facts = json.loads(record.plan_text(samples.decided())) | {key: value}
    with pytest.raises(PlanError, match=re.escape(message)):
        recorded.plan(facts, {}, samples.SITE)


def test_a_lock_of_another_shape_is_named() -> None:
    facts = json.loads(record.plan_text(samples.decided()))
    for odd in ({"job": [1]}, {"job": [["a"]]}, {"job": [[[[]], "a"]]}, {"job": 7}):
        with pytest.raises(PlanError, match=r"lock\.json"):
            recorded.plan(facts, cast("Any", odd), samples.SITE)


def test_a_field_of_another_version_is_named() -> None:
    data = {**validation.written(samples.job()), "from-later": 1}
    with pytest.raises(ValueError, match="unknown key 'from-later'"):
        restored.restore(Job, data, {})
