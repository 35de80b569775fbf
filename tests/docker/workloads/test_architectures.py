"""What an export holds beside its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import transformers
from workloads import architectures, tokenizer

from tests.docker.workloads import ranks

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

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


def test_the_vocabulary_of_a_model_of_more_than_text_is_inside() -> None:
    settings = transformers.Gemma3Config(text_config={"vocab_size": 500})
    assert architectures.vocabulary(settings) == 500
    architectures.pad_vocabulary("gpt2", settings, 64)
    assert architectures.vocabulary(settings) == 512
    assert architectures.vocabulary(transformers.GPT2Config()) == 50257
