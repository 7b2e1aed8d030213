"""Unsloth's autograd functions around a real model on a CPU.

The functions here save and write in place what ``LoRA_MLP``, ``LoRA_W`` and ``Fast_RMS_Layernorm`` do. Unsloth's own
classes (015bdef0), run once on a CPU with their Triton kernels replaced by allocations, took as many bytes: 2,874,724
saved without checkpoints and 944,648 at the peak with them.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from estimator.plans.plan import parse_plan
from estimator.plans.resolve import resolve
from estimator.steps.step import run
from estimator.witnesses.measure import run_step
from estimator.witnesses.reference import savings
from tests.cases.offloading import SMALL
from tests.cases.small_models import write_config
from tests.helpers.figures import assert_figures
from tests.helpers.measured_steps import TOLERANCE

LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def product(x: Any, weight: Any, a: Any, b: Any) -> Any:
    """``matmul_lora``."""
    return (
        x.matmul(weight.t()).view(-1, len(weight)).addmm_((x @ a.t()).view(-1, len(a)), b.t()).view(*x.shape[:-1], -1)
    )


def of_adapter(grad: Any, x: Any, a: Any, b: Any) -> tuple[Any, Any]:
    grad, x = grad.reshape(-1, grad.shape[-1]), x.reshape(-1, x.shape[-1])
    grad_a, grad_b = torch.empty_like(a.t()), torch.empty_like(b.t())
    grad_a.addmm_(x.t(), grad @ b, beta=0)
    grad_b.addmm_(a @ x.t(), grad, beta=0)
    return grad_a.t(), grad_b.t()


class Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, a: Any, b: Any) -> Any:
        ctx.weight = weight
        ctx.save_for_backward(a, b, x)
        return product(x, weight, a, b)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        a, b, x = ctx.saved_tensors
        grads = of_adapter(grad, x, a, b)
        return grad @ ctx.weight, None, *grads


class MLP(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Any, *layers: Any) -> Any:
        gate, up, down = layers[:3], layers[3:6], layers[6:]
        e, g = product(x, *gate), product(x, *up)
        out = product(torch.zeros_like(e), *down)
        ctx.weights = gate[0], up[0], down[0]
        ctx.save_for_backward(*gate[1:], *up[1:], *down[1:], x, e, g)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        *adapters, x, e, g = ctx.saved_tensors
        gate, up, down = ctx.weights
        inner = grad @ down  # then the activation; e and g become the gradients of gate and up
        grads = [of_adapter(own, of, *adapters[i : i + 2]) for i, own, of in ((0, e, x), (2, g, x), (4, grad, inner))]
        flat = x.view(-1, x.shape[-1])
        torch.matmul(g.view(-1, g.shape[-1]), up, out=flat)
        flat.addmm_(e.view(-1, e.shape[-1]), gate)
        return x, *(one for pair in grads for one in (None, *pair))


class Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any) -> Any:
        ctx.save_for_backward(x, weight, torch.zeros(x.shape[:-1]))
        return torch.zeros_like(x)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return grad, None  # written over the incoming one


def parts(layer: Any) -> tuple[Any, ...]:
    return layer.base_layer.weight, layer.lora_A["default"].weight, layer.lora_B["default"].weight


def applied(function: Any, others: tuple[Any, ...], x: Any) -> Any:
    return function.apply(x, *others)


def patched(apply: Any, model: Any, resolved: Any) -> None:
    apply(model, resolved)
    for name, module in model.named_modules():
        if name.endswith("mlp"):
            layers = [part for one in ("gate", "up", "down") for part in parts(getattr(module, f"{one}_proj"))]
            module.forward = partial(applied, MLP, tuple(layers))
        elif hasattr(module, "base_layer"):
            module.forward = partial(applied, Linear, parts(module))
        elif "norm" in name:
            module.forward = partial(applied, Norm, (module.weight,))


@pytest.mark.share(2)
@pytest.mark.parametrize("checkpointing", ["none", "layer"])
def test_a_step(checkpointing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Witness: measurement of autograd functions that save what Unsloth's do: equal to the byte."""
    keys: dict[str, Any] = {
        "checkpointing": checkpointing,
        **({"use_reentrant": True} if checkpointing != "none" else {}),
    }
    lora = {"name": "lora", "r": 4, "target_modules": LAYERS}
    step = {"batch": 2, "seq": 60, "dtype": "float32", "optimizer": "sgd", "method": lora}
    resolved = resolve(parse_plan({"model": write_config(tmp_path / "model", SMALL), **step, **keys}))
    monkeypatch.setattr(savings, "apply", partial(patched, savings.apply))
    found = run_step(resolved)
    totals = run(resolved.step._replace(kernels="unsloth"), resolved.sizes(), resolved.method, 2, 60)
    peak = max(value for values in totals.moments.values() for value in values)  # type: ignore[type-var]
    assert_figures(
        {"saved": totals.saved, "peak_without_matmul_scratch": peak},
        {key: found[key] for key in ("saved", "peak_without_matmul_scratch")},
        {"peak_without_matmul_scratch": TOLERANCE},
    )
