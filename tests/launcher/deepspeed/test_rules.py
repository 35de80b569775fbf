"""What cannot go together is refused with its place; what can is not."""

from __future__ import annotations

from typing import Any

import pytest

from launcher.deepspeed import config as deepspeed_config
from launcher.deepspeed import rules, view
from launcher.errors import PlanError
from launcher.planning import mounts, plan
from tests import samples

HERE = view.Hosts("h100-80gb", (9, 0), slots=8, local=("/nvme", "/scratch"), part=5_000_000, world=16)
CPU = view.Hosts(None, (0, 0), slots=2, local=("/tmp",))
NUMBERS = deepspeed_config.batch(1, None, None, 16)


def found(
    preset: str, overrides: dict[str, Any], hosts: view.Hosts = HERE, workload: str = "pretrain"
) -> list[str]:
    precision = "bf16" if hosts is HERE else "fp32"
    inputs = deepspeed_config.Inputs(overrides, precision, slots=hosts.slots, nvme="/nvme")
    made = deepspeed_config.make(inputs, preset, 2, NUMBERS)
    return [str(p) for p in rules.problems(made, hosts, workload, precision)]


def zero(**keys: Any) -> dict[str, Any]:
    return {"zero_optimization": keys}


@pytest.mark.parametrize("name", deepspeed_config.presets())
def test_presets_go_together(name: str) -> None:
    assert found(name, {}) == []


