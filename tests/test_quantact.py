"""Quantised activations, zeroth-order and forward-mode steps. Witnesses: the real step, the real allocator,
``torch.func.jvp``, and the gradients that PyTorch computes without any of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from estimator import operators as ops
from estimator.answers.estimate import estimate
from estimator.answers.formulas import compile_plan
from estimator.errors import InputError
from estimator.ledger import Ledger, Tensor
from estimator.ledger.sizes import Poly, ceiling, symbol
from estimator.operators import CPU, forward_mode
from estimator.plans.plan import parse_plan
from estimator.plans.resolve import resolve
from estimator.show.export.algebra import to_sympy
from estimator.show.export.formula import formula
from estimator.steps import saved_activations
from estimator.witnesses.measure import allocator_events
from estimator.witnesses.reference import activations, forward_ad, mezo
from estimator.witnesses.reference.model import build_model

from .cases import write_config
from .measured import assert_step
from .test_ops import BF16, F16, F16_PRODUCTS, F32, MIXED, PAIRS, TOLERANCE, Cases, Given, peak_and_left, varied

LORA = {"name": "lora", "r": 5, "target_modules": ["q_proj", "v_proj"]}
SECOND_LAYER = {**LORA, "layers_to_transform": [1]}
INT8, INT4 = {"saved_activations": "int8"}, {"saved_activations": "int4"}
EAGER = {"attention": "eager"}


def _with(name: str, adapter: Any = None) -> dict[str, Any]:
    return {"method": {"name": name, "adapter": adapter}}


CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("int8-full", {}, INT8),
    ("int8-full-bf16-eager", {"model_type": "qwen3"}, {**INT8, **EAGER, "dtype": BF16}),
    ("int8-lora-dropout", {"model_type": "qwen2"}, {**INT8, "method": {**LORA, "lora_dropout": 0.1}, "dtype": F16}),
    (
        "int8-hira-autocast",
        {"model_type": "qwen3", "vocab_size": 311, "tie_word_embeddings": False},
        {**INT8, "method": {"name": "hira", "r": 3, "target_modules": ["up_proj"]}, "autocast": "float16", "seq": 4},
    ),
    ("int8-checkpointing-lora", {}, {**INT8, "checkpointing": "layer", "method": LORA, "dtype": BF16}),
    ("int8-accumulation", {}, {**INT8, "gradient_accumulation_steps": 2, "method": LORA, "keep_logits": False}),
    ("int8-autocast", {}, {**INT8, "autocast": F16, "method": LORA}),
    ("int4-full", {"model_type": "mistral"}, {**INT4, "batch": 3, "seq": 31, "optimizer": "sgd"}),
    ("int4-ia3-eager-dropout", {"attention_dropout": 0.1}, {**INT4, **EAGER, "method": "ia3", "dtype": F16}),
    ("int4-groups-of-30", {"num_hidden_layers": 6}, {**INT4, "activation_group_size": 30, "attention_mask": True}),
    ("mezo", {"num_hidden_layers": 6}, _with("mezo")),
    ("mezo-bf16-eager", {"model_type": "qwen3"}, {**_with("mezo"), **EAGER, "dtype": BF16, "batch": 1, "seq": 90}),
    ("mezo-tied-fp16", {"tie_word_embeddings": True}, {**_with("mezo"), "dtype": F16, "batch": 1, "seq": 3}),
    ("mezo-lora-dropout", {}, {**_with("mezo", {**LORA, "lora_dropout": 0.1}), "batch": 3, "seq": 40}),
    ("mezo-ia3-padding", {"model_type": "mistral"}, {**_with("mezo", "ia3"), "attention_mask": True}),
    ("mezo-autocast", {"attention_dropout": 0.1}, {**_with("mezo", LORA), "autocast": F16}),
    ("forward-ad", {"num_hidden_layers": 6}, _with("forward-ad")),
    ("forward-ad-bf16", {"model_type": "qwen3"}, {**_with("forward-ad"), "dtype": BF16, "seq": 64}),
    ("forward-ad-biases-fp16", {"model_type": "qwen2"}, {**_with("forward-ad"), "dtype": F16, "optimizer": "sgd"}),
    ("forward-ad-lora", {}, _with("forward-ad", LORA)),
    ("forward-ad-lora-few-tokens", {}, {**_with("forward-ad", LORA), "dtype": BF16, "batch": 1, "seq": 4}),
    ("forward-ad-some-layers", {"num_hidden_layers": 5}, {**_with("forward-ad", SECOND_LAYER), "use_cache": True}),
    ("forward-ad-ia3-padding", {"model_type": "mistral"}, {**_with("forward-ad", "ia3"), "attention_mask": True}),
]


def _plan(case: tuple[str, dict[str, Any], dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    return case[1], {"batch": 2, "seq": 33, "dtype": F32, **case[2]}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_step(case: tuple[str, dict[str, Any], dict[str, Any]], tmp_path: Path) -> None:
    assert_step(*_plan(case), tmp_path)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_formulas_hold_for_every_batch_and_sequence(
    case: tuple[str, dict[str, Any], dict[str, Any]], tmp_path: Path
) -> None:
    config, keys = _plan(case)
    keys["model"] = write_config(tmp_path, config)
    formulas = compile_plan(parse_plan(keys))
    points = [(1, 5), (1, 300)] if keys["batch"] == 1 else [(2, 30), (7, 411)]
    for batch, seq in points:
        result = estimate({**keys, "batch": batch, "seq": seq}).bytes
        value = formulas.evaluate(batch, seq)
        assert {key: value[key] for key in ("peak", "saved", "gradients")} == {
            key: result[key] for key in ("peak", "saved", "gradients")
        }


def test_what_the_results_say() -> None:
    model = {"model": "llama-3.2-1b", "batch": 2, "seq": 1024}
    full, int8 = (estimate(**model, saved_activations=kind) for kind in ("as-is", "int8"))
    assert int8.bytes["saved"] < 0.45 * full.bytes["saved"]  # 2 and 4 bytes become 1 and 4/64
    assert int8.bytes["peak"] < full.bytes["peak"]
    zeroth, forward = estimate(**model, method="mezo"), estimate(**model, method="forward-ad")
    assert zeroth.bytes["saved"] == zeroth.bytes["gradients"] == zeroth.bytes["optimizer"] == 0
    assert zeroth.peak_at == "loss second forward"
    assert estimate(model="llama-3.2-1b", seq=16, method="mezo").peak_at == "parameter perturbation"
    assert forward.bytes["saved"] == 0
    assert forward.bytes["gradients"] == forward.bytes["parameters"]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"method": "mezo", "optimizer": "adamw"}, "set optimizer: sgd"),
        ({"method": "mezo", "checkpointing": "layer"}, "checkpointing belongs to methods with a backward pass"),
        ({"method": "mezo", "gradient_accumulation_steps": 2}, "steps belongs to methods with a backward pass"),
        ({"method": "mezo", **INT8}, "saved_activations belongs to methods with a backward pass"),
        (_with("mezo", "mezo"), "adapter mezo is no adapter"),
        (_with("mezo", {"name": "lora", "rank": 3}), "unknown key 'method.rank' of method lora"),
        (_with("mezo", {"name": "lora", "r": 0}), "method.r: input should be greater"),
        ({"method": "forward-ad", "attention": "sdpa"}, "set attention: eager"),
        ({"method": "forward-ad", "autocast": BF16}, "leave autocast out"),
        ({"method": "forward-ad", "checkpointing": "layer"}, "checkpointing belongs to methods with a backward pass"),
        (_with("forward-ad", "lora") | {"dtype": F16, "autocast": F16}, "leave autocast out"),
        ({**INT4, "activation_group_size": 31}, "multiple of 2"),
        ({"saved_activations": "int2"}, "saved_activations: input should be"),
    ],
)
def test_what_is_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        estimate(model="llama-3.2-1b", **keys)


def test_forward_mode_knows_silu_only(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no rule with hidden_act: gelu"):
        estimate(model=write_config(tmp_path, {"hidden_act": "gelu"}), method="forward-ad")


def test_symbolic_sizes_do_not_tell_groups() -> None:
    with pytest.raises(InputError, match="leave the sizes filled in"):
        compile_plan(parse_plan({"model": "llama-3.2-1b", **INT8}), symbolic=True)


# ---- quantised activations -----------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("count", [1, 63, 64, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_quantising_is_near(bits: int, count: int, dtype: torch.dtype) -> None:
    """Within a step of the group's range, and its bfloat16 zero point's own rounding."""
    torch.manual_seed(0)
    x = torch.randn(count).to(dtype)
    held = activations.quantise(x, bits, 64)
    error = (activations.dequantise(held).float() - x.float()).abs().max().item()
    assert held.codes.numel() == -(-count // 64) * 64 * bits // 8
    assert error <= 8 / (2**bits - 1) + 4 * 2**-8


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("dtype", [F32, BF16, F16])
def test_quantising_allocates(bits: int, dtype: str) -> None:
    x = torch.randn(611, 37).to(getattr(torch, dtype))
    kept: list[Any] = []
    quantising = allocator_events(lambda: kept.append(activations.quantise(x.view(-1), bits, 64)))
    dequantising = allocator_events(lambda: kept.append(activations.dequantise(kept[0])))

    ledger = Ledger(CPU)
    leaf = ledger.empty((611, 37), dtype)
    leaf.requires_grad = True
    start = ledger.live
    ledger.peaks.clear()
    with saved_activations.held_as(ledger, f"int{bits}", 64):
        held, unpack = ledger.pack(leaf, "")
    assert (ledger.live - start, ledger.saved) == (_left(quantising), _left(quantising))
    assert max(ledger.peaks.values()) - start == pytest.approx(_peak(quantising), abs=TOLERANCE)
    start = ledger.live
    ledger.peaks.clear()
    unpacked = unpack(held)
    assert ledger.live - start == unpacked.storage.nbytes == _left(dequantising)
    assert max(ledger.peaks.values()) - start == pytest.approx(_peak(dequantising), abs=TOLERANCE)


def _peak(events: list[tuple[int, str]]) -> int:
    return peak_and_left(events)[0]


def _left(events: list[tuple[int, str]]) -> int:
    return peak_and_left(events)[1]


def test_a_storage_is_quantised_once() -> None:
    store = activations.Store(8, 64, ())
    x = torch.randn(8, 64, requires_grad=True) * 1
    first, second = store.pack(x), store.pack(x.view(4, 128).t())
    assert isinstance(first, activations.View)
    assert isinstance(second, activations.View)
    assert first.of is second.of
    assert torch.equal(store.unpack(first).view(4, 128).t(), store.unpack(second))
    with torch.no_grad():
        x.mul_(2)
    third = store.pack(x)
    assert isinstance(third, activations.View)
    assert third.of is not first.of


def test_what_is_kept_as_it_is() -> None:
    weight = torch.nn.Parameter(torch.randn(8, 8))
    store = activations.Store(8, 64, {weight.untyped_storage()._cdata})
    for kept in (weight.t(), torch.arange(64).view(8, 8), torch.randn(8, 8), weight.sum(0)):
        held = store.pack(kept)
        assert isinstance(held, torch.Tensor)
        assert held.data_ptr() == kept.data_ptr()


@pytest.mark.parametrize(("kind", "cosine"), [("int8", 0.999), ("int4", 0.9)])
def test_gradients_are_near(kind: str, cosine: float) -> None:
    torch.manual_seed(0)
    x = torch.randn(50, 64)
    net = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.SiLU(), torch.nn.Linear(128, 32))
    store = activations.Store(activations.BITS[kind], 64, {p.untyped_storage()._cdata for p in net.parameters()})

    def gradient() -> torch.Tensor:
        net.zero_grad()
        functional.cross_entropy(net(x), torch.arange(50) % 32).backward()
        return torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])

    exact = gradient()
    with torch.autograd.graph.saved_tensors_hooks(store.pack, store.unpack):
        near = gradient()
    assert not torch.equal(exact, near)
    assert functional.cosine_similarity(exact, near, dim=0) > cosine


# ---- the reference steps -------------------------------------------------------------------


def test_mezo_moves_along_its_direction() -> None:
    """The update is ``-rate * (loss difference / 2 eps) * z``: nearly the derivative along z, times z."""
    torch.manual_seed(0)
    net = torch.nn.Linear(20, 1, bias=False)
    x = torch.randn(30, 20)
    before = net.weight.detach().clone()
    mezo.step(lambda: net(x).square().mean(), net, list(net.parameters()))
    gradient = 2 * (x.T @ (x @ before.T)).T / 30
    moved = net.weight.detach() - before
    torch.manual_seed(0)
    torch.nn.Linear(20, 1, bias=False), torch.randn(30, 20)
    torch.manual_seed(int(torch.randint(2**31, ())))
    z = torch.normal(0.0, 1.0, before.shape)
    expected = -mezo.LEARNING_RATE * (gradient * z).sum() * z
    assert torch.allclose(moved, expected, atol=1e-6)


def test_a_forward_gradient_is_the_derivative_along_its_tangent(tmp_path: Path) -> None:
    plan = {"model": write_config(tmp_path, {"num_hidden_layers": 1}), "dtype": F32, "batch": 2, "seq": 9}
    model = build_model(resolve(parse_plan({**plan, "method": "forward-ad"})))
    ids = torch.randint(0, 600, (2, 9))
    batch = {"input_ids": ids, "labels": ids, "use_cache": False}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    torch.manual_seed(1)
    forward_ad.step(model, batch, optimizer)
    estimates = [p.grad for p in model.parameters()]
    optimizer.zero_grad()
    model(**batch).loss.backward()
    torch.manual_seed(1)
    tangents = [torch.randn_like(p) for p in model.parameters()]
    derivative = sum((p.grad * t).sum() for p, t in zip(model.parameters(), tangents, strict=True))
    for estimated, tangent in zip(estimates, tangents, strict=True):
        assert torch.allclose(estimated, derivative * tangent, rtol=1e-3, atol=1e-5)


# ---- forward-mode rules --------------------------------------------------------------------


def agree(rule: Callable[..., Tensor], function: Callable[..., Any], *given: Given) -> None:
    """A rule's peak, and the bytes of its result and tangent, are those of ``torch.func.jvp``.

    Inputs that require a gradient have tangents.
    """
    if not any(g.grad for g in given):
        return
    ledger = Ledger(CPU)
    leaves = [ledger.empty(g.leaf_shape(), g.dtype) for g in given]
    for leaf, g in zip(leaves, given, strict=True):
        if g.grad:
            leaf.requires_grad, leaf.tangent = True, ledger.empty(leaf.shape, leaf.dtype)
    start = ledger.live
    ledger.peaks.clear()
    ledger.forward_mode = forward_mode.run
    out = rule(*(ops.transpose(x, *g.swapped) if g.swapped else x for x, g in zip(leaves, given, strict=True)))
    tangent = out.tangent
    assert tangent is not None
    ours = max(ledger.peaks.values(), default=start) - start, ledger.live - start

    values = [torch.rand(g.leaf_shape()).to(getattr(torch, g.dtype)) for g in given]
    varying = [i for i, g in enumerate(given) if g.grad]
    directions = tuple(torch.rand_like(values[i]) for i in varying)

    def of(*varied: Any) -> Any:
        inputs = list(values)
        for i, x in zip(varying, varied, strict=True):
            inputs[i] = x
        return function(*(x.transpose(*g.swapped) if g.swapped else x for x, g in zip(inputs, given, strict=True)))

    kept: list[Any] = []

    def run() -> None:
        kept.append(torch.func.jvp(of, tuple(values[i] for i in varying), directions))

    run()
    primal, along = kept.pop()
    assert tuple(primal.shape) == out.shape
    assert (primal.stride(), along.stride()) == (ops.strides_of(out), ops.strides_of(tangent)) or 1 in out.shape
    assert str(along.dtype).removeprefix("torch.") == tangent.dtype
    del primal, along
    real = peak_and_left(allocator_events(run))
    assert ours == pytest.approx(real, abs=TOLERANCE)


UNARY: dict[str, tuple[Callable[..., Tensor], Callable[..., Any]]] = {
    "transpose": (lambda x: ops.transpose(x, 0, -1), lambda x: x.transpose(0, -1)),
    "reshape": (lambda x: ops.reshape(x, (x.numel,)), lambda x: x.reshape(-1)),
    "unsqueeze": (lambda x: ops.unsqueeze(x, 1), lambda x: x.unsqueeze(1)),
    "contiguous": (ops.contiguous, lambda x: x.contiguous()),
    "narrow": (lambda x: ops.narrow(x, -1, 4), lambda x: x[..., :4]),
    "neg": (ops.neg, torch.neg),
    "to": (lambda x: ops.to(x, BF16), lambda x: x.to(torch.bfloat16)),
    "add a number": (lambda x: ops.add(x, ops.SCALAR), lambda x: x + 1e-6),
    "mul by a number": (lambda x: ops.mul(x, ops.SCALAR), lambda x: x * 2.5),
    "pow": (lambda x: ops.pow(x, ops.SCALAR), lambda x: x.pow(2)),
    "mean": (lambda x: ops.mean(x, -1, keepdim=True), lambda x: x.mean(-1, keepdim=True)),
    "rsqrt": (ops.rsqrt, torch.rsqrt),
    "silu": (ops.silu, functional.silu),
    "dropout": (lambda x: ops.dropout(x, 0.1), lambda x: functional.dropout(x, 0.1)),
}


@pytest.mark.parametrize("name", UNARY)
@varied([((4, 6, 40),)])
def test_forward_mode_of_one_input(name: str, given: Cases) -> None:
    if name != "mean" or given[0].dtype == F32:  # models take means of float32 only
        agree(*UNARY[name], *given)


@pytest.mark.parametrize(("rule", "function"), [(ops.add, torch.add), (ops.mul, torch.mul)], ids=("add", "mul"))
@varied([((4, 6, 40), (4, 6, 40)), ((4, 6, 40), (40,)), ((4, 6, 40), (1, 6, 40))], MIXED)
def test_forward_mode_of_two_inputs(rule: Any, function: Any, given: Cases) -> None:
    agree(rule, function, *given)


@varied([((4, 6, 40), (4, 6, 40))], PAIRS, swaps=[None, None])
def test_forward_mode_cat(given: Cases) -> None:
    if len({g.grad for g in given}) == 1:  # rotate_half's halves are of one tensor
        agree(lambda a, b: ops.cat((a, b), (4, 6, 80)), lambda a, b: torch.cat((a, b), -1), *given)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [F32, BF16, F16])
@pytest.mark.parametrize("tangents", [(1, 0, 0), (0, 1, 0), (1, 1, 0), (0, 0, 1), (1, 0, 1), (1, 1, 1)])
def test_forward_mode_linear(bias: bool, dtype: str, tangents: tuple[int, ...]) -> None:
    shapes = ((3, 20, 300), (70, 300), (70,))[: 2 + bias]
    agree(
        ops.linear,
        functional.linear,
        *(Given(shape, dtype, bool(wanted)) for shape, wanted in zip(shapes, tangents, strict=False)),
    )


@pytest.mark.parametrize("dtype", [F32, BF16, F16_PRODUCTS])
@pytest.mark.parametrize("tangents", [(1, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize("shapes", [((2, 6, 40, 16), (2, 6, 16, 40)), ((3, 2, 9, 70), (3, 2, 70, 21))], ids=str)
def test_forward_mode_matmul(dtype: str, tangents: tuple[int, ...], shapes: Any) -> None:
    agree(
        ops.matmul,
        torch.matmul,
        *(
            Given(shape, dtype, bool(wanted), swap)
            for shape, wanted, swap in zip(shapes, tangents, (None, (2, 3)), strict=True)
        ),
    )


@varied([((4, 6, 40, 40),)], swaps=[None])
def test_forward_mode_softmax(given: Cases) -> None:
    agree(lambda x: ops.softmax(x, F32), lambda x: functional.softmax(x, -1, dtype=torch.float32), *given)


def test_forward_mode_embedding() -> None:
    ids = torch.arange(60).view(3, 20)
    agree(
        lambda w: ops.embedding(_tokens(w.ledger, (3, 20)), w), lambda w: functional.embedding(ids, w), Given((70, 90))
    )


def _tokens(ledger: Ledger, shape: tuple[int, ...]) -> Tensor:
    tokens = ledger.empty(shape, "int64")
    tokens.storage.resident = True
    ledger.free(tokens.nbytes)
    return tokens


def test_forward_mode_loss() -> None:
    target = torch.arange(60)
    agree(
        lambda x: ops.cross_entropy(x, _tokens(x.ledger, (60,))),
        lambda x: functional.cross_entropy(x, target),
        Given((60, 611)),
    )


def test_an_operator_without_a_forward_rule_is_refused() -> None:
    ledger = Ledger(CPU)
    x = ledger.parameter("x", (2, 3, 4, 5), F32, True)
    x.tangent, ledger.forward_mode = ledger.empty(x.shape, F32), forward_mode.run
    with pytest.raises(InputError, match="no rule for ScaledDotProduct"):
        ops.scaled_dot_product_attention(x, x, x, None)


# ---- sizes in whole groups -----------------------------------------------------------------


def test_rounding_up() -> None:
    b, s = symbol("B"), symbol("S")
    assert ceiling(129, 64) == 3
    assert ceiling(128 * b * s, 64) == 2 * b * s
    size = ceiling(96 * b * s + 7, 64)
    assert isinstance(size, Poly)
    assert size == ceiling(96 * b * s + 7, 64)
    assert size.evaluate({"B": 3, "S": 5}) == size.substitute({"B": 3, "S": 5}) == 23
    assert list(size.evaluate({"B": 3, "S": np.array([1, 5])})) == [5, 23]


def test_formulas_in_whole_groups_as_sympy(tmp_path: Path) -> None:
    plan = parse_plan({"model": write_config(tmp_path, {}), "batch": 2, **INT8})
    expression = to_sympy(formula(compile_plan(plan), "saved"))
    for batch, seq in ((2, 33), (5, 7)):
        exact = estimate(plan.model_dump() | {"batch": batch, "seq": seq}).bytes["saved"]
        assert expression.subs({s: {"B": batch, "S": seq}[s.name] for s in expression.free_symbols}) == exact
