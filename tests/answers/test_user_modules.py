"""What is refused of modules and steps of the user's own. ``recorder/test_user_modules.py`` measures them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")

import estimator  # noqa: E402
from estimator.errors import InputError  # noqa: E402

pytestmark = pytest.mark.extra("trace")


def _with_data() -> Any:
    module = torch.nn.Linear(4, 4)

    def train() -> None:
        module(torch.empty(2, 4)).sum().backward()
        torch.optim.SGD(module.parameters()).step()

    return estimator.step(train)


def _without_backward() -> Any:
    module = torch.nn.Linear(4, 4, device="meta")
    return estimator.step(lambda: module(torch.empty(2, 4, device="meta")))


def _of_vectors() -> Any:
    return estimator.record(torch.nn.Linear(4, 4), {"input": torch.empty(2, 4)})


def _that_reads() -> Any:
    class Reads(torch.nn.Module):  # type: ignore[misc]
        def forward(self, x: Any) -> Any:
            return x.mean() if (x * 2).sum() > 0 else x.sum()

    return estimator.record(Reads(), {"x": torch.empty(2, 4)})


def _of_another_key() -> Any:
    return estimator.record(torch.nn.Linear(4, 4), {"input": torch.empty(2, 4)}, checkpointing="layer")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (_with_data, "build modules, optimizers and batches under"),
        (_without_backward, "calls no loss.backward"),
        (_of_vectors, "gives no loss"),
        (_that_reads, "reads numbers that it has computed"),
        (_of_another_key, "'checkpointing' does not act on a module of your own"),
        (lambda: estimator.record(None, {}), "None is no torch.nn.Module"),
        (
            lambda: estimator.record(torch.nn.Linear(4, 4), [torch.empty(2, 4)]),
            "give a mapping of the arguments by name",
        ),
        (lambda: estimator.step(None), "None is no function"),
    ],
)
def test_refusals(answer: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as refused:
        answer()
    assert len(str(refused.value).splitlines()) == 1
