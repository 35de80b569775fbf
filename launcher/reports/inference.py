"""What `plan` says of a model that only generates: weights, keys and values, and how many texts fit at once.

Owns the words and keys; the figures are those of planning.generating.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from launcher import units

if TYPE_CHECKING:
    from launcher.sizing.inference import Inference


def data(found: Inference) -> dict[str, Any]:
    """`fits`, `reasons`, `parameters` and `inference` of `plan --json`; bytes on one slot."""
    return {
        "fits": found.fits,
        "reasons": list(found.shortfalls),
        "parameters": found.model.parameters,
        "inference": _own(found),
    }


def _own(found: Inference) -> dict[str, Any]:
    return {
        "fits": found.fits,
        "weights": found.weights,
        "other": found.other,
        "cache_per_text": found.text,
        "tokens_per_text": found.asked.length,
        "texts_at_once": found.texts,
        "texts_asked": found.asked.texts,
        "capacity": found.capacity.slot,
        "offload": found.split.offload,
        "per_host": found.per_host,
        "host_capacity": found.host_capacity,
        "tensor_parallel": found.split.tensor,
        "pipeline_parallel": found.split.pipeline,
    }


def text(found: Inference, hint: str = "") -> str:
    """The same as text; `hint` is what would make it fit."""
    lines = [
        f"memory per {'GPU' if found.asked.gpu else 'rank'}",
        f"    weights             {units.gigabytes(found.weights):>10}",
        f"    a pass and context  {units.gigabytes(found.other):>10}",
        f"    keys and values     {units.gigabytes(found.text):>10} for each text of {found.asked.length} tokens",
    ]
    if found.split.offload != "none":
        place = "on NVMe" if found.split.offload == "nvme" else "in memory"
        have = f" of {units.gigabytes(found.host_capacity)}" if found.host_capacity is not None else ""
        lines += [f"{place} per host", f"    weights             {units.gigabytes(found.per_host):>10}{have}"]
    if found.texts is None:
        lines.append("texts at once         unknown: the cluster file has no `memory:`")
    else:
        lines.append(f"texts at once         {_texts(found, found.texts)}")
    if not found.fits:
        lines += [f"verdict               DOES NOT FIT: {'; '.join(found.shortfalls)}"]
        lines += [f"                      {hint}"] if hint else []
    elif found.texts is not None:
        lines.append("verdict               fits")
    return "\n".join(lines)


def _texts(found: Inference, fit: int) -> str:
    """How many of the texts that are asked for fit; a server lets the rest wait."""
    if found.split.paged and 0 < fit < found.asked.texts:
        return f"{fit} of at most {found.asked.texts}, the rest wait"
    return f"{fit} fit, {found.asked.texts} are asked for"
