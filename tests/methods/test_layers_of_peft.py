"""What a method's layers compute beyond plain operators, against PEFT's own functions.

Witness everywhere: autograd's saved tensors and the real allocator.
"""

from __future__ import annotations

import peft
import pytest
import torch
import transformers
from peft.tuners.c3a.utils import BlockCircularConvolution
from peft.tuners.randlora.layer import UniqueBaseGrad

from estimator.methods.c3a import block_circular_convolution
from estimator.methods.loha import hada_weight
from estimator.methods.randlora import unique_base
from estimator.methods.registry import METHODS
from tests.cases.peft_methods import OF_MODULES, block
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


@pytest.mark.parametrize("method", [name for name in OF_MODULES if name in METHODS])
def test_which_methods_adapt_a_conv1d(method: str) -> None:
    """Witness: PEFT, which refuses GPT-2's ``c_attn`` for some methods."""
    keys = {**block(method, "gpt2"), "target_modules": ["c_attn"], "peft_type": method.upper()}
    options = peft.get_peft_config({key: value for key, value in keys.items() if key != "name"})
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=2))
    said = ""
    try:
        peft.get_peft_model(model, options)
    except (TypeError, ValueError) as error:
        said = str(error)
    assert ("not supported" in said) is (not METHODS[method].adapts_conv1d)
