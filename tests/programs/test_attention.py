"""What transformers' own attention asks of PyTorch (``sdpa_attention_forward``)."""

from __future__ import annotations

from typing import Any

import pytest

from estimator.ledger import Ledger, Tensor
from estimator.operators import CPU
from estimator.programs import attention_functions


@pytest.mark.parametrize(("seq", "masked", "causal"), [(1, False, False), (2, False, True), (2, True, False)])
def test_several_tokens_without_a_mask_are_causal(
    seq: int, masked: bool, causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Witness: transformers: ``is_causal = query.shape[2] > 1 and attention_mask is None``."""
    asked: list[bool] = []

    def called(query: Tensor, *_: Any, is_causal: bool, **__: Any) -> Tensor:
        asked.append(is_causal)
        return query

    monkeypatch.setattr(attention_functions.ops, "scaled_dot_product_attention", called)
    ledger = Ledger(CPU)
    x, mask = ledger.empty((1, 2, seq, 8), "float32"), ledger.empty((1, 1, seq, seq), "float32")
    attention_functions.sdpa(x, x, x, mask if masked else None, 1, wide_heads=False)
    assert asked == [causal]
