"""What a method's layers compute beyond plain operators, against PEFT's own functions.

Witness everywhere: autograd's saved tensors and the real allocator.
"""

from __future__ import annotations

from pathlib import Path

import peft
import pytest
import torch
import transformers
from peft.tuners.c3a.utils import BlockCircularConvolution
from peft.tuners.randlora.layer import UniqueBaseGrad

from estimator import estimate
from estimator.errors import InputError
from estimator.methods.c3a import block_circular_convolution
from estimator.methods.loha import hada_weight
from estimator.methods.randlora import unique_base
from estimator.methods.registry import METHODS
from tests.cases.peft_methods import OF_MODULES, block
from tests.cases.small_models import write_config
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
def test_which_methods_adapt_a_conv1d(method: str, tmp_path: Path) -> None:
    """Witness: PEFT, which refuses GPT-2's ``c_attn`` for some methods."""
    keys = {**block(method, "gpt2"), "target_modules": ["c_attn"]}
    config = transformers.GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=2)
    options = peft.get_peft_config({"peft_type": keys["name"].upper(), **{k: v for k, v in keys.items() if k != "name"}})
    refused = False
    try:
        peft.get_peft_model(transformers.GPT2LMHeadModel(config), options)
    except (TypeError, ValueError) as error:
        refused = "not supported" in str(error)
    file = write_config(tmp_path, {"model_type": "gpt2", "num_hidden_layers": 1})
    try:
        estimate(model=file, seq=8, method=keys)
    except InputError as error:
        assert ("Target module c_attn, a Conv1D, is not supported" in str(error)) is refused
        assert refused or method == "hira", error
    else:
        assert not refused
