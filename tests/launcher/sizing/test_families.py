"""Every causal family of transformers, tensor by tensor on its meta device; those that are not counted are listed."""

from __future__ import annotations

import collections
import json
import re
import warnings
from pathlib import Path
from typing import Any

import pytest

from launcher import errors
from launcher.sizing import composites, families, models
from launcher.sizing.architecture import Architecture
from tests import model_families

# Sizes published in each model's config.json, with what transformers 5.24 counts on its meta device.
PUBLISHED = json.loads(Path(__file__).with_name("published_models.json").read_text(encoding="utf-8"))
# A number for each size that differs from every other, so that no two can be taken for each other.
SMALL = {
    **{"hidden": 48, "layers": 6, "heads": 6, "kv": 3, "kvn": 3, "v": 10, "vocab": 70, "positions": 32},
    **{"window": 8, "ffn": 40, "dense_ffn": 44, "experts": 5, "active": 2, "expert": 14, "shared": 2},
    **{"shared_ffn": 22, "q_rank": 26, "kv_rank": 18, "rope": 4, "nope": 6, "word": 20, "two": 2},
    **{"index_heads": 4, "index_head": 16, "linear_k_heads": 2, "linear_v_heads": 4, "linear_k": 6},
    **{"linear_v": 10, "linear_kernel": 3},
}
# What a family's own classes insist on.
ASKED: dict[str, dict[str, Any]] = {
    "diffllama": {"num_key_value_heads": 2},
    "gpt_neo": {"attention_types": [[["global", "local"], 3]]},
    **{family: {"head_dim": 12} for family in ("hunyuan_v1_dense", "hunyuan_v1_moe", "ministral")},
}
# Decoders whose tensors families.json does not describe, and models that are not language models by themselves:
# encoders used as decoders, halves of encoder-decoders, and those that come with a tower for images or sound.
OTHERS = Path(__file__).with_name("uncounted_families.txt").read_text(encoding="utf-8").split()


def kind_of(family: str) -> Any:
    auto = pytest.importorskip(
        "transformers.models.auto.configuration_auto", reason="its classes are compared"
    )
    return auto.CONFIG_MAPPING[model_families.HUBS_OWN.get(family, family)]


def small(family: str, switched: bool, numbers: dict[str, int] = SMALL) -> dict[str, Any]:
    """A configuration with every size of `numbers` that the family has, and all its switches off, or on."""
    row, kind = families.description(family), kind_of(family)
    config: dict[str, Any] = {"pad_token_id": None}
    for name, spec in families.size_keys(family).items():
        keys = [k for k in spec if not k.startswith("=") and _settable(kind, k)]
        if keys and name in numbers:
            config[keys[0]] = numbers[name]
    if switched and "head_dim" in families.size_keys(family)["head"] and _settable(kind, "head_dim"):
        config["head_dim"] = 12
    named = families.keys(family) - row.get("refused", {}).keys() - {"use_sliding_window"}
    config |= {key: switched for key in named if isinstance(getattr(kind, key, None), bool)}
    return config | ASKED.get(family, {})


def _settable(kind: Any, key: str) -> bool:
    attribute = getattr(kind, kind.attribute_map.get(key, key), ...)
    return attribute is not ... and not isinstance(attribute, property)


Tensors = collections.Counter[tuple[str, tuple[int, ...]]]


def theirs(config: dict[str, Any]) -> Tensors:
    """Tail of its name and shape of each tensor that transformers makes, and how often."""
    torch = pytest.importorskip("torch", reason="the shapes are compared with those that torch builds")
    transformers = pytest.importorskip("transformers", reason="the shapes are compared with its own")
    family = config["model_type"]
    options = {k: v for k, v in config.items() if k != "model_type"}
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        made = transformers.AutoConfig.for_model(model_families.HUBS_OWN.get(family, family), **options)
        model = transformers.AutoModelForCausalLM.from_config(made)
    return collections.Counter((_tail(name), tuple(p.shape)) for name, p in model.named_parameters())


def _tail(name: str) -> str:
    """A tensor's name within its layer, or outside the layers without the model's own name."""
    inner = re.sub(r"^.*?\.(layers|h|blocks)\.[0-9]+\.", "", name)
    outer = r"^(model\.)?(transformer|model|decoder|gpt_neox|biogpt|language_model)\."
    return inner if inner != name else re.sub(outer, "", name)


def ours(model: Architecture) -> Tensors:
    counted: Tensors = collections.Counter()
    for number, weights in model.repeated:
        for weight in weights:
            counted[weight.name, weight.shape] += number
    return counted


def build(config: dict[str, Any]) -> Architecture:
    family = config["model_type"]
    return families.build(family, config, errors.Place("a model"), family)


