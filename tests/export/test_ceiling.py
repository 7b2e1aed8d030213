"""How far reserved memory may lie above its floor: the line over replays. Witness: by hand, on replays made up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import pytest

from estimator.engines.devices import find
from estimator.engines.torch_cuda import engine
from estimator.export import ceiling
from estimator.export.ceiling import Ceiling, ceiling_of
from estimator.export.ceiling import _between as between
from estimator.export.ceiling import _fraction as fraction
from estimator.export.ceiling import _share as share
from estimator.plans.plan import Plan, parse_plan

GPU = {"model": "smollm2-135m", "runtime": "torch-cuda", "device": "rtx-3090", "method": {"name": "lora", "r": 8}}


def test_points_lie_evenly() -> None:
    """Van der Corput's sequence, on a logarithmic scale."""
    assert [fraction(i, 2) for i in range(1, 5)] == [1 / 2, 1 / 4, 3 / 4, 1 / 8]
    assert [fraction(i, 3) for i in (1, 2, 3, 5)] == pytest.approx([1 / 3, 2 / 3, 1 / 9, 2 / 3 + 1 / 9])
    assert [between(16, 4096, part) for part in (0.0, 0.25, 0.5, 1.0)] == [16, 64, 256, 4096]


def test_a_share_covers_every_gap() -> None:
    """The largest of (gap - constant) / bytes held, in thousandths, rounded up; a gap below the constant needs none."""
    rows: list[tuple[int, int, int, dict[str, int]]] = [(50, 1000, 0, {}), (20, 100, 0, {}), (3, 1, 0, {})]
    assert share(rows, 10) == Fraction(100, 1000)
    assert share([*rows, (11, 3, 0, {})], 10) == Fraction(334, 1000)
    assert share(rows, 50) == 0


def replayed(monkeypatch: pytest.MonkeyPatch, card: int, lacking: int) -> tuple[Ceiling, list[dict[str, int]]]:
    """The ceiling of steps that hold ``held`` bytes and reserve 64 and a tenth of that more than a floor of 1,000."""
    asked = []

    def replay(plan: Plan, kept: dict[str, Any]) -> Any:
        point = {"batch": plan.batch, "seq": plan.seq, "r": plan.method.inner.r}
        asked.append(point)
        held = 10 * point["batch"] * point["seq"]
        sizes = {"peak": 2000 + held, "peak_above_resident": held, "process": 3064 + held + held // 10}
        return SimpleNamespace(bytes=sizes)

    def formulas(point: Mapping[str, int]) -> dict[str, int]:
        held = 10 * point["batch"] * point["seq"]
        return {"peak": 2000 + held - lacking, "process_at_least": 3000 + held}

    monkeypatch.setattr(ceiling, "answer", replay)
    monkeypatch.setattr(ceiling, "floors", lambda plan: {"process_at_least": 1000})
    device = replace(find(GPU["device"]), total_bytes=card)
    monkeypatch.setattr(engine, "find", {GPU["device"]: device}.__getitem__)
    return ceiling_of(parse_plan(GPU), ["batch", "seq", "r"], formulas), asked


def test_replays_on_a_line_give_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first point is the smallest, and others reach far; those that the card cannot hold are left out."""
    found, asked = replayed(monkeypatch, 10**9, 0)
    assert asked[0] == {"batch": 1, "seq": 64, "r": 2}
    assert len(asked) == found.replays == 64
    assert found.largest == {name: max(point[name] for point in asked) for name in ("batch", "seq", "r")}
    for name, least, most in (("batch", 12, 16), ("seq", 12000, 16384), ("r", 50, 64)):
        assert least < found.largest[name] <= most
    assert (found.constant, found.share) == (64 + 64, Fraction(100, 1000))
    few, asked = replayed(monkeypatch, 3000 + 10 * 3000, 0)
    assert 1 < few.replays == len(asked) < 64
    assert all(point["batch"] * point["seq"] <= 3000 for point in asked)


def test_the_smallest_step_is_replayed_on_any_card(monkeypatch: pytest.MonkeyPatch) -> None:
    found, asked = replayed(monkeypatch, 0, 0)
    assert asked == [{"batch": 1, "seq": 64, "r": 2}]
    assert (found.constant, found.share, found.replays) == (128, 0, 1)


def test_notes_say_what_formulas_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    spans = "(batch up to 1, seq up to 64, r up to 2)"
    largest = f"process_at_most: the largest gap of 1 replays of this plan {spans}; measured, not proved"
    assert replayed(monkeypatch, 0, 0)[0].notes == (largest,)
    lacks = f"peak_above_resident, peak: in 1 replays of this plan {spans} up to 7,000 B more, partial results of"
    first, second = replayed(monkeypatch, 0, 7000)[0].notes
    assert first.startswith(lacks)
    assert second == largest