@pytest.mark.parametrize(
    ("preset", "overrides", "message"),
    [
        # what still writes when DeepSpeed has returned
        (
            "zero2",
            {"checkpoint": {"writer": {"type": "python"}}},
            "checkpoint.writer does not start in stage 2 without data_parallel; add data_parallel: replica",
        ),
        (
            "zero3",
            {"checkpoint": {"writer": {"type": "python", "decoupled": True}}},
            "checkpoint.writer.decoupled is no part of complete checkpoints; set checkpoint.async of the job",
        ),
        ("zero3", {"datastates_ckpt": {"host_cache_size": 16}}, "datastates_ckpt is no part of complete"),
        # optimizers and schedules
        (
            "zero2",
            {"scheduler": {"type": "CosineAnnealingLR", "params": {"T_max": 9}}},
            "CosineAnnealingLR is torch's, which takes no optimizer that ZeRO or 16 bits wrap; use WarmupCosineLR",
        ),
        (
            "zero0",
            {"scheduler": {"type": "StepLR", "params": {"step_size": 9}}},
            "StepLR is torch's, which takes no optimizer that ZeRO or 16 bits wrap",
        ),
        (
            "zero2",
            {"optimizer": {"type": "AdamW", "params": {"fused": True}}},
            "optimizer.params.fused is not taken by the adamw that is used here; add torch_adam: true",
        ),
        (
            "zero2-offload",
            {"optimizer": {"type": "AdamW", "params": {"torch_adam": True, "bias_correction": True}}},
            "optimizer.params.bias_correction is not taken by the adamw that is used here; leave it out",
        ),
        (
            "zero0",
            {"optimizer": {"type": "Lamb"}, "fp16": {"loss_scale": 128}},
            "fp16.loss_scale must be 0 with Lamb; leave it out",
        ),
        (
            "zero0",
            {"optimizer": {"type": "MuAdam"}},
            "muadam is for models that were made with the package mup",
        ),
        (
            "zero2-offload",
            {
                "bf16": {"bf16_master_weights_and_grads": True},
                "optimizer": {"type": "AdamW", "params": {"torch_adam": True}},
            },
            "bf16.bf16_master_weights_and_grads needs DeepSpeed's own Adam; leave torch_adam out",
        ),
        (
            "zero3-offload",
            zero(offload_optimizer={"ratio": 0.5}) | {"optimizer": {"type": "Lion"}},
            "offload_optimizer.ratio below 1 needs DeepSpeed's own Adam; use type: AdamW",
        ),
        *(
            (
                f"zero{stage}",
                {"optimizer": {"type": "Adagrad"}},
                f"optimizer.type Adagrad does not work in stage {stage}; use stage 0 or AdamW",
            )
            for stage in (1, 2, 3)
        ),
        (
            "zero0",
            {"optimizer": {"type": "Rprop"}},
            "Rprop takes no weight decay, which workload 'pretrain' gives",
        ),
        # buffers of NVMe
        (
            "zero3-nvme",
            zero(offload_optimizer={"pipeline_read": True, "pipeline_write": True}),
            "buffer_count is less than the 12 that adamw and pipeline_read and pipeline_write take; use 12",
        ),
        (
            "zero3-nvme",
            zero(offload_optimizer={"buffer_count": 3}),
            "buffer_count is less than the 4 that adamw take; use 4",
        ),
        # ranks that share a model
        (
            "zero2",
            {"tensor_parallel": {"tp": {"tp_size": 2}}},
            "tensor_parallel.tp.tp_size 2 is not autotp_size; use tensor_parallel.autotp_size, and leave it out",
        ),
        (
            "zero2",
            {"expert_parallel": {"enabled": True, "autoep_size": 3}},
            "expert_parallel.autoep_size gives groups of 3 ranks, which do not divide 16",
        ),
        # types
        (
            "zero0",
            {"data_types": {"grad_accum_dtype": "float32"}},
            "data_types.grad_accum_dtype fp32 does not work in stage 0 with weights in bf16; use stage 1, 2 or 3",
        ),
        (
            "zero1",
            zero(compute_grad_norm=False)
            | {"gradient_clipping": 0, "data_types": {"grad_accum_dtype": "fp32"}},
            "compute_grad_norm false does not work in stage 1 with bf16 and data_types.grad_accum_dtype fp32",
        ),
        (
            "zeropp",
            {"torch_autocast": {"enabled": True, "dtype": "bf16"}},
            "zero_quantized_weights does not go with torch_autocast; leave one of them out",
        ),
        # ZenFlow
        ("zero2", zero(zenflow={}), "zenflow needs the optimizer in host memory"),
        (
            "zero2-offload",
            zero(zenflow={"select_interval": 4}),
            "zenflow.select_interval is chosen by select_strategy auto",
        ),
        (
            "zero2-offload",
            zero(zenflow={"select_strategy": "epoch"}),
            "zenflow.select_strategy epoch needs select_interval",
        ),
        (
            "zero2-offload",
            zero(zenflow={"select_strategy": "step", "select_interval": 2, "update_interval": 4}),
            "zenflow.update_interval is above select_interval 2",
        ),
        (
            "zero2-offload",
            zero(zenflow={"offload": True}, overlap_comm=False),
            "zenflow.offload needs overlap_comm; add overlap_comm: true",
        ),
        (
            "zero2-offload",
            zero(zenflow={}) | {"optimizer": {"type": "AdamW", "params": {"torch_adam": True}}},
            "optimizer.params.torch_adam does not go with ZenFlow, which gives it to torch's AdamW",
        ),
        # what ours do not do
        (
            "zero2",
            {"managed_gradient_accumulation": False},
            "managed_gradient_accumulation false is for programs that call step() once a batch",
        ),
        (
            "zero2",
            {"data_efficiency": {"enabled": True, "data_sampling": {"enabled": True}}},
            "data_efficiency does nothing in workload 'pretrain'; leave it out",
        ),
        # ZeRO's stages
        (
            "zero2",
            zero(offload_param={"device": "cpu"}),
            "offload_param works in stage 3 alone, and this is stage 2",
        ),
        ("zero1", zero(zero_hpz_partition_size=8), "zero_hpz_partition_size works in stage 3 alone"),
        ("zero1", zero(legacy_stage1=True), "legacy_stage1 is refused by DeepSpeed; leave it out"),
        (
            "zero1",
            {"managed_gradient_accumulation": False},
            "managed_gradient_accumulation false does not work with overlap_comm in stage 1",
        ),
        (
            "zero2-offload",
            {"gradient_allreduce_op": "sum", "zero_optimization": {"zenflow": {"topk_ratio": 0.1}}},
            "gradient_allreduce_op sum does not work with ZenFlow; use mean",
        ),
        (
            "zero1",
            {"gradient_allreduce_op": "sum", "compile": {"deepcompile": True}},
            "gradient_allreduce_op sum does not work with DeepCompile; use mean",
        ),
        (
            "zero1",
            {"data_types": {"param_dtype": "fp16"}},
            "data_types.param_dtype is 'fp16', and the weights are in bf16",
        ),
        ("zero2", zero(zero_quantized_weights=True), "zero_quantized_weights works in stage 3 alone"),
        ("zero2", zero(zero_quantized_gradients=True), "zero_quantized_gradients works in stage 3 alone"),
        ("zero0", zero(offload_optimizer={"device": "cpu"}), "offload_optimizer needs ZeRO"),
        ("zero2-offload", zero(offload_optimizer={"ratio": 0.5}), "offload_optimizer.ratio below 1"),
        ("zero2", zero(offload_optimizer={"device": "nvme"}), "would go to host memory in stage 2"),
        ("zero2", zero(allgather_bucket_size=3), "allgather_bucket_size must be even"),
        ("zero2", zero(reduce_bucket_size=0), "reduce_bucket_size must be above 0"),
        # offload
        (
            "zero3-nvme",
            zero(offload_param={"nvme_path": "/lustre/swap"}),
            "offload_param.nvme_path /lustre/swap is not known to be on a host's own disk; "
            "use a folder below /nvme, /scratch, or a mount with local: true",
        ),
        ("zero3-nvme", zero(offload_param={"nvme_path": "/nvme/../home"}), "is not known to be on a host's"),
        (
            "zero3-nvme",
            zero(offload_param={"buffer_size": 4_999_999}),
            "offload_param.buffer_size of 4,999,999 does not hold a rank's part of the largest tensor, "
            "5,000,000 elements; use at least 5000000, or leave it out",
        ),
        (
            "zero2-offload",
            zero(zenflow={"topk_ratio": 0.1}),
            "zenflow decides itself when a step ends, and workload 'pretrain' ends one with its batch; leave it out",
        ),
        ("zero2", zero(zenflow={"topk_ratio": 0.1}), "zenflow needs the optimizer in host memory"),
        ("zero2", zero(offload_optimizer={"super_offload": True}), "super_offload needs stage 3"),
        # ZeRO++
        (
            "zeropp",
            zero(zero_hpz_partition_size=6),
            "zero_hpz_partition_size is 6, and a host has 8 slots; use 8, a divisor of it, or the word slots",
        ),
        ("zeropp", zero(reduce_scatter=False), "zero_quantized_gradients needs reduce_scatter"),
        # precision
        ("zero1", {"fp16": {"enabled": True}}, "fp16 is on beside bf16; leave one of them out"),
        ("zero1", {"bf16": {"enabled": False}}, "bf16 is off, and the job's precision is bf16"),
        ("zero0", {"bf16": {"bf16_optimizer_states": True}}, "needs bf16_master_weights_and_grads"),
        ("zero1", {"bf16": {"bf16_master_weights_and_grads": True}}, "needs the optimizer in host memory"),
        ("zero0", {"bf16": {"bf16_master_weights_and_grads": True}}, "needs ZeRO, and this is stage 0"),
        # gradients
        ("zero3", {"prescale_gradients": True}, "prescale_gradients does not work in stage 3"),
        ("zero2", {"gradient_predivide_factor": 2.0}, "gradient_predivide_factor does not work in stage 2"),
        ("zero3", {"gradient_allreduce_op": "sum"}, "sum does not work in stage 3"),
        ("zero3", zero(compute_grad_norm=False), "compute_grad_norm false works in stages 1 and 2"),
        ("zero1", zero(compute_grad_norm=False), "compute_grad_norm false leaves nothing to clip"),
        # optimizer
        ("zero1", {"optimizer": {"params": {"lr": 1e-3}}}, "optimizer has no `type`"),
        ("zero1", {"scheduler": {"params": {}}}, "scheduler has no `type`, so there would be none"),
        ("zero1", {"optimizer": {"type": "SGD"}}, "'SGD' is not tested with ZeRO"),
        ("zero3", {"optimizer": {"type": "Muon"}}, "reduce_scatter does not go with Muon in stage 3"),
        (
            "zero1",
            {"optimizer": {"type": "Adam", "params": {"max_grad_norm": 1}}},
            "is refused by DeepSpeed; use deepspeed.gradient_clipping",
        ),
        # what the workload does not do
        ("zero1", {"sequence_parallel_size": 2}, "is Ulysses sequence parallelism, which workload"),
        ("zero1", {"tensor_parallel": {"autotp_size": 2}}, "is tensor parallelism, which workload"),
        ("zero1", {"autotuning": {"enabled": True}}, "ends a run after a few steps"),
        (
            "zero1",
            {"activation_checkpointing": {"cpu_checkpointing": True}},
            "does nothing in workload 'pretrain'; set args.activation-checkpointing: true",
        ),
    ],
)
def test_refused(preset: str, overrides: dict[str, Any], message: str | None) -> None:
    said = found(preset, overrides)
    assert (said == []) if message is None else any(message in line for line in said), said


