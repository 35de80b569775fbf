"""What the jobs' comments say of their own numbers, where it follows from them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from ruamel.yaml import YAML

from launcher import ROOT

if TYPE_CHECKING:
    from pathlib import Path

FILES = sorted((ROOT / "jobs").rglob("*.yaml"))


def comment(file: Path) -> str:
    lines = (
        line[1:].strip() for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("#")
    )
    return " ".join(lines)


def read(file: Path) -> dict[str, Any]:
    job: dict[str, Any] = YAML(typ="safe").load(file)
    return job


def claims(pattern: str) -> list[Any]:
    """Each job whose comment has the pattern, with the first that it says: others are those of a source."""
    found = ((file, re.search(pattern, comment(file))) for file in FILES)
    return [pytest.param(read(file), match[1], id=file.stem) for file, match in found if match]


@pytest.mark.parametrize(("job", "said"), claims(r"(half a|[\d.]+) million tokens a step"))
def test_tokens_of_a_step(job: dict[str, Any], said: str) -> None:
    millions = 0.5 if said == "half a" else float(said)
    assert round(job["batch"]["global"] * job["args"]["seq-length"] / 1e6, 1) == millions


@pytest.mark.parametrize(("job", "said"), claims(r"(\d+) samples"))
def test_samples_of_a_step(job: dict[str, Any], said: str) -> None:
    assert job["batch"]["global"] == int(said)


@pytest.mark.parametrize("name", ["llama-7b", "llama-7b-fast", "llama-13b", "llama-70b"])
def test_a_llama_ends_at_a_tenth_of_its_rate(name: str) -> None:
    args = read(ROOT / "jobs" / f"{name}.yaml")["args"]
    assert args["min-lr"] == pytest.approx(args["lr"] / 10)


def test_what_is_said_to_be_as_another_job_is() -> None:
    model, fast, large = (
        read(ROOT / "jobs" / f"{name}.yaml") for name in ("llama-7b", "llama-7b-fast", "llama-13b")
    )
    for job in (fast, large):
        assert job["batch"]["global"] == model["batch"]["global"]
        for name in ("lr", "min-lr", "warmup-steps", "seq-length"):
            assert job["args"][name] == model["args"][name]


def test_the_jobs_that_say_their_tokens_are_found() -> None:
    assert {param.id for param in claims(r"million tokens a (step)")} >= {
        "gpt2",
        "gpt2-xl",
        "llama-7b",
        "llama-13b",
    }


@pytest.mark.parametrize("stage", ["sft", "reward"])
def test_the_batch_of_deepspeed_chat_on_eight_gpus(stage: str) -> None:
    """Its scripts name the micro batch, and accumulate nothing."""
    batch = read(ROOT / "jobs" / "chat" / f"{stage}.yaml")["batch"]
    assert batch["global"] == 8 * batch["micro"]
