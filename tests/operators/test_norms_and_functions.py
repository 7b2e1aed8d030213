"""Rules of norms and of functions of each element.

Witness everywhere: autograd's saved tensors and the real allocator.
"""

from __future__ import annotations

import pytest
import torch

from estimator import ops
from tests.helpers.operator_rules import FLOATS, Given, agree, varied


@varied([((30, 70),), ((20, 30, 40),)], FLOATS)
def test_vector_norm(given: tuple[Given, ...]) -> None:
    """Witness: autograd's saved tensors and the allocator."""
    agree(lambda x: ops.vector_norm(x, 1), lambda x: torch.linalg.vector_norm(x, dim=1), *given)


@varied([((30, 70),)], FLOATS)
def test_vector_norm_of_all(given: tuple[Given, ...]) -> None:
    """Witness: autograd's saved tensors and the allocator."""
    agree(ops.vector_norm, lambda x: torch.norm(x, p="fro"), *given)


@pytest.mark.parametrize("name", ["cos", "sin"])
@varied([((20, 30),)], FLOATS)
def test_cosine_and_sine(given: tuple[Given, ...], name: str) -> None:
    """Witness: autograd's saved tensors and the allocator."""
    agree(getattr(ops, name), getattr(torch, name), *given)


@varied([((20, 30),)], FLOATS)
def test_clamp(given: tuple[Given, ...]) -> None:
    """Witness: autograd's saved tensors and the allocator."""
    agree(ops.clamp, lambda x: torch.clamp(x, min=1e-4), *given)
