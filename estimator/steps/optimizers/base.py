"""The base of all optimizers: the states that it keeps, and the temporaries of its step."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

from ...ledger import ITEMSIZE, Ledger, Size, Tensor, whole

STEP_BYTES = 4
"""Bytes of the step count: PyTorch's optimizers have a float32 number for each parameter."""


def step_count(p: Tensor, fused: bool = False) -> tuple[Size, ...]:
    """The bytes of the step count, if it is on the parameter's device. For a parameter on a GPU it is on the host,
    unless the optimizer is ``fused`` (``torch/optim/adam.py: Adam._init_group``).
    """
    return (STEP_BYTES,) if fused or not p.ledger.device.has_own_memory else ()


class Optimizer:
    """An optimizer without states and without temporaries; the base of every other one.

    A ``step`` is written like the original's loop: a temporary lives until its name is assigned again. A counted
    parameter is updated once, unless all parameters are updated together.
    """

    open_sizes: ClassVar[bool] = True
    """Whether the model's sizes may be symbols."""
    in_backward: ClassVar[bool] = False
    """Whether gradients are applied, and freed, during backward."""
    warnings: ClassVar[tuple[str, ...]] = ()
    """Warnings for every result with this optimizer."""

    one_by_one = False
    """No operator takes all parameters at once, also on a GPU: some are DTensors and others are not."""
    wide: frozenset[str] = frozenset()
    """Names of the parameters whose states an 8-bit optimizer keeps in 32 bits."""

    def __init__(self, rank: int = 1) -> None:
        self.rank = rank

    def state_sizes(self, p: Tensor) -> tuple[Size, ...]:
        """Bytes of each state of one parameter that is on its device, in the order they are made."""
        return ()

    def shared_sizes(self, parameters: Sequence[Tensor]) -> tuple[Size, ...]:
        """Bytes of each state that all parameters share."""
        return ()

    def states(self, p: Tensor) -> Size:
        """Bytes of the states of one parameter after the first step."""
        return sum(self.state_sizes(p), 0)

    def state_bytes(self, parameters: Sequence[Tensor]) -> Size:
        """Bytes of all states after the first step, copies included."""
        total: Size = sum(self.shared_sizes(parameters), 0)
        for p in parameters:
            total = total + self.states(p) * p.copies
        return total

    def step(self, ledger: Ledger, parameters: Sequence[Tensor]) -> None:
        """``optimizer.step()``, when the states exist already."""

    def before_gradient(self, leaf: Tensor) -> None:
        """Called before a parameter's gradient is stored (``Tensor.register_hook``)."""

    def after_gradient(self, leaf: Tensor) -> None:
        """Called after a parameter's gradient is stored (``Tensor.register_post_accumulate_grad_hook``)."""


def is_hidden_matrix(name: str, dimensions: int) -> bool:
    """Whether a parameter is a matrix in a layer: neither a vector, nor an embedding or the head.

    Muon orthogonalises these (PyTorch's documentation), and GaLore projects them (its authors' script).
    """
    return dimensions == 2 and re.search(r"\.\d+\.", name) is not None


TRANSPOSE_BLOCK = 60
"""Rows and columns of the block through which a CPU copies a transposed matrix that has at least as many elements
(``aten/src/ATen/native/Copy.cpp: copy_same_type_transpose_``)."""


def transposed_copy(matrix: Tensor) -> None:
    """The temporary block of ``copy_`` of a transposed matrix on a CPU."""
    if matrix.ledger.device.copies_by_blocks and whole(matrix.numel) >= TRANSPOSE_BLOCK**2:
        matrix.ledger.transient(TRANSPOSE_BLOCK**2 * ITEMSIZE[matrix.dtype])