@pytest.mark.parametrize(
    ("preset", "overrides"),
    [
        ("zero2", zero(zero_hpz_partition_size=1)),
        ("zero2", zero(offload_param={"device": "none"})),
        ("zero2", zero(reduce_scatter=False) | {"prescale_gradients": True}),
        ("zero1", {"prescale_gradients": True}),
        ("zero1", {"optimizer": {"type": "SGD"}, "zero_allow_untested_optimizer": True}),
        ("zero0", {"optimizer": {"type": "SGD"}}),
        ("zero1", zero(compute_grad_norm=False) | {"gradient_clipping": 0.0}),
        ("zeropp", zero(zero_hpz_partition_size=8)),
        ("zeropp", zero(zero_hpz_partition_size=4)),
        ("zeropp", zero(zero_hpz_partition_size=2)),
        ("zero1", {"data_types": {"param_dtype": "bfloat16"}}),
        ("zero0", {"data_types": {"grad_accum_dtype": "torch.bfloat16"}}),
        ("zero1", zero(compute_grad_norm=False) | {"gradient_clipping": 0}),
        ("zero2", {"data_efficiency": {"enabled": False}}),
        (
            "zero2-offload",
            {"bf16": {"bf16_master_weights_and_grads": True}, "optimizer": {"type": "adam"}},
        ),
        ("zero3-nvme", zero(offload_param={"nvme_path": "/nvme/run", "buffer_size": 5_000_000})),
        ("zero3", zero(reduce_scatter=False) | {"optimizer": {"type": "Muon"}}),
        ("zero3-nvme", zero(offload_optimizer={"buffer_count": 3}) | {"optimizer": {"type": "Lion"}}),
        ("zero3-nvme", zero(offload_optimizer={"buffer_count": 8, "pipeline_read": True})),
        ("zero2-offload", {"optimizer": {"type": "Adagrad"}}),
        ("zero0", {"optimizer": {"type": "Adagrad"}}),
        ("zero2", {"expert_parallel": {"enabled": True, "autoep_size": 2}}),
    ],
)
def test_taken(preset: str, overrides: dict[str, Any]) -> None:
    assert found(preset, overrides) == []


