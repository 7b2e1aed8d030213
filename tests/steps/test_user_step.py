"""A training step that the user wrote, with the states that the step before has left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import estimator
from estimator.witnesses.measure import allocator_events, peak_of


def step_of(optimizer: Callable[[Any], Any], device: str) -> tuple[Callable[[], None], Any]:
    """A step of two layers, and its optimizer. One layer is not trained, and a factor is no parameter."""
    with torch.device(device):
        module = torch.nn.Sequential(torch.nn.Linear(40, 70), torch.nn.LayerNorm(70), torch.nn.Linear(70, 9))
        scale = torch.ones(9, device=device)
        module[0].requires_grad_(False)
    updates = optimizer([p for p in module.parameters() if p.requires_grad])

    def train() -> None:
        loss = (module(torch.empty(6, 40, device=device)) * scale).square().mean()
        loss.backward()
        updates.step()
        updates.zero_grad()

    return train, updates


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda p: torch.optim.AdamW(p, foreach=False),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, foreach=False),
        lambda p: torch.optim.SGD(p, lr=0.1, foreach=False),
    ],
    ids=["adamw", "momentum", "sgd"],
)
def test_what_a_step_leaves_and_holds(optimizer: Callable[[Any], Any]) -> None:
    """Witness: measurement, and what the real optimizer has after a step."""
    found = estimator.step(step_of(optimizer, "meta")[0]).bytes
    train, updates = step_of(optimizer, "cpu")
    train()
    trained = (2 * 70 + 9 * 71) * 4
    tensors = [x for state in updates.state.values() for x in state.values() if isinstance(x, torch.Tensor)]
    assert found["optimizer"] == sum(x.nbytes for x in tensors)
    assert found["gradients"] == trained
    assert found["parameters"] == trained
    assert found["buffers"] == (40 * 70 + 70 + 9) * 4, "what is not trained is an input of the step"
    assert found["peak_above_resident"] == pytest.approx(peak_of(allocator_events(train))[0], abs=64)
