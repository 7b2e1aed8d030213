"""A step of forward-mode automatic differentiation: forward gradients (arXiv 2202.08587) by ``torch.func.jvp``."""

from __future__ import annotations

from typing import Any

import torch
from torch.func import functional_call, jvp


def step(model: Any, batch: dict[str, Any], optimizer: torch.optim.Optimizer) -> None:
    """One step. The gradient's estimate is a random tangent times the directional derivative along it.

    The tangents are scaled in place and become the gradients, which the caller frees.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    tangents = {name: torch.randn_like(p) for name, p in trained.items()}

    def loss(parameters: dict[str, torch.Tensor]) -> torch.Tensor:
        return functional_call(model, parameters, kwargs=batch).loss

    _, derivative = jvp(loss, ({name: p.detach() for name, p in trained.items()},), (tangents,))
    for name, parameter in trained.items():
        parameter.grad = tangents.pop(name).mul_(derivative)
    optimizer.step()