def test_zenflow_in_a_program_of_the_users_own() -> None:
    steps = {"select_strategy": "step", "select_interval": 4, "update_interval": 4}
    assert found("zero2-offload", zero(zenflow=steps), workload="./train.py") == []
    assert found("zero3", zero(zenflow={}), workload="./train.py") == []
    assert found("zero2-offload", zero(zenflow={}), workload="finetune") == []


def test_experts_are_spread_in_pretrain_alone() -> None:
    spread = {"expert_parallel": {"enabled": True, "autoep_size": 2}}
    (line,) = found("zero2", spread, workload="finetune")
    assert "expert_parallel.enabled is not supported by workload 'finetune'; leave it out" in line
    assert found("zero2", spread, workload="./train.py") == []


def test_one_part_of_an_optimizer_on_nvme_is_not_read_ahead() -> None:
    ahead = zero(offload_optimizer={"pipeline_read": True, "pipeline_write": True}, sub_group_size=100)
    assert found("zero3-nvme", ahead, HERE._replace(own=100)) == []
    assert "use 12" in found("zero3-nvme", ahead, HERE._replace(own=101))[0]


def test_what_needs_a_gpu() -> None:
    assert any("needs a GPU: DeepSpeed quantizes in CUDA alone" in line for line in found("zeropp", {}, CPU))
    assert any("needs a GPU" in line for line in found("zero1", {"aio": {"use_gds": True}}, CPU))
    assert any("the ranks have no GPU" in line for line in found("zero1", {"fp16": {"enabled": True}}, CPU))
    (line,) = found("zero3", {"optimizer": {"type": "Lion"}}, CPU)
    assert line == "deepspeed.optimizer.type lion needs a GPU; use AdamW"
    assert found("zero3-offload", {"optimizer": {"type": "Lion"}}, CPU) == []
    assert found("zero0", {"optimizer": {"type": "Lamb"}}, CPU)
    old = view.Hosts("v100-32gb", (7, 0), slots=8)
    assert any("v100-32gb has none" in line for line in found("zero1", {"bf16": {"enabled": True}}, old))


