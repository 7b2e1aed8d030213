"""MiSS, HiRA, RandLoRA, FourierFT, C3A and SHiRA: their operators, their steps, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft.tuners.c3a.utils import BlockCircularConvolution
from peft.tuners.randlora.layer import UniqueBaseGrad
from torch.nn import functional

from estimator import operators as ops
from estimator.answers.estimate import estimate
from estimator.answers.formulas import compile_plan
from estimator.errors import InputError
from estimator.ledger import Tensor
from estimator.methods.c3a import block_circular_convolution
from estimator.methods.randlora import unique_base
from estimator.methods.registry import METHODS, read_adapter_config
from estimator.plans.plan import Plan, parse_plan
from estimator.plans.resolve import resolve
from estimator.witnesses.measure import allocator_events

from .cases import write_config
from .measured import assert_step
from .test_ops import BF16, F16, F32, FLOATS, PAIRS, TOLERANCE, Given, agree, ours, peak_and_left, varied

NAMES = ("miss", "hira", "randlora", "fourierft", "c3a", "shira")
SMALL = {
    "hidden_size": 96,
    "intermediate_size": 160,
    "head_dim": 16,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
}
QWEN3 = {**SMALL, "model_type": "qwen3", "num_hidden_layers": 6}
QWEN2 = {**SMALL, "model_type": "qwen2", "num_hidden_layers": 2}
MISTRAL = {**SMALL, "model_type": "mistral", "num_hidden_layers": 5}


def plan_of(name: str, batch: int, seq: int, dtype: str, options: dict[str, Any], **keys: Any) -> dict[str, Any]:
    return {"batch": batch, "seq": seq, "dtype": dtype, "method": {"name": name, **options}, **keys}


EAGER: dict[str, Any] = {"attention": "eager"}
RECOMPUTED: dict[str, Any] = {"checkpointing": "layer"}
ALL = {"target_modules": "all-linear"}
CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("miss", SMALL, plan_of("miss", 2, 33, F32, {})),
    ("miss-padded", MISTRAL, plan_of("miss", 3, 17, BF16, {"r": 10, "miss_dropout": 0.1, **ALL}, **EAGER)),
    ("miss-recomputed", QWEN3, plan_of("miss", 1, 40, F16, {"r": 8, "bias": "MiSS_only"}, **RECOMPUTED)),
    ("miss-bat", QWEN2, plan_of("miss", 2, 21, BF16, {"r": 16, "init_weights": "bat", "bias": "all"})),
    ("miss-bat-float32", SMALL, plan_of("miss", 2, 40, F32, {"r": 8, "init_weights": "bat", **ALL}, **EAGER)),
    ("miss-mini", QWEN3, plan_of("miss", 2, 31, F16, {"r": 8, "init_weights": "mini", "mini_r": 8, **ALL})),
    ("miss-mini-whole", SMALL, plan_of("miss", 1, 1, F32, {"init_weights": "mini", "mini_r": 32, **ALL, "r": 96})),
    ("miss-autocast", SMALL, plan_of("miss", 2, 33, F32, {"r": 8, "layers_to_transform": [1]}, autocast=BF16)),
    ("hira", SMALL, plan_of("hira", 2, 33, F32, {})),
    ("hira-dropout", QWEN2, plan_of("hira", 3, 17, BF16, {"r": 5, "hira_dropout": 0.1, **ALL}, **EAGER)),
    ("hira-embedding", QWEN3, plan_of("hira", 2, 40, F16, {"target_modules": ["embed_tokens", "o_proj"]})),
    ("hira-recomputed", MISTRAL, plan_of("hira", 2, 31, BF16, {"rank_pattern": {"v_proj": 3}}, **RECOMPUTED)),
    ("hira-autocast", SMALL, plan_of("hira", 2, 33, F32, {"r": 4}, autocast=F16)),
    ("randlora", SMALL, plan_of("randlora", 2, 33, F32, {})),
    ("randlora-all", QWEN2, plan_of("randlora", 3, 17, BF16, {"r": 10, "randlora_dropout": 0.1, **ALL}, **EAGER)),
    ("randlora-16-bit", QWEN3, plan_of("randlora", 2, 31, F16, {"r": 8, "adapter_dtype": F16, "sparse": True})),
    ("randlora-recomputed", MISTRAL, plan_of("randlora", 1, 40, BF16, {"layers_to_transform": [1, 2]}, **RECOMPUTED)),
    ("fourierft", SMALL, plan_of("fourierft", 2, 33, F32, {})),
    ("fourierft-all", QWEN2, plan_of("fourierft", 3, 17, BF16, {"n_frequency": 90, **ALL, "bias": "fourier_only"})),
    ("fourierft-pattern", QWEN3, plan_of("fourierft", 2, 31, F16, {"n_frequency_pattern": {"q_proj": 70}}, **EAGER)),
    ("fourierft-recomputed", MISTRAL, plan_of("fourierft", 1, 40, BF16, {"adapter_dtype": BF16}, **RECOMPUTED)),
    ("c3a", SMALL, plan_of("c3a", 2, 33, F32, {"block_size": 16})),
    ("c3a-all", MISTRAL, plan_of("c3a", 3, 17, BF16, {"block_size": 8, **ALL}, **EAGER)),
    ("c3a-biases", QWEN2, plan_of("c3a", 2, 40, F16, {"block_size": 32, "bias": "c3a_only"})),
    (
        "c3a-one-block",
        QWEN3,
        plan_of("c3a", 2, 31, BF16, {"block_size": 96, "target_modules": ["q_proj"]}, **RECOMPUTED),
    ),
    ("c3a-one-token", SMALL, plan_of("c3a", 1, 1, F32, {"block_size": 32, "block_size_pattern": {"v_proj": 1}})),
    ("shira", SMALL, plan_of("shira", 2, 33, F32, {"r": 5})),
    ("shira-all", QWEN2, plan_of("shira", 3, 17, BF16, {"r": 8, **ALL}, **EAGER)),
    ("shira-16-bit", QWEN3, plan_of("shira", 2, 31, F16, {"r": 2, "adapter_dtype": F16, "modules_to_save": ["norm"]})),
    ("shira-recomputed", MISTRAL, plan_of("shira", 1, 40, BF16, {"r": 3, "random_seed": 4}, **RECOMPUTED)),
]


@pytest.mark.parametrize(("config", "plan"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_step(config: dict[str, Any], plan: dict[str, Any], tmp_path: Path) -> None:
    """Witness: measurement."""
    assert_step(config, plan, tmp_path)


# ---- operators -----------------------------------------------------------------------------


@varied([((4, 6, 40),), ((1, 6, 40),), ((1, 1, 8),)])
def test_permute(given: Any) -> None:
    agree(lambda x: ops.permute(x, (1, 2, 0)), lambda x: x.permute(1, 2, 0), *given)


@varied([((4, 6, 40),), ((1, 1, 8),)])
def test_pad_last(given: Any) -> None:
    agree(lambda x: ops.pad(x, 3), lambda x: functional.pad(x, (0, 3)), *given)


@pytest.mark.parametrize("count", [1, 5])
@varied([((30, 40),), ((1, 40),)], swaps=[None])
def test_repeat_last(given: Any, count: int) -> None:
    agree(lambda x: ops.repeat(x, 1, count), lambda x: x.repeat(1, count), *given)


@varied([((4, 6, 40), (4, 6, 40))], PAIRS, swaps=[None, None])
def test_add_in_place(given: Any) -> None:
    agree(lambda a, b: ops.add_(ops.neg(a), b), lambda a, b: (-a).add_(b), *given)


@varied([((4, 6, 40), (20, 40), (20,), (4, 6, 20))], [(d,) * 4 for (d,) in FLOATS], swaps=[None] * 4)
def test_add_in_place_to_a_view(given: Any) -> None:
    agree(
        lambda x, w, b, y: ops.add_to_view_(ops.linear(x, w, b), y),
        lambda x, w, b, y: functional.linear(x, w, b).add_(y),
        *given,
    )


@varied([((70, 40), (40, 30))], PAIRS)
def test_mm_under_autocast(given: Any) -> None:
    agree(ops.matmul, torch.mm, *given, autocast=BF16)


@pytest.mark.parametrize("needed", [True, False])
def test_index_put(needed: bool) -> None:
    def rule(values: Tensor, places: Tensor) -> Tensor:
        return ops.index_put_(values.ledger.empty((30, 40), F32), (places,), values)

    def function(values: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        dense = torch.zeros(30, 40)
        dense[places[0, :], places[1, :]] = values
        return dense

    agree(rule, function, Given((200,), grad=needed), Given((2, 200), "int64", grad=False))


@varied([((30, 40),), ((1, 40),), ((64, 64),)], [(F32,)], swaps=[None])
def test_inverse_fourier_transform(given: Any) -> None:
    agree(lambda x: ops.mul(ops.real(ops.fft_ifft2(x)), ops.SCALAR), lambda x: torch.fft.ifft2(x).real * 3.0, *given)


def same_bytes(rule: Callable[..., Tensor], function: Callable[..., torch.Tensor], *given: Given) -> None:
    """As ``agree``, of what is live only: a sparse tensor has no storage that hooks could be shown."""
    leaves = [torch.zeros(g.shape, dtype=getattr(torch, g.dtype), requires_grad=g.grad) for g in given]

    def step() -> None:
        y = function(*leaves)
        y.backward(torch.ones_like(y))

    step()
    for leaf in leaves:
        leaf.grad = None
    footprint = ours(rule, given)
    peak, left = peak_and_left(allocator_events(step))
    assert abs(footprint.peak - peak) <= TOLERANCE
    assert abs(footprint.left - left) <= TOLERANCE


@pytest.mark.parametrize("dtypes", [(F32, F32), (BF16, F32), (F16, F32), (BF16, BF16)])
def test_add_sparse(dtypes: tuple[str, str]) -> None:
    places = torch.stack([torch.arange(200) % 30, torch.arange(200) % 40]).to(torch.int32)
    same_bytes(
        lambda w, values: ops.add_sparse_(ops.clone(w), ops.mul(values, ops.SCALAR)),
        lambda w, values: w.clone().add_(torch.sparse_coo_tensor(places, values * 3.0, w.shape)),
        Given((30, 40), dtypes[0], grad=False),
        Given((200,), dtypes[1]),
    )


@pytest.mark.parametrize("sizes", [(8, 5, 40), (8, 1, 40), (1, 5, 40), (1, 1, 9)])
def test_unique_base(sizes: tuple[int, int, int]) -> None:
    r, count, size = sizes
    agree(unique_base, UniqueBaseGrad.apply, Given((r, 1, size), grad=False), Given((r, count)), Given((count, size)))


@pytest.mark.parametrize("rows", [(1, 1), (3, 1), (2, 23), (1, 150)])
@pytest.mark.parametrize("sizes", [(2, 3, 8), (1, 4, 8), (4, 1, 8), (1, 1, 30), (5, 6, 1)])
def test_block_circular_convolution(sizes: tuple[int, int, int], rows: tuple[int, int]) -> None:
    m, n, b = sizes
    agree(block_circular_convolution, BlockCircularConvolution.apply, Given((*rows, n * b)), Given((m, n, b)))


def test_a_sum_over_leading_dimensions_is_never_added_to() -> None:
    """``at::sum_to`` gives a view, which a second gradient is not added to in place."""
    given = Given((3, 8, 20), grad=False), Given((8, 20))
    agree(lambda a, b: ops.add(ops.add(a, b), b), lambda a, b: a + b + b, *given)


# ---- formulas ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [F32, BF16])
def test_formulas(name: str, dtype: str, tmp_path: Path) -> None:
    """Witness: the formula itself, with B and S open, against a step with numbers."""
    options = {"c3a": {"block_size": 16}, "shira": {"r": 4}, "randlora": {"r": 7, **ALL}}.get(name, {})
    model = write_config(tmp_path / "model", {**SMALL, "num_hidden_layers": 6})

    def plan(batch: int, seq: int) -> Plan:
        return parse_plan({"model": model, **plan_of(name, batch, seq, dtype, options)})

    for batch, seq in ((2, 40), (3, 200), (1, 90), (70, 1)):
        formulas = compile_plan(plan(batch, seq)).evaluate(batch, seq)
        expected = estimate(plan(batch, seq)).bytes
        assert {key: formulas[key] for key in ("peak", "saved", "buffers")} == {
            key: expected[key] for key in ("peak", "saved", "buffers")
        }


# ---- options -------------------------------------------------------------------------------


def adapted(name: str, **options: Any) -> Any:
    return peft.PEFT_TYPE_TO_CONFIG_MAPPING[name.upper()](**options)


@pytest.mark.parametrize("name", NAMES)
def test_adapter_config(name: str, tmp_path: Path) -> None:
    """A configuration that PEFT wrote with its defaults is the method with ours."""
    adapted(name).save_pretrained(tmp_path)
    options = METHODS[name]
    assert options.model_validate(read_adapter_config(tmp_path)) == options(name=name, **given_in_config(name))
    assert options.peft_options(options(name=name)).keys() <= adapted(name).to_dict().keys()


def given_in_config(name: str) -> dict[str, Any]:
    """What a saved configuration holds where ours has ``None``."""
    return {
        "hira": {"rank_pattern": {}},
        "c3a": {"block_size_pattern": {}},
        "fourierft": {"n_frequency_pattern": {}},
    }.get(name, {})


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "miss rank": ({"name": "miss", "r": 97}, "r 97 is above the 96 input features of q_proj"),
    "miss bat": ({"name": "miss", "r": 10, "init_weights": "bat"}, "take an r that divides both"),
    "miss mini": ({"name": "miss", "r": 8, "init_weights": "mini", "mini_r": 5}, "mini_r 5 does not divide"),
    "miss bias": ({"name": "miss", "bias": "some"}, "must be none, all, or a name that ends in _only"),
    "miss embedding": ({"name": "miss", "target_modules": ["embed_tokens"]}, "linear layers only; take embed_tokens"),
    "hira norm": ({"name": "hira", "target_modules": ".*"}, "layernorm out of target_modules"),
    "layers and text": ({"name": "miss", "target_modules": ".*q_proj", "layers_to_transform": 1}, "(PEFT's rule)"),
    "layers": ({"name": "hira", "layers_to_transform": [3]}, "the model's layers are 0 to 2"),
    "fourierft pattern": ({"name": "fourierft", "layers_pattern": "layers"}, "needs layers_to_transform"),
    "fourierft count": (
        {"name": "fourierft", "n_frequency": 4000},
        "n_frequency 4000 is above the 3072 entries of v_p",
    ),
    "c3a block": ({"name": "c3a"}, "block_size 256 does not divide both sides of q_proj's weight, 96 x 96"),
    "c3a exclude": ({"name": "c3a", "exclude_modules": ["q_proj"]}, "must be left out"),
    "shira rank": ({"name": "shira"}, "r 32 trains 4096 entries, but v_proj's weight has 3072"),
    "shira mask": ({"name": "shira", "mask_type": "mine"}, "method.mask_type"),
    "randlora rank": ({"name": "randlora", "r": 0}, "method.r"),
}


@pytest.mark.parametrize(("block", "message"), WRONG.values(), ids=list(WRONG))
def test_wrong_input(block: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        resolve(parse_plan({"model": write_config(tmp_path / "model", SMALL), "method": block}))
    assert message in str(error.value)
    assert "\n" not in str(error.value)
