"""The published runs of ``docs/measured/published``: each one's plan, its measured and its predicted bytes.

``runs`` asks for every prediction now; ``recorded_bytes.published`` has those that are recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml

from estimator.answers.estimate import estimate
from estimator.answers.result import Result
from estimator.errors import InputError
from estimator.plans.plan import parse_plan
from tests.helpers.files import DOCS

FOLDER = DOCS / "measured" / "published"
PHASES = {
    "allocated_after_load": "after load",
    "allocated_forward_peak": "forward",
    "allocated_backward_peak": "backward",
    "allocated_step_peak": "optimizer step",
    "allocated_at_end": "after step",
}
"""Published figures of one phase: allocated bytes when it has ended, or the largest in it."""
METRICS = ("allocated_peak", "reserved_peak", "process", *PHASES)
BARS = {
    ("peft-metamathqa", "reserved_peak"): 0.005,
    ("fitcheck-t4", "allocated_peak"): 0.01,
    ("fitcheck-t4", "process"): 0.04,
    ("vramcalc-a6000", "allocated_peak"): 0.005,
    ("fms-acceleration", "allocated_peak"): 0.005,
    ("fms-acceleration-granite", "allocated_peak"): 0.005,
    ("fms-acceleration-liger", "allocated_peak"): 0.005,
    ("fms-acceleration-fsdp", "allocated_peak"): 0.03,
    ("fms-acceleration-granite-fsdp", "allocated_peak"): 0.03,
    ("litgpt-config-hub", "allocated_peak"): 0.03,
    ("litgpt-resource-tables", "allocated_peak"): 0.03,
}
"""What a prediction may be off, by source and metric; beyond it a run is an outlier."""


@dataclass(frozen=True)
class Run:
    """One published run and what is predicted for it. Sizes are bytes."""

    source: str
    name: str
    plan: dict[str, Any]
    measured: dict[str, int]
    predicted: dict[str, int]
    refused: str
    """Why there is no prediction."""
    held_out: bool
    mislabelled: str
    notes: str
    outlier: str
    """Why the prediction is far off, where that is known."""
    incomplete: str
    """What its publication does not state, if that decides its figure, so that the prediction is a bound."""
    outcome: str
    """``completed`` or ``oom``, where that is all that was published."""
    fits: bool | None

    @property
    def shared(self) -> bool:
        """Whether several processes shared the model."""
        return "sharding" in self.plan

    def error(self, metric: str) -> float | None:
        """Predicted against measured, as a share."""
        if metric not in self.measured or metric not in self.predicted:
            return None
        return self.predicted[metric] / self.measured[metric] - 1


def sources() -> list[str]:
    """The names of the tables."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


Answer = Callable[[str, dict[str, Any]], Mapping[str, Any]]
"""From a run's name and plan, figures by name: those of a result, ``budget_bytes``, and each phase's end as
``"forward, allocated"``. Raises ``InputError``.
"""


@cache
def runs(source: str) -> tuple[Run, ...]:
    """Every run of a table, predicted from its plan."""
    return tuple(answered(source, lambda _, plan: figures(estimate(parse_plan(plan)))))


def figures(result: Result) -> dict[str, Any]:
    """An answer's figures by name."""
    phases = {
        f"{phase.name}, {key}": getattr(phase, key) for phase in result.phases for key in ("allocated", "reserved")
    }
    return {**result.bytes, "budget_bytes": result.budget_bytes, **phases}


def answered(source: str, answer: Answer) -> list[Run]:
    """Every run of a table with an answer's figures."""
    table = _table(source)
    return [_run(source, table, row, answer) for row in table["rows"]]


def left_out(source: str) -> dict[str, str]:
    """The published runs without a plan, by name, and why they have none."""
    return {name: str(one["why"]) for one in _table(source).get("left_out", ()) for name in one["rows"]}


def plans(source: str) -> dict[str, dict[str, Any]]:
    """The plan of every run of a table, by the run's name."""
    table = _table(source)
    return {row["id"]: _plan(table, row) for row in table["rows"]}


def outside(source: str) -> int:
    """Bytes that every process of a table has beside its context and PyTorch's, as its notes say."""
    return int(_table(source).get("outside", 0))


@cache
def _table(source: str) -> Any:
    return yaml.safe_load((FOLDER / f"{source}.yaml").read_text(encoding="utf-8"))


def _plan(table: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    keys = {**table["common"], **row["plan"]}
    if "lengths" in keys:
        keys.pop("seq", None)
    return keys


def _run(source: str, table: dict[str, Any], row: dict[str, Any], answer: Answer) -> Run:
    keys, measured, subtracted = _plan(table, row), row.get("measured", {}), table.get("subtracted", 0)
    more = {"process": outside(source)}
    predicted: dict[str, int] = {}
    refused, fits = "", None
    try:
        found = answer(row["id"], keys)
        names = {metric: f"{PHASES[metric]}, allocated" if metric in PHASES else metric for metric in METRICS}
        predicted = {
            metric: int(found[name]) - (0 if metric in PHASES else subtracted) + more.get(metric, 0)
            for metric, name in names.items()
            if found.get(name) is not None
        }
        budget = found.get("budget_bytes")
        fits = None if budget is None else int(found["process"]) + more["process"] <= int(budget)
    except InputError as error:
        refused = str(error)
    mislabelled, notes = (str(row.get(key, "")) for key in ("mislabelled", "notes"))
    outlier, incomplete = (_why(table.get(key, []), row["id"]) for key in ("outliers", "incomplete"))
    held_out, outcome = bool(row.get("held_out")), row.get("outcome", "")
    return Run(
        source,
        row["id"],
        keys,
        measured,
        predicted,
        refused,
        held_out,
        mislabelled,
        notes,
        outlier,
        incomplete,
        outcome,
        fits,
    )


def _why(lists: list[dict[str, Any]], name: str) -> str:
    return next((str(one["why"]) for one in lists if name in one["rows"]), "")
