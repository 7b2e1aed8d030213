"""NEFTune (arXiv 2310.05914), as transformers' hook of the input embedding (``integrations/neftune.py``)."""

from __future__ import annotations

from .. import operators as ops
from ..ledger import Tensor


def noised(inputs_embeds: Tensor) -> Tensor:
    """Embeddings [B, S, H] with uniform noise added, in their own dtype."""
    noise = inputs_embeds.ledger.empty(inputs_embeds.shape, inputs_embeds.dtype)
    return ops.add(inputs_embeds, noise)