@pytest.mark.heavy
@pytest.mark.parametrize("switched", [False, True], ids=["off", "on"])
@pytest.mark.parametrize("family", families.known())
def test_tensors(family: str, switched: bool) -> None:
    config = {"model_type": family, **small(family, switched)}
    assert ours(build(config)) == theirs(config)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models(name: str) -> None:
    config = dict(PUBLISHED[name])
    total = config.pop("parameters")
    found = models.from_config(config, name)
    assert isinstance(found, Architecture)
    assert found.parameters == total


# "Active" in each model's report: arXiv 2405.04434, 2412.19437, 2507.20534, 2505.09388, 2409.02060, 2508.10925,
# 2508.06471; Meta's and Qwen's model cards. Embeddings count here.
@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("DeepSeek-V2-Lite", 2.7),
        ("DeepSeek-V3", 37),
        ("Kimi-K2", 32),
        ("Qwen3-30B-A3B", 3.3),
        ("OLMoE-1B-7B", 1.3),
        ("Llama-4-Scout", 17),
        ("GLM-4.5-Air", 12),
        ("Mixtral-8x22B", 39),
    ],
)
def test_active_parameters_are_those_of_the_reports(name: str, billions: float) -> None:
    assert build(PUBLISHED[name]).active_parameters / 1e9 == pytest.approx(billions, rel=0.15)


def test_kinds_of_layers() -> None:
    deepseek = build(PUBLISHED["DeepSeek-V3"])
    assert [(s.number, s.experts, s.active, s.ffn, s.shared) for s in deepseek.stacks] == [
        (3, 0, 0, 18432, 0),
        (58, 256, 8, 2048, 2048),
    ]
    assert (deepseek.latent, deepseek.head_dim, deepseek.value_dim) == (576, 192, 128)
    gemma = build(PUBLISHED["Gemma-3-1b"])
    assert sorted((s.number, s.window) for s in gemma.stacks) == [(4, 0), (22, 512)]
    nexts = build(PUBLISHED["Qwen3-Next-80B-A3B"])
    assert sorted((s.number, s.attends) for s in nexts.stacks) == [(12, True), (36, False)]


@pytest.mark.heavy
@pytest.mark.parametrize("family", composites.known())
def test_tensors_of_what_holds_a_language_model(family: str) -> None:
    row = composites.known()[family]
    config: dict[str, Any] = {"text_config": small(row["text"], False)}
    if "tower" in row:
        sizes = {"hidden_size": 24, "intermediate_size": 36, "num_hidden_layers": 2, "num_attention_heads": 2}
        config["vision_config"] = {"model_type": row["tower"], "image_size": 28, "patch_size": 7, **sizes}
    config |= {"model_type": family, "architectures": ["SomeForConditionalGeneration"]}
    found = models.from_config(config)
    assert isinstance(found, Architecture)
    made = {key: value for key, value in config.items() if key != "architectures"}
    assert ours(found) == theirs(made)
    assert ("vision" in found.groups) == ("tower" in row)


@pytest.mark.heavy
def test_families_that_are_not_counted_are_these() -> None:
    auto = pytest.importorskip("transformers.models.auto.modeling_auto", reason="its families are listed")
    every = set(auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    assert every - {*families.known(), *composites.known()} == set(OTHERS)
    assert set(families.known()) - every == set(model_families.HUBS_OWN)


@pytest.mark.heavy
def test_defaults_are_those_of_the_installed_transformers() -> None:
    pytest.importorskip("transformers", reason="its defaults are compared")
    file = Path(families.__file__).with_name("family_defaults.json")
    assert json.loads(file.read_text(encoding="utf-8")) == model_families.document()


def test_a_family_is_told_by_what_it_is_like() -> None:
    for family in families.known():
        row = families.description(family)
        assert row["layer"], family
        assert row["embeddings"], family


def test_of_two_names_of_a_size_transformers_own_wins() -> None:
    sizes = {"model_type": "bloom", "n_layer": 3, "n_head": 4, "vocab_size": 512}
    both = build({**sizes, "hidden_size": 32, "n_embed": 64})
    assert both.parameters == build({**sizes, "hidden_size": 64}).parameters == 182_976


@pytest.mark.parametrize(("family", "key"), [("falcon", "vocab_size"), ("mpt", "hidden_size")])
def test_a_size_that_every_model_has_is_null(family: str, key: str) -> None:
    with pytest.raises(errors.SpecError, match=f"it has no {key}"):
        build({"model_type": family, **families.defaults()[family], key: None})


def test_a_number_of_layers_that_no_model_has() -> None:
    with pytest.raises(errors.SpecError, match="it has no layers"):
        build({**PUBLISHED["Gemma-3-1b"], "num_hidden_layers": None})
    with pytest.raises(errors.SpecError, match="2,000,000,000 layers are more than any model has"):
        build({**PUBLISHED["Gemma-3-1b"], "num_hidden_layers": 2_000_000_000})
