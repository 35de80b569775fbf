"""Documents that share a sample and are kept apart: positions restart with each, and attention stays within it.

Owns what a model is given for that. transformers reads the documents from the position ids and masks by them
(masking_utils.find_packed_sequence_indices); its flash attention does so for a batch of one sample only, and else takes
the lengths of all documents (modeling_flash_attention_utils._flash_attention_forward).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import torch


def positions(documents: np.ndarray) -> np.ndarray:
    """The place of each token in its document, or since the sample's beginning; int64, as `documents`' numbers.

    `documents` is [samples, length]: the number of the document that a token belongs to.
    """
    import numpy as np

    places = np.arange(documents.shape[1], dtype=np.int64)
    begins = np.diff(documents, axis=1, prepend=-1) != 0
    return places - np.maximum.accumulate(np.where(begins, places, 0), axis=1)


def inputs(positions: torch.Tensor, attention: str) -> dict[str, Any]:
    """What a transformers model is called with for positions [samples, length] and this kind of attention."""
    import torch

    if not attention.startswith("flash"):
        return {"position_ids": positions}
    begins = torch.nonzero(positions.flatten() == 0).flatten()
    ends = torch.cat([begins, begins.new_tensor([positions.numel()])]).to(torch.int32)
    longest = int(ends.diff().max())
    lengths = {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}
    return {"position_ids": positions, **lengths}
