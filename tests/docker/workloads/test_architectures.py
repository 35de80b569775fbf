"""What an export holds beside its weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import transformers
from workloads import architectures, tokenizer
from workloads.session import Stop

from tests.docker.workloads import ranks

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import torch
    from transformers import PreTrainedModel

pytestmark = pytest.mark.deepspeed


@dataclass(frozen=True)
class Alone:
    """The parts of a session that export needs, for one rank without a process group."""

    run_dir: Path
    rank: int = 0

    def first(self, work: Callable[[], Any]) -> Any:
        return work()


def generation_settings(model: PreTrainedModel, folder: Path) -> dict[str, Any]:
    """Those that are not the library's defaults, of the model's export."""
    from transformers import GenerationConfig

    architectures.export(model, tokenizer.existing("bytes"), Alone(folder))  # type: ignore[arg-type]
    settings: dict[str, Any] = GenerationConfig.from_pretrained(folder / "export").to_diff_dict()
    return settings


def test_an_export_is_sampled_from_as_a_request_says(tmp_path: Path) -> None:
    """A server that sets a request's temperature alone, as transformers' does, must not stay greedy."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**ranks.LLAMA))
    settings = generation_settings(model, tmp_path)
    assert {key: settings[key] for key in ("do_sample", "temperature", "top_p", "top_k")} == {
        "do_sample": True,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
    }
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "export")
    texts = []
    for temperature, seed in ((2.0, 1), (2.0, 1), (2.0, 2)):
        torch.manual_seed(seed)
        exported.generation_config.temperature = temperature
        texts.append(exported.generate(torch.tensor([[65, 66]]), max_new_tokens=8, pad_token_id=0).tolist())
    assert texts[0] == texts[1] != texts[2]


def test_what_a_model_brought_along_for_sampling_stays(tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**ranks.LLAMA))
    model.generation_config.update(temperature=0.6, top_k=20, repetition_penalty=1.1)
    settings = generation_settings(model, tmp_path)
    kept = {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 1.0, "repetition_penalty": 1.1}
    assert kept.items() <= settings.items()


def test_a_translating_models_answers_stay_the_likeliest(tmp_path: Path) -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    settings = T5Config(vocab_size=256, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    assert "do_sample" not in generation_settings(T5ForConditionalGeneration(settings), tmp_path)


def with_router_bias() -> tuple[PreTrainedModel, torch.Tensor]:
    """A model that keeps numbers beside its trained weights, and these."""
    import torch
    from transformers import AutoModelForCausalLM

    small = {"hidden_size": 16, "intermediate_size": 16, "moe_intermediate_size": 8, "num_attention_heads": 2}
    experts = {"n_routed_experts": 8, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2}
    latent = {
        "kv_lora_rank": 8,
        "q_lora_rank": 8,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 8,
    }
    more = {"num_hidden_layers": 2, "num_key_value_heads": 2, "first_k_dense_replace": 1, "vocab_size": 256}
    settings = transformers.DeepseekV3Config(**small, **experts, **latent, **more)
    model = AutoModelForCausalLM.from_config(settings, dtype=torch.bfloat16)
    bias = model.model.layers[1].mlp.gate.e_score_correction_bias
    bias.copy_(torch.linspace(-1, 1, 8))
    return model, bias


def test_an_export_has_what_is_kept_beside_trained_weights(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    model, bias = with_router_bias()
    architectures.export(model, tokenizer.existing("bytes"), Alone(tmp_path))  # type: ignore[arg-type]
    weights = load_file(tmp_path / "export/model.safetensors")
    assert torch.equal(weights["model.layers.1.mlp.gate.e_score_correction_bias"], bias)


def test_a_checkpoint_becomes_a_model_in_its_own_precision(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file
    from workloads import checkpoint_folder, export

    model, bias = with_router_bias()
    step = tmp_path / "step-1"
    step.mkdir()
    torch.save({"module": model.state_dict()}, step / export.MODEL)
    architectures.describe(model, tokenizer.existing("bytes"), tmp_path / checkpoint_folder.MODEL)
    identity = checkpoint_folder.Identity("m", "", "bytes", "", world_size=1, zero_stage=1, precision="bf16")
    export.export(
        checkpoint_folder.Checkpoint(step, checkpoint_folder.Progress(), identity), tmp_path / "new"
    )
    weights = load_file(tmp_path / "new/model.safetensors")
    assert torch.equal(weights["model.layers.1.mlp.gate.e_score_correction_bias"], bias)
    assert weights["lm_head.weight"].dtype == torch.bfloat16
    assert transformers.AutoConfig.from_pretrained(tmp_path / "new").dtype == torch.bfloat16


def test_the_vocabulary_of_a_model_of_more_than_text_is_inside() -> None:
    settings = transformers.Gemma3Config(text_config={"vocab_size": 500})
    assert architectures.vocabulary(settings) == 500
    architectures.pad_vocabulary("gpt2", settings, 64)
    assert architectures.vocabulary(settings) == 512
    assert architectures.vocabulary(transformers.GPT2Config()) == 50257


def test_code_that_a_model_brings_is_refused_and_not_asked_for(tmp_path: Path) -> None:
    config = {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "mine.py").write_text("raise SystemExit('it ran')\n")
    with pytest.raises(Stop, match=r"brings code of its own .*: this workload runs none"):
        architectures.config(str(tmp_path))
