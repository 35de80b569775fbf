"""Packages that args need, held against an image's facts, the locks of the project's images, and an interpreter."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

from launcher.cli import main
from launcher.images import facts as images_facts
from launcher.images import locks
from launcher.planning import image_check, interpreter, packages
from launcher.planning.plan import Workspace
from tests import samples
from tests.launcher.planning.test_image_check import IMAGE

if TYPE_CHECKING:
    from pathlib import Path

    from launcher.planning.plan import Plan

FLASH = {"model": "llama-7b", "args": {"attention": "flash_attention_2"}, "deepspeed": "zero3"}
OURS = "registry.example.com/deepspeed-train"


def plan_of(job: dict[str, Any], **cluster: Any) -> Plan:
    made = samples.decided(job, **{"gpu": "h100-80gb", "slots": 8, "memory": "2000GB", **cluster})
    return made._replace(places={**made.places, "cluster": {("image",): None}})  # type: ignore[dict-item]


def said(plan: Plan, facts: images_facts.Facts | None = None) -> list[str]:
    return [f"{problem}" for problem in packages.in_image(plan, facts)]


def held(*names: str) -> images_facts.Facts:
    return images_facts.parse(
        json.dumps({**IMAGE, "packages": dict.fromkeys(names, "1.0")}), "here.image.json"
    )


def test_the_projects_own_image_by_its_lock() -> None:
    (problem,) = said(plan_of(FLASH, image=OURS))
    assert problem == (
        "args.attention: flash_attention_2 needs the package flash-attn, which image "
        f"{OURS}:0123456789ab-cuda lacks (docker/requirements/train-cuda.txt); use args.attention=sdpa, or name an "
        "image of yours that has it"
    )
    tracked = {"model": "llama-7b", "args": {"wandb": "p", "mlflow": "e", "tensorboard": True, "liger": True}}
    assert said(plan_of(tracked, image=OURS)) == []


def test_a_mirror_needs_the_package_of_its_scheme() -> None:
    for address, package in (("s3://b/a", "s3fs"), ("gs://b/a", "gcsfs"), ("file:///a", "")):
        plan = plan_of({"checkpoint": {"mirror": address}}, image=OURS)
        assert said(plan) == []  # the image of this project has both
        lacking = [problem.partition(";")[0] for problem in said(plan, held("torch"))]
        scheme = address.partition("/")[0]
        words = f"checkpoint.mirror: {scheme}// needs the package {package}, which image {plan.image} lacks"
        assert lacking == ([f"{words} (here.image.json)"] if package else [])


def test_monitors_of_deepspeed_need_theirs() -> None:
    monitors = {"preset": "zero2", "comet": {"enabled": True}, "wandb": {"enabled": False}, "tensorboard": {}}
    plan = plan_of({"model": "llama-7b", "deepspeed": monitors}, image=OURS)
    (problem,) = said(plan)
    assert problem.startswith("deepspeed.comet needs the package comet-ml, which image ")
    assert "; leave deepspeed.comet out, or " in problem
    ours = plan_of({"model": "llama-7b", "deepspeed": {"wandb": {"enabled": True}}}, image=OURS)
    assert said(ours) == []


@pytest.mark.parametrize(
    "image", [f"{OURS}:1", "nvcr.io/nvidia/pytorch:25.09-py3", "/images/train.sqsh", "mine"]
)
def test_of_others_images_nothing_is_said_without_facts(image: str) -> None:
    assert said(plan_of(FLASH, image=image)) == []


def test_facts_come_before_locks_and_names_are_compared_as_pip_does() -> None:
    plan = plan_of(FLASH, image=OURS)
    assert said(plan, held("Flash_Attn", "torch")) == []
    assert "lacks (here.image.json)" in said(plan, held("torch"))[0]
    assert "use args.attention=sdpa, or name an image that has it" in said(plan, held("torch"))[0]
    old = images_facts.parse(json.dumps(IMAGE), "here.image.json")  # of an image built before they were noted
    assert "docker/requirements/train-cuda.txt" in said(plan, old)[0]


def test_an_image_is_refused_for_it() -> None:
    refusal = image_check.refusal(plan_of(FLASH, image=OURS), None)
    assert refusal
    assert refusal.exit_code == 3
    assert "flash-attn" in str(refusal)


def test_where_nobody_thought_of_an_image_none_is_held_against_the_job() -> None:
    evaluate = {"workload": "evaluate", "model": "/m", "args": {"tasks": ["piqa"]}}
    assert list(packages.in_image(samples.decided(evaluate), None)) == []
    entered = samples.decided(evaluate, image="deepspeed-inference", local={"container": "podman"})
    assert "needs the package lm_eval" in str(next(packages.in_image(entered, None)))


def test_a_program_of_ones_own_needs_what_it_needs() -> None:
    assert said(plan_of({"workload": "./train.py", "args": {"wandb": "p"}}, image=OURS)) == []


@pytest.mark.parametrize(
    ("image", "target"),
    [
        ("deepspeed-train", "train"),
        ("localhost:5000/team/deepspeed-inference", "inference"),
        ("deepspeed-train-mine", ""),
        ("vllm-serve", ""),
    ],
)
def test_the_target_of_an_image(image: str, target: str) -> None:
    assert locks.target(image) == target


def here(job: dict[str, Any], python: str = sys.executable) -> Plan:
    made = samples.decided(job)
    return made._replace(workspace=Workspace("/opt", "/runs", python, "tag"))


def test_the_interpreter_that_will_run_the_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    job = {"args": {"wandb": "p", "tensorboard": True}}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "wandb" else name)
    refusal = interpreter.refusal(here(job))
    assert (
        f"args.wandb needs the package wandb, which {sys.executable} lacks; `{sys.executable} -m pip"
        in str(refusal)
    )
    assert "tensorboard" not in str(refusal)
    assert interpreter.refusal(here(job, "/another/python")) is None
    assert interpreter.refusal(here({"args": {}})) is None


def test_a_python_of_ones_own_is_asked_what_it_has(tmp_path: Path) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(
        """#!/bin/sh\necho '{"python": "3.12.1", "packages": {"torch": "2.9", "transformers": "5"}}'\n"""
    )
    python.chmod(0o755)
    refusal = interpreter.refusal(samples.decided({"args": {"wandb": "p"}}, python=str(python)))
    assert f"needs the package deepspeed, which {python} lacks" in str(refusal)
    assert f"args.wandb needs the package wandb, which {python} lacks" in str(refusal)
    assert "torch," not in str(refusal)
    own = samples.decided({"workload": "/mine.py"}, python=str(python))
    assert interpreter.refusal(own) is None
    new = tmp_path / "new"  # an environment with nothing in it yet
    new.write_text("""#!/bin/sh\necho '{"python": "3.12.1", "packages": {}}'\n""")
    new.chmod(0o755)
    assert f"needs the package torch, which {new} lacks" in str(
        interpreter.refusal(samples.decided(python=str(new)))
    )


@pytest.mark.parametrize(("words", "code"), [([], 3), (["--dry-run"], 0)])
def test_a_submission_is_refused_and_a_rehearsal_is_not(
    words: list[str],
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "here.yaml").write_text(samples.CLUSTER)
    (tmp_path / "job.yaml").write_text(samples.JOB + "args: {wandb: a project}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAUNCHER_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main.main(["local", "job.yaml", *words]) == code
    assert ("job.yaml:5:8: args.wandb needs" in capsys.readouterr().err) is (code == 3)
    assert not (tmp_path / "runs").exists()


def test_verified_images_say_what_they_hold() -> None:
    assert held("A_b.c").packages == frozenset({"a-b-c"})
    assert images_facts.parse(json.dumps(IMAGE), "x").packages is None
