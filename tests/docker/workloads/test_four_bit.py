"""Weights in 4 bit below adapters: they stand still, also after the model was evaluated or sampled from.

What needs bitsandbytes is run where it is installed; it computes on a CPU too.
"""

from __future__ import annotations

import json
import types
from typing import TYPE_CHECKING, Any

import pytest

torch = pytest.importorskip("torch", reason="torch is only installed where jobs run")
pytest.importorskip("trl", reason="the train extra is not installed")

from workloads import four_bit, lora  # noqa: E402
from workloads.session import Stop  # noqa: E402

from tests.docker.workloads import ranks, tiny  # noqa: E402
from tests.docker.workloads.test_lora import ADAM, MODEL, options, small, weights  # noqa: E402

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.deepspeed

WIDE = {"hidden_size": 64, "intermediate_size": 128}  # in whole blocks of 64
POLICIES = {"chat_rl": ("--generations=2",), "chat_ppo": ()}
IMAGE = "bitsandbytes is in the cuda image alone"


def stage(config: dict[str, Any]) -> Any:
    return types.SimpleNamespace(args=options(lora_4bit=True), config=config)


def loaded(folder: Path, config: dict[str, Any]) -> Any:
    """A small model in 4 bit, with adapters."""
    from transformers import AutoModelForCausalLM
    from workloads import engines

    small(**WIDE).save_pretrained(folder)
    how = four_bit.loading(options(lora_4bit=True), config, "cpu")
    packed = AutoModelForCausalLM.from_pretrained(folder, dtype=engines.dtype(config), **how)
    return lora.attach(packed, stage(config))


def test_4_bit_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workloads.packages.util.find_spec", lambda name: None)
    with pytest.raises(Stop, match="--lora-4bit: the package bitsandbytes is not installed"):
        four_bit.loading(options(lora_4bit=True), {}, "cpu")
    assert four_bit.loading(options(lora_4bit=False), {}, "cpu") == {}


def test_what_is_trained_has_the_runs_type_and_no_layer_is_rearranged() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    model[0].requires_grad_(False)
    model[0].support_avx512bf16_for_cpu = True  # as bitsandbytes' Linear4bit on a CPU that has it
    four_bit.settle(model, types.SimpleNamespace(args=options(lora_4bit=False), config={}))  # type: ignore[arg-type]
    assert model[0].support_avx512bf16_for_cpu
    four_bit.settle(model, stage({"bf16": {"enabled": True}}))
    assert [p.dtype for p in model.parameters()] == [torch.float32] * 2 + [torch.bfloat16] * 2
    assert not model[0].support_avx512bf16_for_cpu


def test_a_model_in_4_bit_is_told_by_its_weights() -> None:
    model = torch.nn.Linear(2, 2)
    assert not four_bit.packed(model)
    model.weight.quant_state = None
    assert four_bit.packed(model)


def test_weights_in_4_bit_stand_still_and_are_exported_whole(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason=IMAGE)
    from workloads import architectures, tokenizer

    class Alone:
        rank, run_dir = 0, tmp_path

        @staticmethod
        def first(work: Any) -> Any:
            return work()

    model, ids = loaded(tmp_path / "base", {}), torch.arange(12)[None]

    def gradients() -> dict[str, Any]:
        model.zero_grad()
        model.train()(input_ids=ids, labels=ids).loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    having = gradients()
    assert having.keys() == {name for name, _ in model.named_parameters() if ".lora_" in name}
    assert {gradient.dtype for gradient in having.values()} == {torch.float32}
    with torch.no_grad():
        model.eval()(input_ids=ids)
    for name, gradient in gradients().items():
        torch.testing.assert_close(gradient, having[name], rtol=0, atol=0, msg=name)
    before = weights(tmp_path / "base")
    architectures.export(model, tokenizer.existing("bytes"), Alone())  # type: ignore[arg-type]
    after = weights(tmp_path / "export")
    assert before.keys() == after.keys()
    for key, weight in before.items():  # adapters add nothing yet; NF4 rounds to a sixth of a block's largest
        assert (after[key] - weight).abs().max() <= (0.2 if "_proj" in key else 0) * weight.abs().max(), key
    assert "quantization" not in (tmp_path / "export" / "config.json").read_text()


def cases(folder: Path, size: int) -> list[dict[str, Any]]:
    """One rank without ZeRO; two with ZeRO-3, PPO with ZeRO-2, interrupted and resumed."""
    words = (
        *("--max-steps=3", "--checkpoint-every=2", "--eval-every=2", "--log-every=1", "--merge"),
        *("--seq-length=32", "--max-new-tokens=6", "--reward=lower-case", "--lr=1e-2", "--min-lr=1e-3"),
        *(
            "--lora-rank=4",
            "--lora-4bit",
            f"--model={folder / 'model'}",
            f"--data={folder / 'prompts.jsonl'}",
        ),
    )

    def case(workload: str, **more: Any) -> dict[str, Any]:
        zero = 2 if workload == "chat_ppo" else 3
        cut = ranks.deepspeed(1, 0, 8, **ADAM) if size == 1 else ranks.deepspeed(2, zero, 2, 2, **ADAM)
        return {
            "workload": workload,
            "run_dir": str(folder / f"{workload} {size}"),
            "config": cut,
            "words": [*words, *POLICIES[workload]],
            **more,
        }

    whole = [case(workload) for workload in POLICIES]
    return whole if size == 1 else [*(case(workload, stop_before=3) for workload in POLICIES), *whole]


def test_policies_in_4_bit_learn_the_same_however_a_step_is_cut(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason=IMAGE)
    tiny.save(tmp_path / "model", {**MODEL, **WIDE})
    prompts = [json.dumps({"prompt": f"{n} and {n + 1}?"}) + "\n" for n in range(40)]
    (tmp_path / "prompts.jsonl").write_text("".join(prompts))
    for size in (1, 2):
        run = ranks.start_cases(tmp_path / f"{size} ranks", size, cases(tmp_path, size))
        assert set(run.wait(2 * ranks.TIMEOUT)) == {0}, run.output()
    for workload in POLICIES:
        lines: list[dict[int, Any]] = []
        for size in (1, 2):
            text = (tmp_path / f"{workload} {size}" / "metrics.jsonl").read_text()
            read = [json.loads(line) for line in text.splitlines()]
            lines.append({line["step"]: line for line in read if "event" not in line})
        whole, cut = lines
        assert whole.keys() == cut.keys() == {1, 2, 3}
        for step, line in whole.items():
            assert cut[step]["reward"] == pytest.approx(line["reward"], abs=1e-6), (workload, step)
            assert cut[step]["kl"] == pytest.approx(line["kl"], abs=1e-5), (workload, step)
        # the reference is the policy with its adapters turned off, so they are the same until it learns
        assert whole[1]["kl"] == pytest.approx(0, abs=1e-6)
        assert abs(whole[3]["kl"]) > 1e-4
        for part in ("adapter", "export"):
            one, two = (weights(tmp_path / f"{workload} {size}" / part) for size in (1, 2))
            assert one.keys() == two.keys()
            for key in one:
                torch.testing.assert_close(two[key], one[key], rtol=0, atol=1e-3, msg=f"{workload} {key}")
