"""MeZO's step (arXiv 2305.17333, algorithm 1): two forward passes without a graph, and an update in place.

The loss is computed as in the authors' trainer (``zo_forward``: eval mode, ``inference_mode``). Parameters are
perturbed as in the paper, in place and one at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

PERTURBATION = 1e-3
LEARNING_RATE = 1e-6


def step(loss: Callable[[], torch.Tensor], model: Any, parameters: Sequence[torch.Tensor]) -> None:
    """One step that updates ``parameters``. ``loss`` runs a forward pass on the step's batch."""
    seed = int(torch.randint(2**31, ()))
    model.eval()
    with torch.no_grad():
        _move(parameters, seed, PERTURBATION)
        with torch.inference_mode():
            loss1 = loss()
        _move(parameters, seed, -2 * PERTURBATION)
        with torch.inference_mode():
            loss2 = loss()
        _move(parameters, seed, PERTURBATION)
        projected_gradient = float(loss1 - loss2) / (2 * PERTURBATION)
        _move(parameters, seed, -LEARNING_RATE * projected_gradient)
    model.train()


def _move(parameters: Sequence[torch.Tensor], seed: int, distance: float) -> None:
    """Add ``distance`` times a random normal direction, which depends on the seed only, to the parameters."""
    torch.manual_seed(seed)
    for parameter in parameters:
        direction = torch.normal(0.0, 1.0, parameter.shape, dtype=parameter.dtype)
        parameter.add_(direction, alpha=distance)
        del direction  # before the next one is drawn
