"""Packages that an option needs beside torch, DeepSpeed and transformers: one table, standard library only.

The launcher reads it before a job is submitted and holds it against the image or the interpreter; a rank that meets a
missing package all the same stops with BAD_INPUT. What a workload needs whatever its options are is in its TRAITS.
"""

from __future__ import annotations

import re
from importlib import util
from typing import TYPE_CHECKING, Any, NamedTuple

from workloads.session import Stop

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class Need(NamedTuple):
    """`option`, where its value is one of `values` (any that is on, where there are none), needs a package.

    Of an option whose values are words of many kinds, such as --data, `pattern` says which.

    `module` is what Python imports, `package` what pip installs, `instead` what to do without it.
    """

    option: str
    module: str
    package: str
    values: tuple[str, ...] = ()
    instead: str = ""
    workload: str = ""  # whose option alone is meant; empty: everybody's
    pattern: str = ""  # a regular expression that is in one of the words

    def applies(self, value: Any) -> bool:
        """Whether the option with this value needs it."""
        if self.pattern:
            words = value if isinstance(value, (list, tuple)) else [value or ""]
            return any(re.search(self.pattern, str(word)) for word in words)
        return str(value) in self.values if self.values else value not in (None, False, "")


NEEDS = (
    Need("tensorboard", "tensorboard", "tensorboard"),
    Need("wandb", "wandb", "wandb"),
    Need("mlflow", "mlflow", "mlflow-skinny"),
    Need("liger", "liger_kernel", "liger-kernel"),
    # the names that transformers looks for: is_flash_attn_2_available, is_flash_attn_3_available (5.24)
    Need(
        option="attention",
        module="flash_attn",
        package="flash-attn",
        values=("flash_attention_2",),
        instead="use args.attention=sdpa",
    ),
    Need(
        option="attention",
        module="flash_attn_interface",
        package="flash-attn-3",
        values=("flash_attention_3",),
        instead="use args.attention=sdpa",
    ),
    Need(
        option="engine",
        module="vllm",
        package="vllm",
        values=("vllm",),
        instead="use args.engine=transformers",
        workload="serve",
    ),
    Need(
        option="lora-4bit",
        module="bitsandbytes",
        package="bitsandbytes",
        instead="leave args.lora-4bit out",
    ),
    Need("lora-rank", "peft", "peft", workload="finetune"),
    Need("packing", "trl", "trl", workload="finetune"),
    Need("checkpoint-mirror", "s3fs", "s3fs", pattern=r"^s3://"),
    Need("checkpoint-mirror", "gcsfs", "gcsfs", pattern=r"^gs://"),
    Need("data", "datasets", "datasets", pattern=r"""(^|['"])hf:"""),
    Need("data", "pyarrow", "pyarrow", pattern=r"\.parquet\b"),
    Need("data", "zstandard", "zstandard", pattern=r"\.zst\b"),
    Need("engine", "starlette", "starlette", ("transformers",), workload="serve"),
    Need("engine", "uvicorn", "uvicorn", ("transformers",), workload="serve"),
)
# Section of DeepSpeed's configuration → what its rank 0 imports where it is enabled (deepspeed/monitor/utils.py).
MONITORS = {
    section: Need(f"deepspeed.{section}", module, package, instead=f"leave deepspeed.{section} out")
    for section, module, package in (
        ("comet", "comet_ml", "comet-ml"),
        ("tensorboard", "tensorboard", "tensorboard"),
        ("wandb", "wandb", "wandb"),
    )
}
# Module → package, of what whole workloads need (TRAITS.packages).
WORKLOADS = {"trl": "trl", "peft": "peft", "lm_eval": "lm_eval"}


def needed(values: Mapping[str, Any]) -> Iterator[Need]:
    """The rows of the table that apply to options with these values, by their names without dashes in front."""
    for need in NEEDS:
        if need.option in values and need.applies(values[need.option]):
            yield need


def require(module: str, what: str) -> None:
    """Raise Stop when a package that something needs is not installed."""
    if util.find_spec(module) is None:
        raise Stop(f"{what}: the package {module} is not installed")


def require_for(option: str, value: Any) -> None:
    """The same for what the table says that `option` needs with `value`."""
    for need in needed({option: value}):
        require(need.module, f"--{option}" + (f" {value}" if need.values else ""))
