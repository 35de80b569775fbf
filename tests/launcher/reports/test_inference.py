"""What `plan` says of a model that only generates."""

from __future__ import annotations

from typing import Any

from launcher.reports import tables
from tests import samples

CLUSTER: dict[str, Any] = {"gpu": "h100-80gb", "slots": 1, "fabric": "infiniband", "memory": "80GB"}


def planned(**fields: Any) -> str:
    """The plan's text of a job with `fields`, in lines without columns."""
    text = tables.plan(samples.decided({"model": "llama-3.1-70b", **fields}, **CLUSTER))
    return "\n".join(" ".join(line.split()) for line in text.splitlines())


def test_one_that_does_not_fit_is_told_why_and_what_helps() -> None:
    text = planned(workload="generate", deepspeed="zero3-offload", args={"prompts": "/p.jsonl"})
    assert "in memory per host\nweights 141 GB of 80.0 GB" in text
    assert "verdict DOES NOT FIT: needs 141.1 GB per host, 80.0 GB available\nuse --set nodes=2" in text


def test_a_server_lets_the_texts_that_do_not_fit_wait() -> None:
    text = planned(workload="serve", model="llama-2-7b", args={"max-length": 4096})
    assert "texts at once 28 of at most 256, the rest wait\nverdict fits" in text
