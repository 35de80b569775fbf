"""The launcher knows the keys that DeepSpeed reads, no more and no fewer, and says what a slip was meant to be."""

from __future__ import annotations

import json
import math
import re
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from launcher import ROOT, workloads
from launcher.deepspeed import config as deepspeed_config
from launcher.deepspeed import keys, rules, view
from launcher.sizing import zero
from tests import deepspeed_keys

KNOWN = keys.known()
TRAINERS = [name for name in workloads.names() if workloads.traits(name).resolves_auto]
TYPES = json.loads((ROOT / "launcher" / "deepspeed" / "keys.json").read_text("utf-8"))["parameters"][
    "optimizer"
]


def messages(overrides: dict[str, Any], workload: str = "pretrain") -> list[str]:
    return [str(problem) for _, problem in keys.problems(overrides, workload)]


@pytest.fixture(scope="module")
def installed() -> dict[str, Any]:
    pytest.importorskip("deepspeed", reason="what it reads is the reference")
    return deepspeed_keys.document()


@pytest.mark.torch
def test_the_keys_are_those_that_the_installed_deepspeed_reads(installed: dict[str, Any]) -> None:
    file = json.loads((ROOT / "launcher" / "deepspeed" / "keys.json").read_text(encoding="utf-8"))
    assert file == installed, "see tests/deepspeed_keys.py for how to write keys.json anew"


def test_the_images_have_the_deepspeed_that_the_keys_are_of() -> None:
    file = json.loads((ROOT / "launcher" / "deepspeed" / "keys.json").read_text(encoding="utf-8"))
    locked = (ROOT / "docker" / "requirements" / "deepspeed.txt").read_text(encoding="utf-8")
    assert re.findall(r"^deepspeed==(\S+)", locked, re.MULTILINE) == [file["version"]]


@pytest.mark.torch
def test_what_deepspeed_removed_is_named(installed: dict[str, Any]) -> None:
    assert {".".join(path) for path in keys.REMOVED} == set(deepspeed_keys.removed())
    assert not {path for path in keys.REMOVED if path[0] in KNOWN and len(path) == 1}


@pytest.mark.parametrize("name", ["AdamW", "adamw", "ADAM", "Muon", "SGD"])
def test_optimizers_of_deepspeed_may_be_written_in_any_case(name: str) -> None:
    assert messages({"optimizer": {"type": name}}) == []
    assert messages({"optimizer": {"type": "sgd"}})  # torch's are attributes, in their own spelling


@pytest.mark.torch
def test_what_is_deprecated_is_named(installed: dict[str, Any]) -> None:
    del installed
    found = {
        (section, name)
        for section, model in deepspeed_keys.models().items()
        for name in deepspeed_keys.deprecated(model)
    }
    from deepspeed.runtime import constants

    assert set(keys.DEPRECATED) == found | {(constants.BFLOAT16_OLD,)}


@pytest.mark.torch
def test_what_deepspeed_does_nothing_with_is_read_nowhere(installed: dict[str, Any]) -> None:
    del installed
    from deepspeed.runtime import engine

    weight_quantization = set(re.findall(r"weight_quantization_config\.(\w+)", deepspeed_keys.texts()))
    for section, *rest in keys.UNREAD:
        name = rest[-1] if rest else section
        if section == "weight_quantization":
            assert name not in weight_quantization
        elif name == "allgather_partitions":  # a method of the engine that nobody calls
            assert hasattr(engine.DeepSpeedEngine, f"zero_{name}")
            assert deepspeed_keys.texts().count(f"zero_{name}") == 1
        else:
            assert not deepspeed_keys.mentions(name), name
    assert keys.UNREAD.keys() & {("zero_optimization", "legacy_stage1")} == set()