def test_a_program_of_the_users_own_may_use_what_ours_do_not() -> None:
    overrides = {
        "activation_checkpointing": {"cpu_checkpointing": True},
        "managed_gradient_accumulation": False,
        "data_efficiency": {"enabled": True},
    }
    assert found("zero2", overrides, workload="./train.py") == []


# What DeepSpeed itself says of those that it refuses as soon as it reads them


@pytest.mark.torch
@pytest.mark.parametrize(
    ("preset", "overrides"),
    [
        ("zero2-offload", zero(offload_optimizer={"ratio": 0.5})),
        ("zero3", {"gradient_allreduce_op": "sum"}),
        ("zero3", zero(compute_grad_norm=False)),
        ("zero1", {"fp16": {"enabled": True}}),
        ("zero0", {"bf16": {"bf16_master_weights_and_grads": True}}),
        ("zero2", zero(reduce_bucket_size=0)),
        ("zero1", {"elasticity": {"enabled": True}}),
        ("zero3", zero(mics_shard_size=8)),
        ("zero2-offload", zero(zenflow={"update_interval": 0})),
        ("zero2-offload", zero(zenflow={"select_strategy": "often"})),
        ("zero2", {"torch_autocast": {"enabled": True, "dtype": "fp8"}}),
        ("zero2", {"data_types": {"keep_in_fp32_modules": True}}),
        ("zero2", {"checkpoint": {"writer": {"type": "rust"}}}),
        ("zero2", {"comms_logger": {"enabled": True, "prof_ops": "all_reduce"}}),
    ],
)
def test_deepspeed_refuses_it_too(preset: str, overrides: dict[str, Any]) -> None:
    config = pytest.importorskip("deepspeed.runtime.config", reason="it is the judge")
    one = deepspeed_config.batch(1, None, None, 1)
    inputs = deepspeed_config.Inputs(overrides, "bf16", slots=1, nvme="/nvme")
    made = deepspeed_config.make(inputs, preset, 1, one)
    with pytest.raises(Exception, match=r"."):
        config.DeepSpeedConfig(made)


# Where it is said


def test_a_rule_names_the_place_of_the_key(tmp_path: Any) -> None:
    (tmp_path / "job.yaml").write_text(
        "name: demo\nmodel: gpt2\nbatch: {micro: 1}\ncluster: here.yaml\n"
        "deepspeed:\n  preset: zero2\n  zero_optimization:\n    zero_hpz_partition_size: 8\n"
    )
    (tmp_path / "here.yaml").write_text("gpu: h100-80gb\nslots: 8\nfabric: infiniband\n")
    with pytest.raises(PlanError) as caught:
        plan.make(samples.loaded(str(tmp_path / "job.yaml")), samples.SITE)
    assert [str(p.place) for p in caught.value.problems] == [f"{tmp_path}/job.yaml:8:5"]


def test_offload_to_the_clusters_nvme_is_mounted() -> None:
    fields: dict[str, Any] = {
        "gpu": "h100-80gb",
        "slots": 8,
        "nvme": {"path": "/nvme", "size": "7TB"},
        "mounts": {"/data": {"host": "/data"}},
    }
    made = samples.decided({"deepspeed": {"preset": "zero3-nvme"}}, **fields)
    assert made.mounts[-1] == mounts.MountPoint("/nvme", host="/nvme", claim=None, readonly=False, local=True)
    assert [m.inside for m in samples.decided({}, **fields).mounts] == ["/data"]
    fields["mounts"] = {"/nvme": {"host": "/local/nvme", "local": True}}
    made = samples.decided({"deepspeed": {"preset": "zero3-nvme"}}, **fields)
    assert [m.host for m in made.mounts] == ["/local/nvme"]
