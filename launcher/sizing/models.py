"""Named models and local config.json files, read as architectures.

Owns the names in docker/workloads/models.json and what a model reference can be; leaves tensors to
families.py and bytes to memory.py. The workload builds its model from the same JSON entries.

    models.load("llama-7b") -> Architecture      a name, a folder with config.json, or a config.json
    models.load("owner/model", found) -> the same, where planning/hub.py found its config.json; else Unknown
    models.from_config({"model_type": ...})      the same from a Hugging Face configuration
    models.named() -> {"gpt2": {...}, ...}       the named configurations

Sources of the named shapes:
- gpt2, gpt2-medium, gpt2-large, gpt2-xl: Radford et al. 2019, table 2, and the released config.json files.
- gpt-6b ... gpt-170b: ZeRO, arXiv 1910.02054, appendix tables (layers, hidden, heads). No vocabulary is
  given: GPT-2's 50257 tokens and 1024 positions stand in. Its 7.5B, 128B and 1T have no published shape.
- gpt-18b: https://www.deepspeed.ai/tutorials/zeropp/ (40 layers, hidden 6144, 32 heads, length 512).
- llama-7b ... llama-65b: LLaMA, arXiv 2302.13971, table 2. llama-2-*: arXiv 2307.09288, table 1 and appendix.
- llama-3-8b, -70b: arXiv 2407.21783, table 3; 8,192 positions, as Llama 3 was released.
- llama-3.1-8b, -70b, -405b: the same, and context 128K by scaled rotary embedding.
- llama-1b, llama-3b (Llama 3.2): the released config.json of Llama-3.2-1B and -3B (tied embeddings).
- mistral-7b: arXiv 2310.06825, table 1. mixtral-8x7b: arXiv 2401.04088, table 1.
- qwen2-7b, qwen3-8b: arXiv 2407.10671, table 1; arXiv 2505.09388, table 1; the released config.json files.
"""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import launcher
from launcher import errors
from launcher.namedtuple import NamedTuple
from launcher.sizing import by_size, composites, families, model_files, seq2seq

if TYPE_CHECKING:
    from collections.abc import Mapping

    from launcher.sizing import architecture

    Config = Mapping[str, object]

# [owner/]name, as huggingface_hub takes it: https://huggingface.co/docs/huggingface_hub/package_reference/utilities
# (validate_repo_id): no dots or dashes at the ends or in a row, at most 96 characters each
_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
_HUB = re.compile(rf"(?!.*(?:--|\.\.))(?:{_PART}/)?{_PART}")
# What the workloads make of a named model, whatever its family's default: docker/workloads/architectures.py
NO_DROPOUT = {"resid_pdrop": 0.0, "attn_pdrop": 0.0}
NAMED = launcher.ROOT / "docker" / "workloads" / "models.json"


class Found(NamedTuple):
    """What a look for a hub model's config.json came to: its content and `source`, or None and why in `source`."""

    config: Config | None
    source: str


class Unknown(NamedTuple):
    """A model whose size cannot be told here, and why."""

    name: str
    reason: str


def named() -> dict[str, dict[str, object]]:
    """The named configurations, in Hugging Face's keys, in the file's order."""
    return dict(_named())


@functools.lru_cache(maxsize=1)
def _named() -> dict[str, dict[str, object]]:
    entries: dict[str, dict[str, object]] = json.loads(NAMED.read_text(encoding="utf-8"))
    return entries


def load(
    model: str, found: Found | None = None, *, encoders: bool = False
) -> architecture.Architecture | Unknown:
    """The architecture that `model` names: an entry of models.json, a local folder or file, or a hub name.

    `found`: what is known of a hub's model; `encoders`: it may be an encoder-decoder. Returns Unknown for others of
    the hub, and for a family that is not counted here. Raises SpecError when `model` is none of these, when the file
    cannot be read, and when it does not describe a language model that is taken.
    """
    entry = _named().get(model)
    if entry is not None:
        return from_config({**NO_DROPOUT, **entry}, model)
    file = model_files.local(model)
    if file:
        config = model_files.read(file)
        return _or_by_size(from_config(config, model, str(file), encoders=encoders), config, file.parent)
    if "/" in model and _is_hub_name(model):
        return _of_hub(model, found, encoders=encoders)
    hint = (
        errors.did_you_mean(model, _named(), most=0)
        or "use a name of models.json, a local folder or a hub name"
    )
    raise errors.SpecError(f"no model {errors.shown(model)}", hint=hint)


