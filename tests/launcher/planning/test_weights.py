"""Which jobs have weights fetched before their ranks start, and where pods keep them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from launcher import schedulers, workloads
from launcher.planning import weights
from tests import samples
from tests.launcher.schedulers.kubernetes import variants

if TYPE_CHECKING:
    from pathlib import Path

HUB = {"model": "team/tiny"}
CPU: dict[str, Any] = {"gpu": None, "cpus": None, "memory": None, "fabric": "tcp", "mounts": {}}


def test_a_model_of_the_hub_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert weights.fetched(samples.decided(HUB)) == (("team/tiny",), ())
    others: list[dict[str, Any]] = [
        {"model": "byte-gpt"},
        {"model": "/data/models/tiny"},
        {**HUB, "workload": "./train.py"},
        {"model": None, "workload": "allreduce"},
    ]
    assert [weights.fetched(samples.decided(job)) for job in others] == [((), ())] * len(others)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "team" / "tiny").mkdir(parents=True)
    (tmp_path / "team" / "tiny" / "config.json").write_text("{}")
    plan = variants.decide({}, {**HUB, "workload": "serve"}, **CPU)
    assert weights.fetched(plan) == ((), ()), "a folder here"


def test_without_weights_where_none_are_read() -> None:
    assert weights.fetched(samples.decided({**HUB, "workload": "prepare"})) == ((), ("team/tiny",))
    rehearsal = {**HUB, "workload": "generate", "args": {"random-weights": True, "prompts": ["a"]}}
    assert weights.fetched(samples.decided(rehearsal)) == ((), ("team/tiny",))


@pytest.mark.parametrize(
    ("workload", "args", "fetched"),
    [
        ("pretrain", {"tokenizer": "team/words"}, ((), ("team/words",))),
        ("pretrain", {"tokenizer": "gpt2"}, ((), ("gpt2",))),
        ("pretrain", {"tokenizer": "bpe:512"}, ((), ())),
        ("pretrain", {"tokenizer": "bytes"}, ((), ())),
        ("pretrain", {"tokenizer": "/data/tokenizers/llama"}, ((), ())),
        ("chat_ppo", {"reward": "brief"}, ((), ())),
        ("chat_ppo", {"reward": "team/judge", "tokenizer": "team/words"}, (("team/judge",), ("team/words",))),
        ("chat_rl", {"reward": "team/judge", "tokenizer": "team/judge"}, (("team/judge",), ())),
    ],
)
def test_what_options_name_is_fetched_too(workload: str, args: dict[str, Any], fetched: Any) -> None:
    job = {"model": "byte-gpt", "workload": workload, "args": args}
    assert weights.fetched(samples.decided(job)) == fetched


def test_every_option_that_takes_a_hub_name_says_so() -> None:
    """By its help, which a person reads: an option that is new and forgotten is found here."""
    for name in workloads.names():
        for action in workloads.parser(name)._actions:
            takes = "hub name" in (action.help or "") and "--model" not in action.option_strings
            assert takes == (type(action.type).__name__ == "HubName"), (name, action.option_strings)


@pytest.mark.parametrize("scheduler", ["local", "slurm"])
def test_the_node_entry_is_told(scheduler: str) -> None:
    on = schedulers.load(scheduler)
    assert "--fetch=team/tiny" in on.render(samples.decided(HUB))["job.sh"]
    assert "--fetch" not in on.render(samples.decided())["job.sh"]


def manifest(kubernetes: dict[str, Any], **job: Any) -> str:
    plan = variants.decide(kubernetes, {**HUB, "nodes": 1, "env": {}, **job}, **CPU)
    return schedulers.load("kubernetes").render(plan)["manifest.yaml"]


def test_pods_keep_them_on_the_claim() -> None:
    text = manifest({"runs": "runs"})
    assert '"--fetch=team/tiny"' in text
    assert '- {name: "HF_HOME", value: "/runs/huggingface"}' in text
    tokenizer = manifest({"runs": "runs"}, model="byte-gpt", args={"tokenizer": "team/words"})
    assert '"--fetch-tokenizer=team/words"' in tokenizer
    assert '- {name: "HF_HOME", value: "/runs/huggingface"}' in tokenizer
    assert "HF_HOME" not in manifest({"runs": None}), "there is no claim"
    assert "HF_HOME" not in manifest({"runs": "runs"}, model="byte-gpt")
    assert '{name: "HF_HOME", value: "/cache"}' in manifest({"runs": "runs"}, env={"HF_HOME": "/cache"})
    assert "/runs/huggingface" not in manifest({"runs": "runs"}, env={"HF_HUB_CACHE": "/cache"})
