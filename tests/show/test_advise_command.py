"""What ``estimator advise`` says where nothing that it changes is enough."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from estimator import estimate
from estimator.plans.plan import parse_plan
from estimator.show.commands.advise import _shorter


def test_whether_a_shorter_sequence_would_fit() -> None:
    """The shortest has one token: it fits to the byte, or not even it does."""
    plan = parse_plan({"model": "smollm2-135m", "method": "lora", "seq": 512, "batch": 64})
    least = estimate(plan.model_copy(update={"seq": 1})).bytes["process"]

    def said(budget: int) -> str:
        advice: Any = SimpleNamespace(best=SimpleNamespace(plan=plan), budget_bytes=budget)
        return _shorter(advice)

    assert said(least) == "A shorter sequence would fit."
    assert said(least - 1).startswith("A shorter sequence would not do: even one token needs ")
