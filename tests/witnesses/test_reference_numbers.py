"""The modules and optimizers that stand for libraries compute what their papers say. Witness: a plain formula.

What they save and allocate is measured in the tests of methods, bases and optimizers.
"""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from torch import nn  # noqa: E402

from estimator.plans.plan import parse_plan  # noqa: E402
from estimator.plans.resolve import Resolved, resolve  # noqa: E402
from estimator.witnesses.reference import activations, lars, mezo, optimizers, savings  # noqa: E402
from estimator.witnesses.reference.packed import AwqLinear, GptqLinear  # noqa: E402
from tests.cases.small_models import write_config  # noqa: E402

F64 = torch.float64
ORDER = (0, 4, 1, 5, 2, 6, 3, 7)
"""Where the eight values of AWQ's int32 are."""


@pytest.fixture(autouse=True)
def _same_numbers(one_thread: None) -> None:
    torch.manual_seed(7)


# -- packed weights ----------------------------------------------------------------------------------------------------


def nibble(word: Any, place: int) -> int:
    return int(word) >> 4 * place & 15


@pytest.mark.parametrize("group", [8, -1])
@pytest.mark.parametrize("bias", [True, False])
def test_gptq(group: int, bias: bool) -> None:
    layer = GptqLinear(nn.Linear(16, 24, bias=bias), torch.float32, group)
    size = 16 if group == -1 else group
    weight = torch.tensor([
        [
            float(layer.scales[i // size, j])
            * (nibble(layer.qweight[i // 8, j], i % 8) - nibble(layer.qzeros[i // size, j // 8], j % 8))
            for j in range(24)
        ]
        for i in range(16)
    ], dtype=F64)  # fmt: skip
    x = torch.randn(2, 3, 16)
    assert torch.equal(layer.dequantize(), weight.float())
    torch.testing.assert_close(layer(x), (x.to(F64) @ weight + (layer.bias.to(F64) if bias else 0)).float())
    shapes = {name: (tuple(b.shape), b.dtype) for name, b in layer.named_buffers()}
    expected = {
        "qweight": ((2, 24), torch.int32), "qzeros": ((16 // size, 3), torch.int32),
        "scales": ((16 // size, 24), torch.float32), **({"bias": ((24,), torch.float32)} if bias else {}),
        "g_idx": ((16,), torch.int32), "table": ((8,), torch.int32),
    }  # fmt: skip
    assert shapes == expected
    assert not list(layer.parameters())
    assert 0 < float(layer.scales.min()) < float(layer.scales.max()) <= 0.01
    assert min(int(x) for x in layer.qweight.flatten()) >= 0


@pytest.mark.parametrize(
    ("dtype", "given"), [("float32", "float32"), ("bfloat16", "bfloat16"), ("float16", "bfloat16")]
)
@pytest.mark.parametrize("bias", [True, False])
def test_awq(dtype: str, given: str, bias: bool) -> None:
    """In float32 the layer has float16 scales and computes in float16; else it takes its input's dtype, for good."""
    layer = AwqLinear(nn.Linear(16, 24, bias=bias), getattr(torch, dtype), 8)
    half = torch.float16 if given == "float32" else torch.bfloat16
    assert layer.scales.dtype == (torch.float16 if dtype == "float32" else getattr(torch, dtype))
    x = torch.randn(2, 3, 16).to(getattr(torch, given))
    out = layer(x)
    assert out.dtype == x.dtype
    assert {layer.scales.dtype, *([layer.bias.dtype] if bias else [])} == {half}
    weight = torch.tensor([
        [
            (nibble(layer.qweight[i, j // 8], at) - nibble(layer.qzeros[i // 8, j // 8], at)) * float(scale)
            for j in range(24)
            for at, scale in ((ORDER[j % 8], layer.scales[i // 8, j]),)
        ]
        for i in range(16)
    ]).to(half)  # fmt: skip
    assert torch.equal(layer.dequantize(), weight)
    plain = x.to(half).to(F64) @ weight.to(F64) + (layer.bias.to(F64) if bias else 0)
    torch.testing.assert_close(out.to(F64), plain, rtol=2e-2, atol=2e-2)
    assert {name: tuple(b.shape) for name, b in layer.named_buffers() if name != "bias"} == {
        "qweight": (16, 3), "qzeros": (2, 3), "scales": (2, 24)
    }  # fmt: skip


# -- methods -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trains", [True, False])
def test_lars(trains: bool) -> None:
    base = nn.Linear(6, 10)
    layer = lars.LarsLinear(base, 4, 0.5, torch.float32).train(trains)
    assert not layer.lars_B.weight.any()
    assert [float(x) for x in (layer.t_x, layer.t_h, layer.alpha)] == [1.0] * 3
    assert [name for name, m in layer.named_modules() if isinstance(m, nn.Linear) and m.bias is None] == [
        "lars_A", "gate_x", "gate_h", "memory", "lars_B"
    ]  # fmt: skip
    with torch.no_grad():
        layer.lars_B.weight.normal_()
        for x in (layer.t_x, layer.t_h, layer.alpha):
            x.normal_()
    x = torch.randn(3, 5, 6)
    torch.manual_seed(1)
    out = layer(x)
    torch.manual_seed(1)
    pooled = x.sum(1) / 5 + x[:, 4]
    h = nn.functional.layer_norm(pooled @ layer.lars_A.weight.T, (4,), layer.norm.weight, layer.norm.bias)
    gate = 1 / (1 + torch.exp(-(layer.t_x * pooled @ layer.gate_x.weight.T + layer.t_h * h @ layer.gate_h.weight.T)))
    h = h + gate @ layer.memory.weight.T
    if trains:
        h = nn.functional.dropout(h, 0.5)
    up = h @ layer.up.weight.T + layer.up.bias
    assert layer.up.weight.shape == (16, 4)
    h = h + (0.5 * up * (1 + torch.erf(up / 2**0.5))) @ layer.down.weight.T + layer.down.bias
    update = layer.alpha * (h @ layer.lars_B.weight.T)
    torch.testing.assert_close(out, base(x) + update[:, None, :])


def test_lars_of_a_model(tmp_path: Any) -> None:
    """Targets are replaced, what is saved with the adapter is a trainable copy, and all else is frozen."""
    model_folder = write_config(tmp_path / "model", {"num_hidden_layers": 1})
    method = {
        "name": "lars",
        "r": 4,
        "target_modules": ["q_proj", "down_proj"],
        "modules_to_save": ["lm_head"],
        "adapter_dtype": "bfloat16",
    }
    plan = {"model": model_folder, "batch": 1, "seq": 4, "method": method}
    resolved = resolve(parse_plan(plan))
    from estimator.witnesses.reference.model import build_model

    model = build_model(resolved)
    found = {name for name, m in model.named_modules() if isinstance(m, lars.LarsLinear)}
    assert found == {"model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj"}
    trained = {name: p.dtype for name, p in model.named_parameters() if p.requires_grad}
    assert {name.rpartition(".")[0] for name in trained if "lars" not in name and "lm_head" in name} == {
        "lm_head.modules_to_save.default"
    }  # fmt: skip
    own = {name for name in trained if "lm_head" not in name}
    assert all(any(name.startswith(f"{path}.") for path in found) and "base_layer" not in name for name in own)
    assert {trained[name] for name in own} == {torch.bfloat16}
    assert len(own) == 2 * 14


def test_mezo() -> None:
    """Two losses, at either side along a drawn direction, and a step against their difference (algorithm 1)."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.9), nn.Linear(4, 1)).train()
    x, before = torch.randn(5, 3), [p.detach().clone() for p in model.parameters()]
    trained, seen = list(model.parameters())[1:], []

    def loss() -> Any:
        seen.append((model.training, torch.is_inference_mode_enabled(), [p.detach().clone() for p in trained]))
        return model(x).pow(2).sum() * 100

    torch.manual_seed(11)
    mezo.step(loss, model, trained)
    torch.manual_seed(11)
    torch.manual_seed(int(torch.randint(2**31, ())))
    directions = [torch.normal(0.0, 1.0, p.shape) for p in trained]
    assert model.training
    assert [(training, inference) for training, inference, _ in seen] == [(False, True)] * 2
    model.eval()
    sides = []
    for sign, (_, _, there) in zip((1, -1), seen, strict=True):
        for p, old, z, was in zip(trained, before[1:], directions, there, strict=True):
            torch.testing.assert_close(was, old + sign * 1e-3 * z)
            p.data.copy_(old + sign * 1e-3 * z)
        sides.append(float(model(x).pow(2).sum() * 100))
    slope = (sides[0] - sides[1]) / 2e-3
    for p, old, z in zip(trained, before[1:], directions, strict=True):
        p.data.copy_(old)
        mezo_moved = old - 1e-6 * slope * z
        assert (mezo_moved - old).abs().max() > 1e-5
    torch.manual_seed(11)
    mezo.step(lambda: model(x).pow(2).sum() * 100, model.train(), trained)
    for p, old, z in zip(trained, before[1:], directions, strict=True):
        torch.testing.assert_close(p.detach() - old, -1e-6 * slope * z, rtol=2e-2, atol=3e-7)
    assert torch.equal(next(model.parameters()), before[0])


# -- optimizers --------------------------------------------------------------------------------------------------------

SHAPES = ((6, 4), (3, 5), (7,))


def parameters(dtype: Any = torch.float32) -> list[Any]:
    torch.manual_seed(3)
    return [nn.Parameter(torch.randn(shape).to(dtype)) for shape in SHAPES]


def gradients(step: int, dtype: Any = torch.float32) -> list[Any]:
    torch.manual_seed(100 + step)
    return [torch.randn(shape).to(dtype) for shape in SHAPES]


def updated(make: Any, steps: int = 3, dtype: Any = torch.float32) -> tuple[list[Any], Any]:
    """Parameters after some steps, and the optimizer."""
    own = parameters(dtype)
    optimizer = make(own)
    for number in range(steps):
        for p, grad in zip(own, gradients(number, dtype), strict=True):
            p.grad = grad
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return [p.detach() for p in own], optimizer


@pytest.fixture
def large_steps(monkeypatch: pytest.MonkeyPatch) -> float:
    """A learning rate of which something is left in 16 bits."""
    monkeypatch.setattr(optimizers, "LEARNING_RATE", 0.03)
    return 0.03


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_adamw_with_a_wide_copy(dtype: str, large_steps: float) -> None:
    kind = getattr(torch, dtype)
    found, own = updated(optimizers.MasterAdamW, dtype=kind)
    wide = [nn.Parameter(p.detach().float()) for p in parameters(kind)]
    optimizer = torch.optim.AdamW(wide, lr=large_steps)
    for number in range(3):
        for p, grad in zip(wide, gradients(number, kind), strict=True):
            p.grad = grad.float()
        optimizer.step()
    assert all(torch.equal(a, b.detach().to(kind)) for a, b in zip(found, wide, strict=True))
    states = [sorted(state) for state in own.state.values()]
    copies = ["exp_avg", "exp_avg_sq", "master", "step"]
    assert states == [copies if dtype == "bfloat16" else [x for x in copies if x != "master"]] * 3


def test_lion() -> None:
    found, _ = updated(lambda params: optimizers.Lion(params))
    wanted, averages = [p.detach() for p in parameters()], [torch.zeros(shape) for shape in SHAPES]
    for number in range(3):
        for p, m, grad in zip(wanted, averages, gradients(number), strict=True):
            p -= 1e-5 * torch.sign(0.9 * m + 0.1 * grad)
            m.copy_(0.99 * m + 0.01 * grad)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)
    optimizer = optimizers.Lion(parameters())
    assert optimizer.param_groups[0]["weight_decay"] == 0.0
    optimizer.param_groups[0].update(weight_decay=0.5, lr=0.1)
    p = optimizer.param_groups[0]["params"][0]
    before = p.detach().clone()
    for one in optimizer.param_groups[0]["params"]:
        one.grad = torch.ones_like(one)
    optimizer.step()
    torch.testing.assert_close(p.detach(), before * (1 - 0.05) - 0.1)


def test_galore() -> None:
    """AdamW in the space of the largest singular vectors of each gradient, scaled by a quarter."""
    found, optimizer = updated(
        lambda params: optimizers.GaloreAdamW([{"params": params[2:]}, {"params": params[:2], "rank": 2}])
    )
    wanted, moments = [p.detach() for p in parameters()], [None, None, None]
    for number in range(3):
        for i, (p, grad) in enumerate(zip(wanted, gradients(number), strict=True)):
            low, tall = grad, grad.ndim == 2 and grad.shape[0] >= grad.shape[1]
            if grad.ndim == 2:
                u, _, vh = torch.linalg.svd(grad, full_matrices=False)
                low = grad @ vh[:2].T if tall else u[:, :2].T @ grad
            m, v = moments[i] or (torch.zeros_like(low), torch.zeros_like(low))
            moments[i] = m, v = 0.9 * m + 0.1 * low, 0.999 * v + 0.001 * low**2
            update = m / (v.sqrt() + 1e-6)
            if grad.ndim == 2:
                update = 0.25 * (update @ vh[:2] if tall else u[:, :2] @ update)
            p -= 1e-5 * update
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-8)
    shapes = [{name: tuple(x.shape) for name, x in state.items()} for state in optimizer.state.values()]
    assert sorted(map(str, shapes)) == sorted(map(str, [
        {"exp_avg": (7,), "exp_avg_sq": (7,)},
        {"projector": (2, 4), "exp_avg": (6, 2), "exp_avg_sq": (6, 2)},
        {"projector": (3, 2), "exp_avg": (2, 5), "exp_avg_sq": (2, 5)},
    ]))  # fmt: skip


def test_galore_s_update_in_the_subspace() -> None:
    low, ortho = torch.randn(5, 2), torch.randn(2, 3)
    torch.testing.assert_close(optimizers.project_back(low, ortho), 0.25 * low @ ortho)
    low, ortho = torch.randn(2, 5), torch.randn(3, 2)
    torch.testing.assert_close(optimizers.project_back(low, ortho), 0.25 * ortho @ low)
    square = torch.randn(3, 3)
    assert torch.equal(optimizers.projector(square, 2), torch.linalg.svd(square)[2][:2])
    torch.testing.assert_close(optimizers.project(square, square[:2]), square @ square[:2].T)


def test_updates_in_backward() -> None:
    """AdamW's, with no gradient left; LOMO's is gradient descent, in which the last gradient waits for the step."""

    def run(name: str) -> tuple[list[Any], list[bool], Any]:
        own = parameters()
        optimizer = optimizers.make_optimizer(name, [(str(i), p) for i, p in enumerate(own)], 2)
        for _ in range(2):
            sum((p * p.sin()).sum() for p in own).backward()
            left = [p.grad is None for p in own]
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return [p.detach() for p in own], left, optimizer

    found, left, _ = run("adamw-in-backward")
    assert left == [True] * 3
    assert all(torch.equal(a, b) for a, b in zip(found, run("adamw")[0], strict=True))
    found, left, lomo = run("lomo")
    assert left.count(True) == 2
    torch.testing.assert_close(found, run("sgd")[0], rtol=0, atol=1e-9)
    assert lomo.state == {}


def test_what_each_name_makes() -> None:
    """Where matrices within the model are treated otherwise, embeddings, the head and vectors are not."""
    named = [(name, nn.Parameter(torch.ones(shape))) for name, shape in (
        ("model.embed_tokens.weight", (9, 4)), ("model.layers.0.q_proj.weight", (4, 4)),
        ("model.layers.0.norm.weight", (4,)), ("lm_head.weight", (9, 4)),
    )]  # fmt: skip
    frozen = nn.Parameter(torch.ones(5, 5), requires_grad=False)
    named.append(("model.layers.0.k_proj.weight", frozen))
    trained = {id(p) for _, p in named if p.requires_grad}

    def groups(made: Any) -> list[tuple[str, list[int], dict[str, Any]]]:
        several = made.optimizers if isinstance(made, optimizers.Several) else [made]
        keys = ("lr", "foreach", "fused", "momentum", "rank")
        return [
            (type(one).__name__, [id(p) for p in group["params"]], {k: group[k] for k in keys if group.get(k)})
            for one in several
            for group in one.param_groups
        ]

    for name, kind, keys in (
        ("adamw", "AdamW", {}), ("adamw-foreach", "AdamW", {"foreach": True}),
        ("adamw-fused", "AdamW", {"fused": True}),
        ("adamw-master", "MasterAdamW", {}), ("adafactor", "Adafactor", {}), ("lion", "Lion", {}), ("sgd", "SGD", {}),
        ("sgd-momentum", "SGD", {"momentum": 0.9}),
    ):  # fmt: skip
        ((made, params, found),) = groups(optimizers.make_optimizer(name, named, 3))
        assert (made, set(params), found) == (kind, trained, {"lr": 1e-5, **keys})
    hidden = [id(named[1][1])]
    muon = groups(optimizers.make_optimizer("muon", named, 3))
    assert [(kind, params == hidden, keys["lr"]) for kind, params, keys in muon] == [
        ("Muon", True, 1e-5), ("AdamW", False, 1e-5)
    ]  # fmt: skip
    assert {id(p) for p in optimizers.make_optimizer("muon", named, 3).state} == set()
    galore = groups(optimizers.make_optimizer("galore-adamw", named, 3))
    assert [(params == hidden, keys) for _, params, keys in galore] == [
        (False, {"lr": 1e-5}), (True, {"lr": 1e-5, "rank": 3})
    ]  # fmt: skip
    assert len(groups(optimizers.make_optimizer("galore-adamw", named[:1], 3))) == 1
    assert [kind for kind, *_ in groups(optimizers.make_optimizer("muon", named[:1], 3))] == ["AdamW"]
    assert [kind for kind, *_ in groups(optimizers.make_optimizer("muon", named[1:2], 3))] == ["Muon"]


@pytest.mark.extra("quantised")
@pytest.mark.parametrize(
    ("name", "kind"),
    [("adamw-8bit", "AdamW8bit"), ("paged-adamw", "PagedAdamW"), ("paged-adamw-8bit", "PagedAdamW8bit")],
)
def test_bitsandbytes_optimizers(name: str, kind: str) -> None:
    made = optimizers.make_optimizer(name, [("a", nn.Parameter(torch.ones(2, 2)))], 1)
    assert (type(made).__name__, made.param_groups[0]["lr"]) == (kind, 1e-5)


# -- activations as integers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("count", [16, 13])
def test_activations_as_integers(bits: int, count: int) -> None:
    flat, size, levels = torch.randn(count), 8, 2**bits - 1
    held = activations.quantise(flat, bits, size)
    padded = torch.cat([flat, torch.zeros(16 - count)]).view(2, 8)
    codes, wanted = [], []
    for row in padded:
        zero = row.min().bfloat16()
        scale = ((row.max() - row.min()) / levels).bfloat16()
        own = ((row - zero.float()) / scale.float()).round().clamp(0, levels)
        codes.append(own.to(torch.uint8))
        wanted.append(own * scale.float() + zero.float())
    codes = torch.stack(codes)
    packed = codes if bits == 8 else codes[:, 1::2] * 16 + codes[:, ::2]
    assert torch.equal(held.codes, packed)
    assert torch.equal(activations.dequantise(held), torch.cat(wanted)[:count])
    assert (held.count, held.dtype, held.bits, held.scale.dtype) == (count, torch.float32, bits, torch.bfloat16)
    same = activations.quantise(torch.zeros(8), bits, size)
    assert torch.equal(activations.dequantise(same), torch.zeros(8))


def test_which_activations_are_integers() -> None:
    """Floating ones of two dimensions or more that require a gradient, once for each state of a storage."""
    weight = torch.randn(4, 4, requires_grad=True)
    store = activations.Store(8, 16, {weight.untyped_storage()._cdata})
    for kept in (weight, torch.randn(4, requires_grad=True), torch.randn(4, 4), torch.ones(3, 3, dtype=torch.int64)):
        held = store.pack(kept)
        assert held.data_ptr() == kept.data_ptr()
        assert store.unpack(held) is held
        assert activations.held_tensors(held) == (held,)
    x = (weight * 2).t()
    first, part = store.pack(x), store.pack(x[1:, 2:])
    assert first.of is part.of
    assert (part.shape, part.strides, part.offset) == ((3, 2), (1, 4), 9)
    torch.testing.assert_close(store.unpack(part), x[1:, 2:].detach(), atol=0.05, rtol=0.05)
    assert torch.equal(store.unpack(part), store.unpack(first)[1:, 2:])
    assert activations.held_tensors(first) == (first.of.codes, first.of.scale, first.of.zero)
    with torch.no_grad():
        x.add_(1)
    assert store.pack(x).of is not first.of
    again = store.pack(x)
    of = again.of
    del again, first, part
    assert store.pack(x).of is of
    assert store.pack(weight * 3).of is not of


# -- losses and checkpoints --------------------------------------------------------------------------------------------


def of_loss(name: str, head: Any, x: Any, labels: Any, **keys: Any) -> Any:
    plan: Any = SimpleNamespace(loss_chunk=None, num_output_chunks=3, **keys)
    return savings._LOSSES[name](head, x, labels, plan)


@pytest.mark.parametrize("name", ["chunked", "liger", "cce", "ce-chunked-output", "linear-cross-entropy"])
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_losses(name: str, scale: float) -> None:
    """The mean cross entropy of the next tokens that have a label, and its gradients; more rows than one tile has."""
    head, x = nn.Linear(8, 300, bias=False), torch.randn(3, 50, 8, requires_grad=True)
    labels = torch.randint(300, (3, 50))
    labels[0, :9] = labels[2, 31] = -100
    loss = of_loss(name, head, x, labels)
    (loss * scale).backward()
    found = [loss.detach(), x.grad, head.weight.grad]
    other, weight = x.detach().to(F64).requires_grad_(), head.weight.detach().to(F64).requires_grad_()
    logits = (other @ weight.T)[:, :-1].reshape(-1, 300)
    plain = nn.functional.cross_entropy(logits, labels[:, 1:].reshape(-1))
    (plain * scale).backward()
    for got, wanted in zip(found, (plain.detach(), other.grad, weight.grad), strict=True):
        torch.testing.assert_close(got.to(F64), wanted, rtol=2e-4, atol=1e-6)


def test_the_size_of_a_chunk() -> None:
    head, calls = nn.Linear(8, 30), []
    head.register_forward_hook(lambda module, args, out: calls.append(len(args[0])))
    x, labels = torch.randn(2, 20, 8), torch.randint(30, (2, 20))
    savings._chunked(head, x, labels, SimpleNamespace(loss_chunk=16))
    assert calls == [16, 16, 8]


@pytest.mark.parametrize("name", ["liger", "cce"])
def test_losses_of_a_frozen_head_and_of_half_precision(name: str) -> None:
    head, labels = nn.Linear(8, 30, bias=False), torch.randint(30, (2, 7))
    head.weight.requires_grad_(False)
    x = torch.randn(2, 7, 8, requires_grad=True)
    of_loss(name, head, x, labels).backward()
    assert head.weight.grad is None
    assert x.grad.abs().sum() > 0
    for dtype, under in ((torch.bfloat16, False), (torch.float32, True)):
        head = nn.Linear(8, 30, bias=False).to(dtype)
        x = torch.randn(2, 7, 8, dtype=dtype, requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=under):
            loss = of_loss(name, head, x, labels)
        loss.backward()
        logits = (x.detach().to(F64) @ head.weight.detach().to(F64).T)[:, :-1].reshape(-1, 30)
        plain = nn.functional.cross_entropy(logits, labels[:, 1:].reshape(-1))
        torch.testing.assert_close(loss.detach().to(F64), plain, rtol=2e-2, atol=2e-2)
        assert (x.grad.dtype, head.weight.grad.dtype) == (dtype, dtype)


CHECKPOINTS: dict[str, tuple[dict[str, Any], dict[str, int], int]] = {
    "layer": ({"checkpointing": "layer"}, {"q_proj": 2, "gate_proj": 2}, 0),
    "reentrant": ({"checkpointing": "layer", "use_reentrant": True}, {"q_proj": 2, "gate_proj": 2}, 0),
    "every-2": ({"checkpointing": "every-2"}, {"q_proj": 2, "gate_proj": 2}, 2),
    "every-3": ({"checkpointing": "every-3"}, {"q_proj": 2, "gate_proj": 2}, 2),
    "matmul": ({"checkpointing": "matmul"}, {"q_proj": 2, "gate_proj": 2}, 4),
    "attention": ({"checkpointing": "attention"}, {"q_proj": 2, "gate_proj": 1}, 4),
    "mlp in chunks": ({"mlp_chunks": 3}, {"q_proj": 1, "gate_proj": 6}, 12),
}  # fmt: skip
"""Keys of a plan, how often modules run in a step, and how many checkpoints there are beside the library's own."""


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_checkpoints(name: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients are those of the same model without a checkpoint, and modules run as often as they should."""
    from estimator.witnesses.reference.model import build_model

    keys, counts, checkpoints = CHECKPOINTS[name]
    asked: list[dict[str, Any]] = []
    real = savings.checkpoint

    def noted(*args: Any, **options: Any) -> Any:
        asked.append(options)
        return real(*args, **options)

    monkeypatch.setattr(savings, "checkpoint", noted)
    config = write_config(tmp_path / "model", {"num_hidden_layers": 4, "vocab_size": 53})

    def made(**more: Any) -> tuple[Any, Resolved]:
        plan = {"model": config, "batch": 2, "seq": 7, "dtype": "float32", "method": "full", **more}
        resolved = resolve(parse_plan(plan))
        return build_model(resolved), resolved

    plain, _ = made(checkpointing="none")
    model, _ = made(**{"checkpointing": "none", **keys})
    model.load_state_dict(copy.deepcopy(plain.state_dict()))
    ran: dict[str, int] = {}
    for path, module in model.named_modules():
        module.register_forward_hook(lambda *_, path=path: ran.update({path: ran.get(path, 0) + 1}))
    ids = torch.randint(53, (2, 7))
    for one in (plain, model):
        one.train()
        one(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    for p, q in zip(plain.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)
    for word, count in counts.items():
        own = {n for path, n in ran.items() if path.endswith(f".{word}")}
        assert own == {count}, (word, ran)
    assert len(asked) == checkpoints
    assert {options["use_reentrant"] for options in asked} <= {False}
    assert {"context_fn" in options for options in asked} <= {name == "matmul"}
