"""Steps without a backward pass, zeroth-order and forward-mode. Witness: the gradients that PyTorch computes."""

from __future__ import annotations

from pathlib import Path

import torch

from estimator.plans.plan import parse_plan
from estimator.plans.resolve import resolve
from estimator.witnesses.reference import forward_ad, mezo
from estimator.witnesses.reference.model import build_model
from tests.cases.small_models import write_config
from tests.helpers.operator_rules import (
    F32,
)


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
