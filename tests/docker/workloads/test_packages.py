"""The table of packages that options need: held against the workloads' options, their code, and the images' locks."""

from __future__ import annotations

import ast
from typing import Any

import pytest
from workloads import packages
from workloads.packages import NEEDS, WORKLOADS
from workloads.session import Stop

from launcher import ROOT
from launcher import workloads as launcher_workloads
from launcher.images import locks

CODE = sorted((ROOT / "docker" / "workloads").glob("*.py"))


# words of an option that takes several, of which one needs the package
WORDS = {
    "datasets": ["builtin", "hf:openwebtext"],
    "pyarrow": ["/data/*.parquet"],
    "zstandard": ['{"path":"/data/a.jsonl.zst","weight":1}'],
    "s3fs": "s3://bucket/runs",
    "gcsfs": "gs://bucket/runs",
}


@pytest.mark.parametrize("need", NEEDS, ids=lambda need: need.package)
def test_each_row_is_of_an_option_with_such_a_value(need: packages.Need) -> None:
    having = [
        n
        for n in launcher_workloads.names()
        if f"--{need.option}" in launcher_workloads.parser(n)._option_string_actions
    ]
    assert having
    for name in [need.workload] if need.workload else having:
        action = launcher_workloads.parser(name)._option_string_actions[f"--{need.option}"]
        assert set(need.values) <= set(action.choices or need.values)
        value: Any = WORDS[need.package] if need.pattern else need.values[0] if need.values else True
        assert need in launcher_workloads.packages(name, {need.option: value})
        assert need not in launcher_workloads.packages(name, {need.option: None})


@pytest.mark.heavy
def test_every_package_that_a_rank_asks_for_is_in_the_table() -> None:
    known = {need.module for need in NEEDS} | set(WORKLOADS)
    for path in CODE:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            if node.func.attr == "require" and isinstance(node.args[0], ast.Constant):
                assert str(node.args[0].value) in known, path
            # imports.py looks for what Python is importing already
            assert node.func.attr != "find_spec" or path.name in {"packages.py", "imports.py"}, path


def test_what_whole_workloads_need_has_a_package() -> None:
    for name in launcher_workloads.names():
        assert set(launcher_workloads.traits(name).packages) <= set(WORKLOADS)
    assert [n.package for n in launcher_workloads.packages("chat_ppo", {})] == ["trl", "peft"]


@pytest.mark.parametrize(
    ("args", "wanted"),
    [
        ({}, []),
        ({"wandb": "p", "tensorboard": True, "mlflow": "e"}, ["tensorboard", "wandb", "mlflow-skinny"]),
        ({"tensorboard": False, "wandb": None}, []),
        ({"attention": "sdpa"}, []),
        ({"attention": "flash_attention_2", "liger": True}, ["liger-kernel", "flash-attn"]),
        ({"attention": "flash_attention_3"}, ["flash-attn-3"]),
    ],
)
def test_what_options_need(args: dict[str, Any], wanted: list[str]) -> None:
    assert [need.package for need in launcher_workloads.packages("pretrain", args)] == wanted


def test_the_default_of_an_option_counts() -> None:
    assert [need.package for need in launcher_workloads.packages("serve", {})] == ["vllm"]
    assert "uvicorn" in {n.package for n in launcher_workloads.packages("serve", {"engine": "transformers"})}


def test_what_is_missing_stops_a_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workloads.packages.util.find_spec", lambda name: None)
    with pytest.raises(Stop, match="--attention flash_attention_2: the package flash_attn is not installed"):
        packages.require_for("attention", "flash_attention_2")
    with pytest.raises(Stop, match="--wandb: the package wandb is not installed"):
        packages.require_for("wandb", "a project")
    packages.require_for("wandb", None)


def test_the_train_image_has_what_tracks_and_profiles() -> None:
    held = locks.packages("train", "cpu")
    assert {"mlflow-skinny", "py-spy", "tensorboard", "wandb", "trl", "peft", "torch", "deepspeed"} <= held
    assert {"liger-kernel", "bitsandbytes"} <= locks.packages("train", "cuda") - held


def test_adapters_and_packs_need_what_chat_has_anyway() -> None:
    args = {"lora-rank": 8, "lora-4bit": True, "packing": True}
    wanted = [need.package for need in launcher_workloads.packages("finetune", args)]
    assert wanted == ["bitsandbytes", "peft", "trl"]
    assert [need.package for need in launcher_workloads.packages("finetune", {})] == []
    assert [n.package for n in launcher_workloads.packages("chat_sft", args)] == [
        "trl",
        "peft",
        "bitsandbytes",
    ]
