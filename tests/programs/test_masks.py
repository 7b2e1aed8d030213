"""Which masks are not made. Witness: ``masking_utils`` of the installed transformers."""

from __future__ import annotations

from itertools import product

import pytest

from estimator.ledger import Ledger
from estimator.operators import CPU
from estimator.programs import masks
from estimator.programs.step import Generated, Inputs, Step

torch = pytest.importorskip("torch")
masking_utils = pytest.importorskip("transformers.masking_utils")

WINDOW, ROOM = 6, 20


@pytest.mark.parametrize(("past", "seq"), [(0, 1), (0, 4), (0, 9), (4, 1), (4, 3), (9, 1), (9, 3)])
def test_a_mask_is_left_out_as_in_transformers(past: int, seq: int) -> None:
    """With padding, without, and without a mask; within a window; and with a static cache, which has room for more."""
    ledger, keys = Ledger(CPU), past + seq
    for masked, windowed, static in product((None, False, True), (False, True), (False, True)):
        if static and (windowed or masked is None):
            continue
        step = Step("llama", "float32", attention_mask=bool(masked), window_reached=windowed and keys >= WINDOW)
        generated = Generated(ledger.empty((1, seq), "int64"), {False: ROOM}, static=True) if static else None
        inputs = Inputs(ledger, 1, seq, step, past=past, generated=generated)
        held = None if masked is None else ledger.empty((1, keys), "bool")
        room = ROOM if static else keys
        mask = None if masked is None else torch.arange(room).unsqueeze(0) < keys
        if masked and mask is not None:
            mask[0, 0] = False
        skips = not (static and seq == 1)  # create_causal_mask: allow_is_causal_skip
        asked = skips and masking_utils._ignore_causal_mask_sdpa(mask, seq, room, past, 0, WINDOW if windowed else None)
        assert masks._ignore_causal_mask_sdpa(inputs, held, windowed) == asked, (masked, windowed, static)


def test_a_padding_mask_is_of_all_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: of those in the cache and the pass's own."""
    asked: list[object] = []
    monkeypatch.setattr(masks, "sdpa_mask", lambda inputs, padding, *_: asked.append(padding.shape))
    inputs = Inputs(Ledger(CPU), 2, 3, Step("llama", "float32", attention_mask=True), past=4)
    assert masks.create_causal_mask(inputs, "float32", None, False, True) is None
    assert asked == [(2, 7)]


def test_a_number_has_any_shape_beside_a_tensor() -> None:
    """Of a mask of everything, from which others are taken."""
    assert masks._broadcast((), (2, 1, 5)) == masks._broadcast((2, 1, 5), ()) == (2, 1, 5)
    assert masks._broadcast((2, 1, 1), (1, 1, 5)) == masks._broadcast((1, 1, 5), (2, 1, 1)) == (2, 1, 5)
    assert masks._broadcast((), ()) == ()