@pytest.mark.parametrize(
    "overrides",
    [
        *({"zero_optimization": {name: 1000}} for name in ("prefetch_bucket_size", "max_live_parameters")),
        {"zero_optimization": {"gather_16bit_weights_on_model_save": True}},
        {"tensor_parallel": {"replace_with_kernel_inject": True}},
        {"pipeline": {"use_reentrant": False}},
        {"zero_optimization": True},
        {"zero_optimization": {"offload_optimizer": None, "offload_param": None, "overlap_comm": None}},
        {"zero_optimization": {"zenflow": None}},
        {"zero_optimization": {"zenflow": {"select_interval": "auto", "update_interval": 4}}},
        {"log_level": None},
        {"log_level": "INFO"},
        {"data_types": {"grad_accum_dtype": None, "keep_in_fp32_modules": "auto"}},
        {"torch_autocast": {"dtype": "bfloat16", "lower_precision_safe_modules": ["torch.nn.Linear"]}},
        {"wandb": {"team": None, "group": None}},
        {"fp16": {"loss_scale_window": 1e3, "initial_scale_power": 16.0, "hysteresis": 2.0}},
        {"data_efficiency": {"enabled": True, "data_sampling": {"num_epochs": 1}}},
        {"checkpoint": {"writer": {"type": "fast", "io_buffer_size": 1024}}},
    ],
)
def test_what_deepspeed_takes_is_taken(overrides: dict[str, Any]) -> None:
    assert messages(overrides, "./train.py") == []
    assert accepts(overrides)


def test_metrics_of_a_curriculum_have_names_of_the_users_own_and_known_keys() -> None:
    def of(metric: dict[str, Any]) -> list[str]:
        learning = {"enabled": True, "curriculum_metrics": {"seqlen": metric}}
        return messages({"data_efficiency": {"data_sampling": {"curriculum_learning": learning}}})

    assert of({"min_difficulty": 8, "schedule_type": "fixed_linear"}) == []
    (message,) = of({"min_dificulty": 8})
    assert message.endswith("did you mean 'min_difficulty'?")


def test_other_names_lie_over_those_of_a_preset() -> None:
    overrides = {"zero_optimization": {"prefetch_bucket_size": 7}}
    numbers = deepspeed_config.batch(1, None, None, 1)
    made = deepspeed_config.make(deepspeed_config.Inputs(overrides, "bf16", slots=1), "zero3", 1, numbers)
    assert made["zero_optimization"]["stage3_prefetch_bucket_size"] == 7
    assert "prefetch_bucket_size" not in made["zero_optimization"]


@pytest.mark.torch
@pytest.mark.parametrize(("written", "stage"), [(True, 1), (False, 0)])
def test_zero_as_a_switch_is_the_stage_that_deepspeed_makes_of_it(written: bool, stage: int) -> None:
    numbers = deepspeed_config.batch(1, None, None, 1)
    inputs = deepspeed_config.Inputs({"zero_optimization": written}, "bf16", slots=1)
    assert deepspeed_config.make(inputs, "zero3", 1, numbers)["zero_optimization"]["stage"] == stage
    config = pytest.importorskip("deepspeed.runtime.zero.config", reason="it is the judge")
    assert config.read_zero_config_deprecated({"zero_optimization": written})["stage"] == stage


