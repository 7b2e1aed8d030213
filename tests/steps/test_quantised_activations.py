"""Activations that are saved in 8 or 4 bits: the reference, and what it allocates."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from estimator.answers.estimate import estimate
from estimator.answers.formulas import compile_plan
from estimator.errors import InputError
from estimator.ledger import Ledger
from estimator.operators import CPU
from estimator.plans.plan import parse_plan
from estimator.steps import saved_activations
from estimator.witnesses.measure import allocator_events
from estimator.witnesses.reference import activations
from tests.helpers.operator_rules import (
    BF16,
    F16,
    F32,
    TOLERANCE,
    peak_and_left,
)

INT8 = {"saved_activations": "int8"}


def test_what_other_steps_save() -> None:
    model = {"model": "llama-3.2-1b", "batch": 2, "seq": 1024}
    full, int8 = (estimate(**model, saved_activations=kind) for kind in ("as-is", "int8"))
    assert int8.bytes["saved"] < 0.45 * full.bytes["saved"]  # 2 and 4 bytes become 1 and 4/64
    assert int8.bytes["peak"] < full.bytes["peak"]
    zeroth, forward = estimate(**model, method="mezo"), estimate(**model, method="forward-ad")
    assert zeroth.bytes["saved"] == zeroth.bytes["gradients"] == zeroth.bytes["optimizer"] == 0
    assert zeroth.peak_at == "loss second forward"
    assert estimate(model="llama-3.2-1b", seq=16, method="mezo").peak_at == "parameter perturbation"
    assert forward.bytes["saved"] == 0
    assert forward.bytes["gradients"] == forward.bytes["parameters"]


def test_symbolic_sizes_do_not_tell_groups() -> None:
    with pytest.raises(InputError, match="leave the sizes filled in"):
        compile_plan(parse_plan({"model": "llama-3.2-1b", **INT8}), symbolic=True)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("count", [1, 63, 64, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_quantising_is_near(bits: int, count: int, dtype: torch.dtype) -> None:
    """Within a step of the group's range, and its bfloat16 zero point's own rounding."""
    torch.manual_seed(0)
    x = torch.randn(count).to(dtype)
    held = activations.quantise(x, bits, 64)
    error = (activations.dequantise(held).float() - x.float()).abs().max().item()
    assert held.codes.numel() == -(-count // 64) * 64 * bits // 8
    assert error <= 8 / (2**bits - 1) + 4 * 2**-8


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("dtype", [F32, BF16, F16])
def test_quantising_allocates(bits: int, dtype: str) -> None:
    x = torch.randn(611, 37).to(getattr(torch, dtype))
    kept: list[Any] = []
    quantising = allocator_events(lambda: kept.append(activations.quantise(x.view(-1), bits, 64)))
    dequantising = allocator_events(lambda: kept.append(activations.dequantise(kept[0])))

    ledger = Ledger(CPU)
    leaf = ledger.empty((611, 37), dtype)
    leaf.requires_grad = True
    start = ledger.live
    ledger.peaks.clear()
    with saved_activations.held_as(ledger, f"int{bits}", 64):
        held, unpack = ledger.pack(leaf, "", 0, ())
    assert (ledger.live - start, ledger.saved) == (_left(quantising), _left(quantising))
    assert max(ledger.peaks.values()) - start == pytest.approx(_peak(quantising), abs=TOLERANCE)
    start = ledger.live
    ledger.peaks.clear()
    unpacked = unpack(held)
    assert ledger.live - start == unpacked.storage.nbytes == _left(dequantising)
    assert max(ledger.peaks.values()) - start == pytest.approx(_peak(dequantising), abs=TOLERANCE)


def _peak(events: list[tuple[int, str]]) -> int:
    return peak_and_left(events)[0]


def _left(events: list[tuple[int, str]]) -> int:
    return peak_and_left(events)[1]


def test_a_storage_is_quantised_once() -> None:
    store = activations.Store(8, 64, ())
    x = torch.randn(8, 64, requires_grad=True) * 1
    first, second = store.pack(x), store.pack(x.view(4, 128).t())
    assert isinstance(first, activations.View)
    assert isinstance(second, activations.View)
    assert first.of is second.of
    assert torch.equal(store.unpack(first).view(4, 128).t(), store.unpack(second))
    with torch.no_grad():
        x.mul_(2)
    third = store.pack(x)
    assert isinstance(third, activations.View)
    assert third.of is not first.of


def test_what_is_kept_as_it_is() -> None:
    weight = torch.nn.Parameter(torch.randn(8, 8))
    store = activations.Store(8, 64, {weight.untyped_storage()._cdata})
    for kept in (weight.t(), torch.arange(64).view(8, 8), torch.randn(8, 8), weight.sum(0)):
        held = store.pack(kept)
        assert isinstance(held, torch.Tensor)
        assert held.data_ptr() == kept.data_ptr()


@pytest.mark.parametrize(("kind", "cosine"), [("int8", 0.999), ("int4", 0.9)])
def test_gradients_are_near(kind: str, cosine: float) -> None:
    torch.manual_seed(0)
    x = torch.randn(50, 64)
    net = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.SiLU(), torch.nn.Linear(128, 32))
    store = activations.Store(activations.BITS[kind], 64, {p.untyped_storage()._cdata for p in net.parameters()})

    def gradient() -> torch.Tensor:
        net.zero_grad()
        functional.cross_entropy(net(x), torch.arange(50) % 32).backward()
        return torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])

    exact = gradient()
    with torch.autograd.graph.saved_tensors_hooks(store.pack, store.unpack):
        near = gradient()
    assert not torch.equal(exact, near)
    assert functional.cosine_similarity(exact, near, dim=0) > cosine
