"""What every optimizer says: the states it keeps and what a step takes and gives back."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

from ...ledger import ITEMSIZE, Ledger, Size, Tensor, whole

STEP_BYTES = 4
"""PyTorch's optimizers keep the step count as one float32 tensor per parameter."""


def step_count(p: Tensor, fused: bool = False) -> tuple[Size, ...]:
    """The step count's bytes, where it is beside the parameter: a GPU's parameter has it on the host unless
    the optimizer is ``fused`` (``torch/optim/adam.py: Adam._init_group``).
    """
    return (STEP_BYTES,) if fused or not p.ledger.device.has_own_memory else ()


class Optimizer:
    """An optimizer without states and without temporaries; the base of every other one.

    A ``step`` is written like the original's loop: a temporary lives until its name is assigned
    again. Where one parameter comes after the other, copies of a parameter need no step of their own.
    """

    open_sizes: ClassVar[bool] = True
    """Whether the rules hold with the model's sizes left open."""
    in_backward: ClassVar[bool] = False
    """Whether gradients are applied, and let go of, during backward."""
    warnings: ClassVar[tuple[str, ...]] = ()
    """What a result has to say about it."""

    def __init__(self, rank: int = 1) -> None:
        self.rank = rank

    def state_sizes(self, p: Tensor) -> tuple[Size, ...]:
        """Bytes of each tensor kept for one parameter, on its device and in the order they are made."""
        return ()

    def shared_sizes(self, parameters: Sequence[Tensor]) -> tuple[Size, ...]:
        """Bytes of each tensor kept for all parameters together."""
        return ()

    def states(self, p: Tensor) -> Size:
        """Bytes kept for one parameter after the first step."""
        return sum(self.state_sizes(p), 0)

    def state_bytes(self, parameters: Sequence[Tensor]) -> Size:
        """Bytes of all states after the first step."""
        total: Size = sum(self.shared_sizes(parameters), 0)
        for p in parameters:
            total = total + self.states(p) * p.copies
        return total

    def step(self, ledger: Ledger, parameters: Sequence[Tensor]) -> None:
        """``optimizer.step()``, from the second one on."""

    def before_gradient(self, leaf: Tensor) -> None:
        """A parameter's gradient is there and not stored yet (``Tensor.register_hook``)."""

    def after_gradient(self, leaf: Tensor) -> None:
        """A parameter's gradient was stored (``Tensor.register_post_accumulate_grad_hook``)."""


def is_hidden_matrix(name: str, dimensions: int) -> bool:
    """Whether a parameter is a matrix of a numbered block: neither an embedding, a head, nor a vector.

    What Muon orthogonalises (PyTorch's documentation of it) and GaLore projects (its authors' script).
    """
    return dimensions == 2 and re.search(r"\.\d+\.", name) is not None


TRANSPOSE_BLOCK = 60
"""A CPU copies a transposed matrix of at least a block's elements through a block of this many rows and
columns (``aten/src/ATen/native/Copy.cpp: copy_same_type_transpose_``)."""


def transposed_copy(matrix: Tensor) -> None:
    """The block that ``copy_`` of a transposed matrix takes and gives back on a CPU."""
    if matrix.ledger.device.copies_by_blocks and whole(matrix.numel) >= TRANSPOSE_BLOCK**2:
        matrix.ledger.transient(TRANSPOSE_BLOCK**2 * ITEMSIZE[matrix.dtype])
