"""What a method's layers compute beyond plain operators, against PEFT's own functions.

Witness everywhere: autograd's saved tensors and the real allocator.
"""

from __future__ import annotations

import pytest
import torch
from peft.tuners.c3a.utils import BlockCircularConvolution
from peft.tuners.randlora.layer import UniqueBaseGrad

from estimator.methods.c3a import block_circular_convolution
from estimator.methods.loha import hada_weight
from estimator.methods.randlora import unique_base
from tests.helpers.operator_rules import (
    BF16,
    F16,
    F32,
    Given,
    agree,
)


@pytest.mark.parametrize(
    ("dtype", "autocast"), [(F32, None), (BF16, None), (F16, None), (F32, BF16), (F32, F16), (BF16, BF16)]
)
def test_hada_weight(dtype: str, autocast: str | None) -> None:
    from peft.tuners.loha.layer import make_weight

    given = [Given(shape, dtype) for shape in ((60, 6), (6, 44), (60, 6), (6, 44))]
    agree(hada_weight, lambda *w: make_weight(*w, scale=torch.tensor(0.5)), *given, autocast=autocast)


@pytest.mark.parametrize("sizes", [(8, 5, 40), (8, 1, 40), (1, 5, 40), (1, 1, 9)])
def test_unique_base(sizes: tuple[int, int, int]) -> None:
    r, count, size = sizes
    agree(unique_base, UniqueBaseGrad.apply, Given((r, 1, size), grad=False), Given((r, count)), Given((count, size)))


@pytest.mark.parametrize("rows", [(1, 1), (3, 1), (2, 23), (1, 150)])
@pytest.mark.parametrize("sizes", [(2, 3, 8), (1, 4, 8), (4, 1, 8), (1, 1, 30), (5, 6, 1)])
def test_block_circular_convolution(sizes: tuple[int, int, int], rows: tuple[int, int]) -> None:
    m, n, b = sizes
    agree(block_circular_convolution, BlockCircularConvolution.apply, Given((*rows, n * b)), Given((m, n, b)))
