"""Parameter counts against transformers' own, and every way a model reference can be wrong."""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher import errors
from launcher.sizing import architecture, models

if TYPE_CHECKING:
    from pathlib import Path


def meta_weights(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """The names and shapes of the parameters that transformers builds from `config`, without memory."""
    torch = pytest.importorskip("torch", reason="the shapes are compared with those that torch builds")
    transformers = pytest.importorskip(
        "transformers", reason="the shapes are compared with transformers' own"
    )
    options = {k: v for k, v in config.items() if k != "model_type"}
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        made = transformers.AutoConfig.for_model(config["model_type"], **options)
        model = transformers.AutoModelForCausalLM.from_config(made)
    return {name: tuple(p.shape) for name, p in model.named_parameters()}


def counted(config: dict[str, Any], name: str = "a model") -> architecture.Architecture:
    found = models.from_config(config, name)
    assert isinstance(found, architecture.Architecture)
    return found


def compare(config: dict[str, Any]) -> None:
    """Each of our tensors is one of transformers', under its name and shape, and none is missing."""
    mine, theirs = counted(config), meta_weights(config)
    tails = [
        *((".0." + w.name, w.shape) for w in mine.stacks[0].weights),
        *((w.name, w.shape) for w in (*mine.embeddings, *mine.norms, *mine.head)),
    ]
    for tail, shape in tails:
        matches = [s for n, s in theirs.items() if n == tail or n.endswith("." + tail.lstrip("."))]
        assert matches == [shape], (tail, shape, matches)
    assert mine.tensors == len(theirs)


@pytest.mark.heavy
@pytest.mark.parametrize("name", models.named())
def test_every_named_model_has_the_parameters_transformers_builds(name: str) -> None:
    config = models.named()[name]
    compare(config)
    assert counted(config).parameters == sum(
        architecture.Weight(n, s).size for n, s in meta_weights(config).items()
    )


# Published totals: the table or model card that models.py cites for the name.
@pytest.mark.parametrize(
    ("name", "total"),
    [
        ("gpt2", 124_439_808),
        ("gpt2-xl", 1_557_611_200),
        ("llama-7b", 6_738_415_616),
        ("llama-65b", 65_285_660_672),
        ("llama-2-70b", 68_976_648_192),
        ("llama-3-8b", 8_030_261_248),
        ("llama-3-70b", 70_553_706_496),
        ("llama-3.1-405b", 405_853_388_800),
        ("llama-1b", 1_235_814_400),
        ("llama-3b", 3_212_749_824),
        ("mistral-7b", 7_241_732_096),
        ("mixtral-8x7b", 46_702_792_704),
        ("qwen2-7b", 7_615_616_512),
        ("qwen3-8b", 8_190_735_360),
    ],
)
def test_published_totals(name: str, total: int) -> None:
    found = models.load(name)
    assert isinstance(found, architecture.Architecture)
    assert found.parameters == total


def test_the_papers_family_has_the_sizes_in_its_names() -> None:
    for name in models.named():
        label = name.removeprefix("gpt-").removesuffix("b")
        if name.startswith("gpt-"):
            assert counted(models.named()[name]).groups["layers"] / 1e9 == pytest.approx(
                float(label), rel=0.05
            )


def test_mixture_activates_two_of_eight_experts() -> None:
    mixtral = models.load("mixtral-8x7b")
    assert isinstance(mixtral, architecture.Architecture)
    assert mixtral.active_parameters == 12_879_925_248  # "13B active", arXiv 2401.04088
    dense = models.load("llama-7b")
    assert isinstance(dense, architecture.Architecture)
    assert dense.active_parameters == dense.parameters


@pytest.mark.torch
@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "gpt2", "n_embd": 48, "n_layer": 2, "n_head": 3, "n_inner": 100, "vocab_size": 11},
        {"model_type": "gpt2", "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3},
        {"model_type": "gpt2", "n_embd": 24, "n_head": 2, "n_layer": 1, "tie_word_embeddings": False},
        {"model_type": "llama", "num_hidden_layers": 1},
        {"model_type": "llama", "num_hidden_layers": 1, "num_key_value_heads": None},
        {"model_type": "llama", "num_hidden_layers": 1, "attention_bias": True, "mlp_bias": True},
        {"model_type": "llama", "num_hidden_layers": 1, "head_dim": 8, "tie_word_embeddings": True},
        {"model_type": "mistral", "num_hidden_layers": 1},
        {"model_type": "mistral", "num_hidden_layers": 1, "num_attention_heads": 16, "head_dim": None},
        {"model_type": "mixtral", "num_hidden_layers": 1},
        {"model_type": "qwen2", "num_hidden_layers": 1},
        {"model_type": "qwen3", "num_hidden_layers": 1, "attention_bias": True},
        {"model_type": "gpt_neox", "num_hidden_layers": 1},
        {
            "model_type": "gpt_neox",
            "num_hidden_layers": 1,
            "attention_bias": False,
            "tie_word_embeddings": True,
        },
    ],
)
def test_odd_configurations(config: dict[str, Any]) -> None:
    compare(config)