def own_code(model: str, found: Found | None = None) -> str:
    """The family of a model whose configuration names code of its own (auto_map); '' where it is described here too.

    Transformers takes its own code for a family that it knows. Raises SpecError as `load` does.
    """
    file = model_files.local(model)
    config = model_files.read(file) if file else found.config if found else None
    family = str(config.get("model_type")) if config and config.get("auto_map") else ""
    return "" if family in {*families.known(), *composites.known(), *seq2seq.known()} else family


def is_of_hub(model: str) -> bool:
    """Whether `model` can only be found on the hub: neither a named model nor here."""
    return model not in _named() and "/" in model and is_repository(model)


def is_repository(word: str) -> bool:
    """Whether `word` can only be a repository of the hub: [owner/]name, and nothing here is called so."""
    try:
        return _is_hub_name(word) and not model_files.local(word)
    except errors.SpecError:
        return False


def _is_hub_name(word: str) -> bool:
    return bool(_HUB.fullmatch(word)) and not word.endswith((".json", ".git"))


def _of_hub(model: str, found: Found | None, *, encoders: bool) -> architecture.Architecture | Unknown:
    """A hub model by its configuration; one that is not counted here trains all the same, so is no error."""
    if found is None or found.config is None:
        reason = (
            found.source
            if found
            else "the config.json of a hub's model was not looked for; name a local folder"
        )
        return Unknown(model, reason)
    try:
        made = from_config(found.config, model, found.source, encoders=encoders)
        return _or_by_size(made, found.config, Path(found.source).parent)
    except errors.SpecError as error:
        return Unknown(model, error.problems[0].message)


def _or_by_size(
    found: architecture.Architecture | Unknown, config: Config, folder: Path
) -> architecture.Architecture | Unknown:
    """A model of a family that is not described, by the size of its files, where they are here."""
    if not isinstance(found, Unknown):
        return found
    number = by_size.parameters(folder, config)
    return (by_size.build(config, number, found.name) if number else None) or found


def from_config(
    config: Config, name: str = "", source: str = "", *, encoders: bool = False
) -> architecture.Architecture | Unknown:
    """The architecture of a Hugging Face configuration; `source` is the file that messages name.

    Returns Unknown for a family that is not counted here. Raises SpecError when `config` has no model_type,
    is neither a causal language model nor, with `encoders`, an encoder-decoder, or holds values that no model can have.
    """
    where = errors.Place(source or name or "model configuration")
    family = config.get("model_type")
    if not isinstance(family, str):
        hint = "a Hugging Face config.json names its family there, such as llama"
        raise errors.SpecError(errors.Problem("has no model_type", hint, where))
    if family in composites.known():  # AutoModelForCausalLM takes them, whatever class their file names
        return composites.build(family, config, where, name or family)
    if encoders and config.get("is_encoder_decoder", family in seq2seq.known()):
        if family in seq2seq.known():
            return seq2seq.build(family, config, where, name or family)
        number = len(seq2seq.known())
        what = f"the encoder-decoder {family!r} is not counted here ({number} others are)"
        return Unknown(name or family, what)
    _require_causal(config, family, where)
    if family not in families.known():
        number = len(families.known())
        return Unknown(
            name or family,
            f"parameters of the family {family!r} are not counted here (those of {number} others are)",
        )
    return families.build(family, config, where, name or family)


def _require_causal(config: Config, family: str, where: errors.Place) -> None:
    listed = config.get("architectures") or []
    heads = [a for a in listed if isinstance(a, str)] if isinstance(listed, list) else []
    causal = not heads or any(a.endswith(("ForCausalLM", "LMHeadModel")) for a in heads)
    if causal and not config.get("is_encoder_decoder"):
        return
    what = heads[0] if heads else f"an encoder-decoder ({family})"
    hint = "the planner and the pretraining workload take decoders whose architectures end in ForCausalLM"
    raise errors.SpecError(errors.Problem(f"{what} is not a causal language model", hint, where))


def load_if_here(
    name: str, found: Found | None = None, *, encoders: bool = False
) -> architecture.Architecture | Unknown:
    """The named or local model, or the hub's; a path that only the ranks can see is not known here.

    With `encoders` it may be an encoder-decoder.
    """
    try:
        return load(name, found, encoders=encoders)
    except errors.SpecError:
        reason = model_files.elsewhere(Path(name)) if name.startswith("/") else ""
        if reason:
            return Unknown(name, f"{name} {reason}, so its size is not known")
        raise
