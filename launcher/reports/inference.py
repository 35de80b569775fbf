"""What `plan` says of a model that only generates: weights, keys and values, and how many texts fit at once.

Owns the words and keys; the figures are those of planning.generating.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from launcher import units

if TYPE_CHECKING:
    from launcher.sizing.inference import Inference


def data(found: Inference) -> dict[str, Any]:
    """`inference` of `plan --json`; bytes on one slot."""
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


def text(found: Inference, where: str) -> str:
    """The same as text; `where` is a GPU or a rank."""
    lines = [
        f"memory per {where}",
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
        lines.append(f"texts at once         {found.texts} fit, {found.asked.texts} are asked for")
    if found.texts is not None or not found.fits:
        lines.append(f"verdict               {'fits' if found.fits else 'DOES NOT FIT'}")
    return "\n".join(lines)