@pytest.mark.parametrize("name", deepspeed_config.presets())
def test_presets_have_no_slips(name: str) -> None:
    assert messages(deepspeed_config.preset(name)) == []


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"zero_optimisation": {"stage": 2}},
            "unknown key 'deepspeed.zero_optimisation'; did you mean 'zero_optimization'?",
        ),
        ({"stage": 3}, "unknown key 'deepspeed.stage'; it belongs in zero_optimization: {stage: …}"),
        (
            {"zero_optimization": {"overlap_com": True}},
            "unknown key 'deepspeed.zero_optimization.overlap_com'; did you mean 'overlap_comm'?",
        ),
        (
            {"zero_optimization": {"gradient_clipping": 1.0}},
            "unknown key 'deepspeed.zero_optimization.gradient_clipping'; it belongs at the top of `deepspeed:`",
        ),
        (
            {"zero_optimization": {"offload_optimizer": {"devise": "cpu"}}},
            "unknown key 'deepspeed.zero_optimization.offload_optimizer.devise'; did you mean 'device'?",
        ),
        (
            {"zero_optimization": {"offload_param": {"device": "disk"}}},
            "deepspeed.zero_optimization.offload_param.device: cpu, none or nvme is expected, not 'disk'",
        ),
        (
            {"elasticity": {"enabled": True}},
            "deepspeed.elasticity: DeepSpeed has removed this feature; "
            "use nodes: {min, max}, or change it between runs: a new one resumes with checkpoint.resume",
        ),
        (
            {"zero_optimization": {"mics_shard_size": 8}},
            "deepspeed.zero_optimization.mics_shard_size: DeepSpeed has removed this feature; "
            "use ZeRO++: preset zeropp",
        ),
        (
            {"zero_optimization": {"cpu_offload": True}},
            "deepspeed.zero_optimization.cpu_offload is deprecated; use offload_optimizer: {device: cpu}",
        ),
        (
            {"zero_optimization": {"stage3_max_live_params": 0}},
            "unknown key 'deepspeed.zero_optimization.stage3_max_live_params'; "
            "did you mean 'stage3_max_live_parameters'?",
        ),
        ({"train_batch_size": 8}, "deepspeed.train_batch_size is derived from `batch:`; remove it"),
        (
            {"optimizer": {"type": "AdammW"}},
            "deepspeed.optimizer.type: 'AdammW' is not known; did you mean 'AdamW'?",
        ),
        (
            {"scheduler": {"type": "WarmupCosine"}},
            "deepspeed.scheduler.type: 'WarmupCosine' is not known; did you mean 'WarmupCosineLR'?",
        ),
        (
            {"optimizer": {"type": {"a": 1}}},
            'deepspeed.optimizer.type: {"a": 1} is not known; it can be ' + ", ".join(sorted(TYPES)),
        ),
        (
            {"optimizer": {"type": "adam", "params": {"betta": 1}}},
            "deepspeed.optimizer.params: adam has no parameter 'betta'; did you mean 'betas'?",
        ),
        (
            {"optimizer": {"type": "Adam", "params": {"max_grad_norm": 1}}},
            "deepspeed.optimizer.params: adam has no parameter 'max_grad_norm'; use gradient_clipping",
        ),
        (
            {"optimizer": {"type": "SGD", "params": {"momentun": 0.9}}},
            "deepspeed.optimizer.params: SGD has no parameter 'momentun'; did you mean 'momentum'?",
        ),
        (
            {"optimizer": {"type": "AdamW", "params": [1e-4]}},
            "deepspeed.optimizer.params: a mapping of its parameters is expected, not [0.0001]",
        ),
        (
            {"scheduler": {"type": "WarmupLR", "params": {"warmup_steps": 10}}},
            "deepspeed.scheduler.params: WarmupLR has no parameter 'warmup_steps'; did you mean 'warmup_num_steps'?",
        ),
        (
            {"optimizer": {"type": "AdamW", "params": {"lr": "fast"}}},
            "deepspeed.optimizer.params.lr: a number of at least 0 is expected, not 'fast'",
        ),
        ({"steps_per_print": 0}, "deepspeed.steps_per_print: a whole number above 0 is expected, not 0"),
        (
            {"steps_per_print": 10**400},
            "deepspeed.steps_per_print: a whole number above 0, of 64 bits, is expected, not 1"
            + "0" * 56
            + "...",
        ),
        (
            {"gradient_clipping": math.nan},
            "deepspeed.gradient_clipping: a number of at least 0 is expected, not NaN",
        ),
        (
            {"zero_optimization": {"reduce_bucket_size": math.inf}},
            "deepspeed.zero_optimization.reduce_bucket_size: a whole number above 0 is expected, not Infinity",
        ),
        (
            {"zero_optimization": {"offload_optimizer": {"ratio": 2}}},
            "deepspeed.zero_optimization.offload_optimizer.ratio: "
            "a number of at least 0 and up to 1 is expected, not 2",
        ),
        (
            {"optimizer": {"type": "AdamW", "params": {"foreach": [[math.inf]]}}},
            "deepspeed.optimizer.params.foreach: a finite number is expected, not [[Infinity]]",
        ),
        (
            {"data_types": {"grad_accum_dtype": "fp8"}},
            "deepspeed.data_types.grad_accum_dtype: bf16, bfloat16, float, float16, float32, fp16, fp32, half, "
            "torch.bfloat16, torch.float16 or torch.float32 is expected, not 'fp8'",
        ),
        (
            {"torch_autocast": {"enabled": True, "lower_precision_safe_modules": "torch.nn.Linear"}},
            "deepspeed.torch_autocast.lower_precision_safe_modules: a list of text is expected, "
            "not 'torch.nn.Linear'",
        ),
        (
            {"zero_optimization": {"zenflow": {"update_interval": 0}}},
            "deepspeed.zero_optimization.zenflow.update_interval: a whole number above 0 is expected, not 0",
        ),
        (
            {"checkpoint": {"writer": {"type": "rust"}}},
            "deepspeed.checkpoint.writer.type: 'rust' is not known; it can be fast, mock, python",
        ),
        (
            {"log_level": "warn"},
            "deepspeed.log_level: 'warn' is not known; did you mean 'warning'?",
        ),
        ({"dump_state": "no"}, "deepspeed.dump_state: true or false is expected, not 'no'"),
        (
            {"gradient_clipping": "1"},
            "deepspeed.gradient_clipping: a number of at least 0 is expected, not '1'",
        ),
        (
            {"aio": {"block_size": 1e6}},
            "deepspeed.aio.block_size: a whole number above 0 is expected, not 1000000.0",
        ),
        ({"aio": 3}, "deepspeed.aio: a mapping of DeepSpeed's keys is expected, not 3"),
        (
            {"communication_data_type": "float32"},
            "deepspeed.communication_data_type: 'float32' is not known; it can be bf16, fp16, fp32",
        ),
        (
            {"disable_allgather": True},
            "deepspeed.disable_allgather: DeepSpeed does nothing with it; leave it out",
        ),
        (
            {"weight_quantization": {"num_bits": 8}},
            "deepspeed.weight_quantization.num_bits: DeepSpeed does nothing with it; "
            "use quantized_initialization: {num_bits: …}",
        ),
        (
            {"zero_optimization": {"prefetch_bucket_size": 1, "stage3_prefetch_bucket_size": 2}},
            "deepspeed.zero_optimization.prefetch_bucket_size is another name of stage3_prefetch_bucket_size, "
            "which is there too; leave one of them out",
        ),
        (
            {"data_efficiency": {"enbled": True}},
            "unknown key 'deepspeed.data_efficiency.enbled'; did you mean 'enabled'?",
        ),
        (
            {"data_efficiency": {"data_sampling": {"num_epoch": 1}}},
            "unknown key 'deepspeed.data_efficiency.data_sampling.num_epoch'; did you mean 'num_epochs'?",
        ),
        (
            {"checkpoint": {"writer": {"typ": "fast"}}},
            "unknown key 'deepspeed.checkpoint.writer.typ'; did you mean 'type'?",
        ),
        (
            {"optimizer": {"type": "AdamW", "params": {"lr": "auto"}}},
            "deepspeed.optimizer.params.lr: this workload does not resolve `auto` here; "
            "give a value, or leave it out",
        ),
    ],
)
def test_message(overrides: dict[str, Any], message: str) -> None:
    assert messages(overrides) == [message]


