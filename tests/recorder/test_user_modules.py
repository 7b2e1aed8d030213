"""Answers for modules and steps of the user's own, against measured steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")

import estimator  # noqa: E402
from estimator.operators import THREADS  # noqa: E402
from estimator.witnesses.measure import allocator_events, peak_of  # noqa: E402

pytestmark = pytest.mark.extra("trace")


class Residual(torch.nn.Module):  # type: ignore[misc]
    """Layers of norm, linear and activation, with a classifier and its loss."""

    def __init__(self, layers: int = 6) -> None:
        super().__init__()
        self.first = torch.nn.Linear(64, 256)
        self.blocks = torch.nn.ModuleList(
            torch.nn.Sequential(torch.nn.LayerNorm(256), torch.nn.Linear(256, 256), torch.nn.ReLU())
            for _ in range(layers)
        )
        self.last = torch.nn.Linear(256, 10)

    def forward(self, x: Any, y: Any) -> Any:
        h = self.first(x)
        for block in self.blocks:
            h = h + block(h)
        return torch.nn.functional.cross_entropy(self.last(h), y)


def measured_peak(step: Callable[[], Any]) -> int:
    """The peak above what is resident, of the third of three steps."""
    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        step()
        step()
        return peak_of(allocator_events(step))[0]
    finally:
        torch.set_num_threads(threads)


def batch(device: str = "cpu") -> dict[str, Any]:
    return {
        "x": torch.empty(512, 64, device=device),
        "y": torch.zeros(512, dtype=torch.int64, device=device),
    }


def test_module() -> None:
    """Witness: measurement. A module of the user's own, whose equal layers are run once and counted."""
    module = Residual()
    result = estimator.record(module, batch())
    optimizer = torch.optim.AdamW(module.parameters())

    def train() -> None:
        given = batch()
        out = module(**given)
        out.backward()
        optimizer.step()
        optimizer.zero_grad()
        del given, out

    assert result.bytes["peak_above_resident"] == pytest.approx(measured_peak(train), abs=64)
    assert result.bytes["parameters"] == sum(p.nbytes for p in module.parameters())
    assert result.bytes["optimizer"] == sum(s.nbytes for p in optimizer.state.values() for s in p.values())
    assert module.first.weight.device.type == "cpu", "the module is left as it was"


class Hooked(torch.nn.Module):  # type: ignore[misc]
    """Two large layers, and a hook that takes a part out of the gradient of the first one's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = torch.nn.Linear(300, 500), torch.nn.Linear(500, 10)
        self.basis = torch.nn.Buffer(torch.zeros(500, 200))
        self.first.weight.register_hook(lambda grad: grad - self.basis @ (self.basis.T @ grad))

    def forward(self, x: Any, y: Any) -> Any:
        return torch.nn.functional.cross_entropy(self.last(self.first(x)), y)


def test_a_hook_on_a_gradient() -> None:
    """Witness: measurement. The peak is in the hook, which holds its projection and the gradient it was given."""
    module = Hooked()

    def given() -> dict[str, Any]:
        return {"x": torch.empty(4, 300), "y": torch.zeros(4, dtype=torch.int64)}

    result = estimator.record(module, given(), optimizer="sgd")
    optimizer = torch.optim.SGD(module.parameters())

    def train() -> None:
        inputs = given()
        loss = module(**inputs)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        del inputs, loss

    assert result.bytes["peak_above_resident"] == pytest.approx(measured_peak(train), abs=64)
    assert result.bytes["peak_above_resident"] > 3 * module.first.weight.nbytes


@pytest.mark.consistency
def test_module_on_a_gpu() -> None:
    result = estimator.record(Residual(), batch(), device="rtx-4090")
    assert result.fits
    assert result.bytes["allocated_peak"] > result.bytes["peak"]


OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "adamw": torch.optim.AdamW,
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adafactor": torch.optim.Adafactor,
    "rmsprop": torch.optim.RMSprop,
}


def step_of(optimizer: Callable[[Any], Any], device: str) -> Callable[[], None]:
    """A step with two micro-batches, clipping and the optimizer."""
    with torch.device(device):
        module = Residual(2)
    updates = optimizer(module.parameters())

    def train() -> None:
        for _ in range(2):
            loss = module(**batch(device))
            loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        updates.step()
        updates.zero_grad()

    return train


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_step(name: str) -> None:
    """Witness: measurement. A step that the user wrote, with their optimizer and their accumulation."""
    result = estimator.step(step_of(OPTIMIZERS[name], "meta"))
    assert result.bytes["peak_above_resident"] == pytest.approx(measured_peak(step_of(OPTIMIZERS[name], "cpu")), abs=64)
    assert result.bytes["gradients"] == result.bytes["parameters"]


@pytest.mark.consistency
def test_step_on_a_gpu() -> None:
    result = estimator.step(step_of(torch.optim.AdamW, "meta"), device="h100-80gb")
    assert result.bytes["reserved_peak"] >= result.bytes["allocated_peak"] > result.bytes["peak"]
    assert [phase.name for phase in result.phases][-1] == "after step"