@st.composite
def small_configs(draw: st.DrawFn) -> dict[str, Any]:
    kv = draw(st.integers(1, 3))
    heads = kv * draw(st.integers(1, 3))
    family = draw(st.sampled_from(("gpt2", "gpt_neox", "llama", "mistral", "mixtral", "qwen2", "qwen3")))
    config: dict[str, Any] = {
        "model_type": family,
        "vocab_size": draw(st.integers(3, 70)),
        "tie_word_embeddings": draw(st.booleans()),
        "num_hidden_layers": draw(st.integers(1, 3)),
        "num_attention_heads": heads,
        "hidden_size": heads * 2 * draw(st.integers(1, 5)),
        "pad_token_id": None,
    }
    if family == "gpt2":
        return config | {
            "n_inner": draw(st.none() | st.integers(1, 64)),
            "n_positions": draw(st.integers(1, 64)),
        }
    config |= {"intermediate_size": draw(st.integers(1, 64)), "attention_bias": draw(st.booleans())}
    if family != "gpt_neox":
        config |= {"num_key_value_heads": kv, "mlp_bias": draw(st.booleans())}
    if family in ("llama", "mistral", "mixtral", "qwen3") and draw(st.booleans()):
        config["head_dim"] = 2 * draw(st.integers(1, 8))
    if family == "mixtral":
        config |= {"num_local_experts": draw(st.integers(2, 4)), "num_experts_per_tok": 2}
    return config


@pytest.mark.heavy
@settings(max_examples=60, deadline=None)
@given(small_configs())
def test_any_small_configuration(config: dict[str, Any]) -> None:
    compare(config)
    assert counted(config).parameters == sum(
        architecture.Weight(n, s).size for n, s in meta_weights(config).items()
    )


def test_a_local_folder_and_a_file(tmp_path: Path) -> None:
    config = models.named()["llama-7b"] | {"architectures": ["LlamaForCausalLM"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    for path in (tmp_path, tmp_path / "config.json"):
        found = models.load(str(path))
        assert isinstance(found, architecture.Architecture)
        assert (found.parameters, found.name) == (6_738_415_616, str(path))


def test_a_hub_name_is_unknown_and_says_why() -> None:
    found = models.load("meta-llama/Llama-3.1-8B")
    assert found == models.Unknown(
        "meta-llama/Llama-3.1-8B",
        "the config.json of a hub's model was not looked for; name a local folder",
    )


def test_an_uncounted_family_is_unknown() -> None:
    found = models.from_config({"model_type": "mamba"})
    assert isinstance(found, models.Unknown)
    assert "'mamba'" in found.reason


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("lama-7b", "no model 'lama-7b'; did you mean 'llama-7b'?"),
        (
            "./no/such/folder",
            "no model './no/such/folder'; use a name of models.json, a local folder or a hub name",
        ),
        ("/", "/ has no config.json; name the folder that holds the model"),
    ],
)
def test_wrong_names(model: str, message: str) -> None:
    with pytest.raises(errors.SpecError) as caught:
        models.load(model)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", ":1:2: not JSON: Expecting property name enclosed in double quotes; correct the file"),
        ("[1]", ": a model configuration is a JSON object, this is a list"),
        ("{}", ": has no model_type; a Hugging Face config.json names its family there, such as llama"),
        ('{"model_type": "bert", "architectures": ["BertForMaskedLM"]}', ": BertForMaskedLM is not a causal"),
        ('{"model_type": "t5", "is_encoder_decoder": true}', ": an encoder-decoder (t5) is not a causal"),
        (
            '{"model_type": "llama", "hidden_size": "4096"}',
            ': hidden_size must be a positive integer, not "4096"',
        ),
        (
            '{"model_type": "llama", "hidden_size": true}',
            ": hidden_size must be a positive integer, not true",
        ),
        ('{"model_type": "llama", "hidden_size": 0}', ": hidden_size must be a positive integer, not 0"),
        (
            '{"model_type": "llama", "tie_word_embeddings": 1}',
            ": tie_word_embeddings must be true or false, not 1",
        ),
        (
            '{"model_type": "llama", "hidden_size": 33}',
            ": a hidden size of 33 does not divide among 32 heads",
        ),
        ('{"model_type": "llama", "num_key_value_heads": 5}', ": 32 attention heads do not divide among 5"),
        ('{"model_type": "gemma3", "text_config": 3}', ": text_config must be an object"),
        ('{"model_type": "gpt2", "add_cross_attention": true}', ": cross-attention is not counted"),
    ],
)
def test_wrong_files(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(text)
    with pytest.raises(errors.SpecError) as caught:
        models.load(str(tmp_path))
    assert str(caught.value).startswith(f"{file}{message}")


def test_a_folder_that_cannot_be_entered_is_not_called_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.exists", refuse)
    monkeypatch.setattr("pathlib.Path.is_dir", refuse)
    found = models.load_if_here(f"{tmp_path}/model")
    assert isinstance(found, models.Unknown)
    assert found.reason == (
        f"{tmp_path}/model cannot be read by this user (Permission denied), so its size is not known"
    )


def test_a_path_that_is_absent_may_be_the_ranks_own(tmp_path: Path) -> None:
    found = models.load_if_here(f"{tmp_path}/model")
    assert isinstance(found, models.Unknown)
    assert found.reason == f"{tmp_path}/model is not on this machine, so its size is not known"


def test_a_config_that_cannot_be_opened_is_an_error_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text("{}")

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(errors.SpecError, match=r"config\.json: cannot be read: Permission denied"):
        models.load_if_here(str(tmp_path))


def test_named_models_train_without_dropout() -> None:
    named = models.load("gpt2")
    own = models.from_config(models.named()["gpt2"])
    assert isinstance(named, architecture.Architecture)
    assert isinstance(own, architecture.Architecture)
    assert (named.dropout, own.dropout) == (False, True)