@pytest.mark.parametrize(
    "zero", [3, None, "stage 3", [], {"stage": 4}, {"stage": "3"}, {"stage": True}, {"stage": None}]
)
def test_zero_optimization_that_is_none(zero: object) -> None:
    (message,) = messages({"zero_optimization": zero})
    assert " is expected, not " in message


@pytest.mark.parametrize("size", [200_000_000, 2e8])
def test_sizes_may_be_written_as_in_deepspeeds_examples(size: float) -> None:
    assert messages({"zero_optimization": {"reduce_bucket_size": size}}) == []


def test_every_problem_is_told() -> None:
    assert len(messages({"a": 1, "stage": 2, "amp": {}, "zero_optimization": {"b": 1, "stage": 9}})) == 5


def values(kind: Any) -> st.SearchStrategy[Any]:
    if isinstance(kind, dict):
        return st.fixed_dictionaries({}, optional={key: values(inner) for key, inner in kind.items()})
    if isinstance(kind, list):
        return st.sampled_from(kind)
    kinds = {"bool": st.booleans(), "int": st.integers(1, 8), "number": st.sampled_from([0.25, 0.5])}
    return kinds.get(kind.partition(" ")[0], st.nothing())


def numbers(kind: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The paths of all numbers."""
    if isinstance(kind, dict):
        return [deep for key, inner in kind.items() for deep in numbers(inner, (*path, key))]
    return [path] if isinstance(kind, str) and kind.startswith(("int", "number")) else []


def nested(path: tuple[str, ...], value: Any) -> Any:
    return {path[0]: nested(path[1:], value)} if path else value


# Sections that no workload reads, or that rules.py refuses as they are.
APART = {
    *(
        "activation_checkpointing",
        "autotuning",
        "bfloat16",
        "comet",
        "compile",
        "data_parallel_size",
        "expert_parallel",
    ),
    *("hybrid_engine", "pipeline", "sequence_parallel_size", "tensor_parallel", "wandb"),
    "weight_quantization",
}
OVERRIDES = st.fixed_dictionaries(
    {},
    optional={
        key: values(kind)
        for key, kind in KNOWN.items()
        if key not in APART and kind not in ("any", "auto", "text") and key not in keys.BATCH
    },
)

EDGES = [-1, 0, 1, 2, 1000, -0.5, 0.5, 1.5, 2e8, math.inf, math.nan]
SLIPS = st.builds(
    nested,
    st.sampled_from([path for path in numbers(KNOWN) if path[0] not in APART and path[0] not in keys.BATCH]),
    st.sampled_from(EDGES),
)


# What editors are told


def accepts(overrides: dict[str, Any]) -> bool:
    path = ROOT / "jobs" / "schema" / "job.schema.json"
    validator = jsonschema.Draft202012Validator(json.loads(path.read_text(encoding="utf-8")))
    return bool(validator.is_valid({"name": "a", "batch": {"micro": 1}, "deepspeed": overrides}))


@pytest.mark.parametrize(
    "overrides",
    [
        {"zero_optimisation": {"stage": 2}},
        {"stage": 3},
        {"zero_optimization": {"overlap_com": True}},
        {"zero_optimization": {"stage": 4}},
        {"zero_optimization": {"offload_param": {"device": "disk"}}},
        {"zero_optimization": 3},
        {"elasticity": {"enabled": True}},
        {"train_batch_size": 8},
        {"dump_state": "no"},
        {"bfloat16": {"enabled": True}},
    ],
)
def test_editors_refuse_what_the_launcher_refuses(overrides: dict[str, Any]) -> None:
    assert messages(overrides)
    assert not accepts(overrides)


@settings(max_examples=60, deadline=None)
@given(OVERRIDES | SLIPS)
def test_editors_take_what_the_launcher_takes(overrides: dict[str, Any]) -> None:
    if not messages(overrides):
        assert accepts(overrides)


@pytest.mark.parametrize("name", deepspeed_config.presets())
def test_editors_take_presets(name: str) -> None:
    assert accepts(deepspeed_config.preset(name))


# `auto`


def test_auto_is_filled_in_by_the_workloads_that_use_the_trainer() -> None:
    folder = ROOT / "docker" / "workloads"
    uses = {
        path.stem
        for path in folder.glob("*.py")
        if re.search(r"^ *from workloads import .*\btrainers\b", path.read_text("utf-8"), re.MULTILINE)
        and "\ndef parser(" in path.read_text("utf-8")
    }
    assert set(TRAINERS) == uses


@pytest.mark.parametrize("workload", [*TRAINERS, "./train.py", "/work/train"])
@pytest.mark.parametrize("path", keys.AUTO, ids=".".join)
def test_auto_is_taken_where_it_is_filled_in(path: tuple[str, ...], workload: str) -> None:
    overrides: Any = "auto"
    for key in reversed(path):
        overrides = {key: overrides}
    schedule = "WarmupCosineLR" if path[-1] == "total_num_steps" else "WarmupLR"
    if path[0] in ("optimizer", "scheduler"):
        overrides[path[0]]["type"] = "AdamW" if path[0] == "optimizer" else schedule
    assert messages(overrides, workload) == []
    (message,) = messages(overrides, "pretrain")
    assert "this workload does not resolve `auto` here" in message


@pytest.mark.parametrize("workload", ["pretrain", "finetune", "./train.py"])
def test_auto_is_taken_where_the_launcher_fills_it_in(workload: str) -> None:
    enabled = {"enabled": "auto"}
    overrides = {
        **dict.fromkeys((*keys.BATCH, "gradient_clipping"), "auto"),
        "bf16": enabled,
        "fp16": enabled,
    }
    assert messages(overrides, workload) == []
    assert accepts(overrides)
    numbers = deepspeed_config.batch(2, 3, None, 8)
    made = deepspeed_config.make(deepspeed_config.Inputs(overrides, "bf16", slots=8), "zero1", 1, numbers)
    assert [made[key] for key in keys.BATCH] == [48, 2, 3]
    assert (made["gradient_clipping"], made["bf16"], made["fp16"]) == (
        1.0,
        {"enabled": True},
        {"enabled": False},
    )
    assert "auto" not in json.dumps(made)


@pytest.mark.torch
def test_the_trainer_fills_in_what_may_be_auto() -> None:
    trainer = pytest.importorskip("transformers.integrations.deepspeed", reason="it fills `auto` in")
    config: dict[str, Any] = {"zero_optimization": {"stage": 3}}
    for *sections, key in keys.AUTO:
        at = config
        for section in sections:
            at = at.setdefault(section, {})
        at[key] = "auto"
    args = SimpleNamespace(
        world_size=1,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=1,
        max_grad_norm=1.0,
        learning_rate=1e-4,
        adam_beta1=0.9,
        adam_beta2=0.95,
        adam_epsilon=1e-8,
        weight_decay=0.1,
        save_on_each_node=False,
        fp16=False,
        fp16_full_eval=False,
        bf16=True,
        bf16_full_eval=False,
        get_warmup_steps=lambda steps: steps // 10,
    )
    made = trainer.HfTrainerDeepSpeedConfig(config)
    made.trainer_config_process(args)
    made.trainer_config_finalize(args, SimpleNamespace(config=SimpleNamespace(hidden_size=64)), 100)
    assert '"auto"' not in json.dumps(made.config)
    ours = zero.filled_by_trainer({"zero_optimization": {k: "auto" for *_, k in keys.AUTO[-3:]}}, 64)
    assert ours["zero_optimization"] == {
        k: made.get_value(f"zero_optimization.{k}") for *_, k in keys.AUTO[-3:]
    }


# DeepSpeed takes what we let through


@pytest.mark.torch
@settings(max_examples=60, deadline=None)
@given(OVERRIDES | SLIPS, st.sampled_from(deepspeed_config.presets()))
@example({"fp16": {"enabled": True, "loss_scale_window": 0}}, "zero0")
@example({"fp16": {"loss_scale": -0.5}}, "zero0")
@example({"zero_optimization": {"reduce_bucket_size": -1}}, "zero1")
@example({"zero_optimization": {"stage3_param_persistence_threshold": -5}}, "zero3")
@example({"data_efficiency": {"data_sampling": {"curriculum_learning": {"enabled": True}}}}, "zero0")
@example({"data_efficiency": {"data_sampling": {"dynamic_batching": {"enabled": True}}}}, "zero0")
def test_deepspeed_takes_what_passes(overrides: dict[str, Any], preset: str) -> None:
    config = pytest.importorskip("deepspeed.runtime.config", reason="it is the judge")
    overrides.get("aio", {}).pop("use_gds", None)  # the judge has no GPU
    if messages(overrides):
        return
    numbers = deepspeed_config.batch(1, None, None, 1)
    inputs = deepspeed_config.Inputs(overrides, "bf16", slots=1, nvme="/nvme")
    made = deepspeed_config.make(inputs, preset, 1, numbers)
    hosts = view.Hosts("h100-80gb", (9, 0), slots=1, local=("/nvme",))
    if not list(rules.problems(made, hosts, "pretrain", "bf16")):
        config.DeepSpeedConfig(json.loads(json.dumps(made)))


@pytest.mark.parametrize("key", ["communication_data_type", "seq_parallel_communication_data_type"])
def test_no_type_of_messages_is_what_follows_from_the_rest(key: str) -> None:
    assert not messages({key: None})
    assert messages({key: "fp64"})
