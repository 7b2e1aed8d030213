"""LoHa, LoKr, OFT and BOFT: their measured cases, their operator rules, and what PEFT refuses.

The witness of the cases is a real step on a CPU; of the rules, autograd's saved tensors and the allocator.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from estimator import estimate
from estimator import operators as ops
from estimator.answers.formulas import compile_plan
from estimator.errors import InputError
from estimator.methods.loha import hada_weight
from estimator.plans.plan import parse_plan

from .cases import write_config
from .measured import assert_step
from .test_ops import BF16, F16, F16_PRODUCTS, F32, Cases, Given, _threads, agree, ours, real, varied

__all__ = ["_threads"]

LOHA: dict[str, Any] = {"name": "loha", "r": 5}
LOKR: dict[str, Any] = {"name": "lokr", "r": 3}
OFT: dict[str, Any] = {"name": "oft"}
BOFT: dict[str, Any] = {"name": "boft"}
MISTRAL, QWEN2, QWEN3 = {"model_type": "mistral"}, {"model_type": "qwen2"}, {"model_type": "qwen3"}
TINY = {"vocab_size": 31}
"""The peak lies in the adapters then, not at the loss."""

CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("loha", {}, {"dtype": "float32", "batch": 2, "seq": 33, "method": LOHA}),
    (
        "loha-rank-dropout",
        {**MISTRAL, **TINY},
        {
            "dtype": "float16",
            "batch": 1,
            "seq": 5,
            "method": {**LOHA, "rank_dropout": 0.3, "target_modules": "all-linear"},
        },
    ),
    (
        "loha-16-bit-checkpointing",
        {**QWEN3, **TINY, "num_hidden_layers": 5},
        {
            "dtype": "bfloat16",
            "batch": 2,
            "seq": 17,
            "attention": "eager",
            "checkpointing": "layer",
            "method": {**LOHA, "adapter_dtype": "bfloat16", "rank_pattern": {"v_proj": 2}, "rank_dropout": 0.2},
        },
    ),
    (
        "loha-autocast-some-layers",
        {**QWEN2, **TINY, "num_hidden_layers": 5},
        {
            "dtype": "float32",
            "autocast": "bfloat16",
            "batch": 2,
            "seq": 9,
            "method": {**LOHA, "target_modules": ["up_proj", "o_proj"], "layers_to_transform": [1, 2]},
        },
    ),
    ("lokr", QWEN2, {"dtype": "bfloat16", "batch": 2, "seq": 33, "method": LOKR}),
    (
        "lokr-both-rank-dropout",
        {**QWEN3, **TINY},
        {
            "dtype": "float32",
            "batch": 1,
            "seq": 7,
            "attention": "eager",
            "method": {
                **LOKR,
                "r": 2,
                "decompose_both": True,
                "rank_dropout": 0.2,
                "rank_dropout_scale": True,
                "target_modules": ["k_proj", "up_proj", "lm_head"],
            },
        },
    ),
    (
        "lokr-16-bit-factor",
        {**TINY, "num_hidden_layers": 6},
        {
            "dtype": "bfloat16",
            "batch": 1,
            "seq": 7,
            "checkpointing": "layer",
            "method": {**LOKR, "adapter_dtype": "bfloat16", "decompose_factor": 4, "target_modules": "all-linear"},
        },
    ),
    ("oft", {}, {"dtype": "bfloat16", "batch": 2, "seq": 33, "method": OFT}),
    (
        "oft-16-bit-odd-blocks",
        {**QWEN3, **TINY, "num_hidden_layers": 5},
        {
            "dtype": "bfloat16",
            "batch": 1,
            "seq": 30,
            "attention": "eager",
            "method": {**OFT, "oft_block_size": 8, "adapter_dtype": "bfloat16", "target_modules": "all-linear"},
        },
    ),
    (
        "oft-exact-constrained",
        {**QWEN2, **TINY},
        {
            "dtype": "float32",
            "batch": 1,
            "seq": 1,
            "optimizer": "sgd",
            "method": {
                **OFT,
                "r": 1,
                "oft_block_size": 0,
                "coft": True,
                "use_cayley_neumann": False,
                "bias": "oft_only",
            },
        },
    ),
    (
        "oft-shared-embedding",
        {**QWEN3, **TINY},
        {
            "dtype": "float16",
            "batch": 2,
            "seq": 9,
            "checkpointing": "layer",
            "method": {
                **OFT,
                "r": 5,
                "oft_block_size": 0,
                "block_share": True,
                "num_cayley_neumann_terms": 3,
                "module_dropout": 0.1,
                "target_modules": ["embed_tokens", "o_proj", "down_proj"],
            },
        },
    ),
    (
        "oft-autocast",
        {**TINY},
        {"dtype": "float32", "autocast": "bfloat16", "batch": 2, "seq": 9, "method": {**OFT, "oft_block_size": 4}},
    ),
    (
        "oft-identity",  # one term of the series does not depend on the weight, which gets no gradient and no states
        {},
        {
            "dtype": "bfloat16",
            "batch": 2,
            "seq": 33,
            "method": {**OFT, "num_cayley_neumann_terms": 1, "modules_to_save": ["lm_head"]},
        },
    ),
    (
        "oft-identity-checkpointing",
        {**QWEN2, **TINY},
        {
            "dtype": "bfloat16",
            "batch": 2,
            "seq": 9,
            "checkpointing": "layer",
            "method": {
                **OFT,
                "num_cayley_neumann_terms": 1,
                "oft_block_size": 4,
                "adapter_dtype": "bfloat16",
                "modules_to_save": ["norm"],
            },
        },
    ),
    ("boft", QWEN2, {"dtype": "bfloat16", "batch": 2, "seq": 33, "method": BOFT}),
    (
        "boft-biases",
        {**TINY, "attention_bias": True},
        {
            "dtype": "float32",
            "batch": 1,
            "seq": 3,
            "attention": "eager",
            "method": {
                **BOFT,
                "boft_block_size": 0,
                "boft_block_num": 4,
                "bias": "boft_only",
                "target_modules": ["o_proj", "k_proj"],
            },
        },
    ),
    (
        "boft-dropout-checkpointing",
        {**MISTRAL, **TINY},
        {
            "dtype": "bfloat16",
            "batch": 1,
            "seq": 40,
            "checkpointing": "layer",
            "method": {**BOFT, "boft_dropout": 0.3, "adapter_dtype": "bfloat16"},
        },
    ),
    (
        "boft-autocast",
        {**QWEN3, **TINY},
        {"dtype": "float32", "autocast": "float16", "batch": 2, "seq": 9, "method": {**BOFT, "boft_dropout": 0.1}},
    ),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("config", "plan"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_measured(config: dict[str, Any], plan: dict[str, Any], tmp_path: Path) -> None:
    torch.set_num_threads(ops.THREADS)
    predicted = assert_step(config, plan, tmp_path)
    formula = compile_plan(parse_plan({"model": str(tmp_path / "model"), **plan}))
    for name, value in formula.evaluate(plan["batch"], plan["seq"]).items():
        if name in predicted.bytes:
            assert value == predicted.bytes[name], name


# ---- operator rules ------------------------------------------------------------------------


@varied([((4, 6, 40),), ((1, 6, 40),)], swaps=[(0, 1)])
def test_permute(given: Cases) -> None:
    agree(lambda x: ops.permute(x, (2, 0, 1)), lambda x: x.permute(2, 0, 1), *given)


@pytest.mark.parametrize(("dtype", "factor"), [(F32, F32), (BF16, BF16), (BF16, F32)])
def test_product_in_place_of_a_view(dtype: str, factor: str) -> None:
    given = (Given((60, 40), dtype), Given((60, 1), factor, grad=False))

    def function(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        weight = (-x).view(60, 40)
        weight *= y
        return weight

    def rule(x: Any, y: Any) -> Any:
        weight = ops.neg(x)
        weight = ops.view(weight, (60, 40))
        return ops.mul_view_(weight, y)

    agree(rule, function, *given)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize(("dtype", "other"), [(F32, F32), (BF16, BF16), (F32, BF16)])
def test_sum_in_place(dtype: str, other: str, scaled: bool) -> None:
    given = (Given((60, 40), dtype), Given((60, 40), other))
    agree(lambda x, y: ops.add_(ops.neg(x), y, scaled), lambda x, y: (-x).add_(y, alpha=2.0 if scaled else 1), *given)


@pytest.mark.parametrize("dtype", [F32, BF16, F16])
def test_index_put(dtype: str) -> None:
    rows, cols = torch.triu_indices(8, 8, 1)

    def function(values: torch.Tensor) -> torch.Tensor:
        matrix = torch.zeros(12, 8, 8, dtype=values.dtype)
        matrix[:, rows, cols] = values
        return matrix

    def rule(values: Any) -> Any:
        return ops.index_put_(values.ledger.empty((12, 8, 8), dtype), (), values)

    a, b = ours(rule, [Given((12, 28), dtype)]), real(function, [Given((12, 28), dtype)])
    indices = 2 * 28 * 8  # buffers in the model, which do not count
    assert (a.saved, a.shape, a.peak, a.left) == (b.saved - indices, b.shape, b.peak, b.left)


@pytest.mark.parametrize("dtype", [F32, BF16])
def test_repeat(dtype: str) -> None:
    # the kernel's own shapes and strides, 96 bytes, are taken while the result is the only tensor
    agree(lambda x: ops.repeat(x, 9, 1, 1), lambda x: x.repeat(9, 1, 1), Given((1, 8, 8), dtype))


@pytest.mark.parametrize("grads", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("dtype", [F32, BF16, F16_PRODUCTS])
@pytest.mark.parametrize("swapped", [None, (0, 1), (1, 2)])
def test_bmm_of_strided_matrices(swapped: Any, dtype: str, grads: tuple[bool, bool]) -> None:
    given = (Given((12, 30, 16), dtype, grads[0], swapped), Given((12, 16, 24), dtype, grads[1]))
    agree(ops.bmm, torch.bmm, *given)


@pytest.mark.parametrize("dtype", [F32, BF16, F16])
@pytest.mark.parametrize("shape", [(2, 17, 6, 16), (1, 17, 6, 16), (1, 1, 6, 32), (2, 17, 1, 16)])
def test_rotated_blocks(shape: tuple[int, ...], dtype: str) -> None:
    def function(x: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
        return torch.einsum("...rk,rkc->...rc", x, blocks).reshape(*shape[:2], -1)

    def rule(x: Any, blocks: Any) -> Any:
        return ops.reshape(ops.einsum("...rk,rkc->...rc", x, blocks), (*shape[:2], shape[2] * shape[3]))

    agree(rule, function, Given(shape, dtype), Given((shape[2], shape[3], shape[3]), dtype))


@varied(
    [((12, 14), (8, 10)), ((12, 1), (8, 10)), ((1, 14), (8, 10)), ((12, 14), (1, 1))],
    [(F32, F32), (BF16, BF16)],
    swaps=[None, None],
)
def test_kron(given: Cases) -> None:
    agree(ops.kron, torch.kron, *given)


@pytest.mark.parametrize("grads", [(True, True), (True, False), (False, True)])
def test_solve(grads: tuple[bool, bool]) -> None:
    def function(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.linalg.solve(torch.eye(16) + a, b, left=False)

    def rule(a: Any, b: Any) -> Any:
        return ops.linalg_solve(ops.add(a.ledger.empty((16, 16), F32), a), b)

    agree(rule, function, Given((12, 16, 16), F32, grads[0]), Given((12, 16, 16), F32, grads[1]))


def test_block_diagonal() -> None:
    agree(ops.block_diag, lambda x: torch.block_diag(*torch.unbind(x)), Given((12, 8, 8)))


@pytest.mark.parametrize(
    ("dtype", "autocast"), [(F32, None), (BF16, None), (F16, None), (F32, BF16), (F32, F16), (BF16, BF16)]
)
def test_hada_weight(dtype: str, autocast: str | None) -> None:
    from peft.tuners.loha.layer import make_weight

    given = [Given(shape, dtype) for shape in ((60, 6), (6, 44), (60, 6), (6, 44))]
    agree(hada_weight, lambda *w: make_weight(*w, scale=torch.tensor(0.5)), *given, autocast=autocast)


# ---- what is refused -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ({**LOHA, "target_modules": ["embed_tokens"]}, "linear layers only"),
        ({**LOKR, "r": 0}, "greater than or equal to 1"),
        ({**LOKR, "layers_pattern": "layers"}, "layers_pattern needs layers_to_transform"),
        ({**LOHA, "layers_to_transform": [9]}, "layers are 0 to 2"),
        ({**OFT, "r": 4}, "exclude each other"),
        ({**OFT, "oft_block_size": 0}, "both 0"),
        ({**OFT, "bias": "boft_only"}, "oft_only"),
        ({**BOFT, "boft_block_num": 4}, "exclude each other"),
        ({**BOFT, "boft_block_size": 0}, "both 0"),
        ({**BOFT, "boft_block_size": 7}, "does not divide the 96 inputs of model.layers.0.self_attn.q_proj"),
        ({**BOFT, "target_modules": ["embed_tokens"]}, "linear layers only"),
    ],
)
def test_refused(method: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        estimate(model=write_config(tmp_path / "model", {}), method=method, seq=8)
