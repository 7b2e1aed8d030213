"""What exported functions are held against."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from estimator import estimate
from estimator.answers.estimate import live_result
from estimator.export.function import Function
from estimator.export.sweep import ARRAYS
from estimator.plans.flat import nested
from estimator.plans.plan import parse_plan
from estimator.plans.resolve import resolve
from tests.cases.exported_functions import asked


def estimated(f: Function, plan: Mapping[str, Any], values: Mapping[str, int], folder: Path) -> dict[str, int]:
    """The estimate at some values. A model of other sizes is written to the folder as a config.json."""
    keys = asked(plan, values)
    sizes = {name: value for name, value in values.items() if name not in ARRAYS}
    if sizes:
        raw = {**resolve(f.plan).spec.raw, **sizes, "layer_types": None}
        path = folder / "config.json"
        path.write_text(json.dumps(raw))
        keys["model"] = str(path)
    one = parse_plan(nested({}, keys))
    return dict(live_result(one, {}).bytes if one.runtime == "torch-cuda" else estimate(one).bytes)


def shared(f: Function, sizes: Mapping[str, int]) -> dict[str, int]:
    """The components of a function that the estimate has, too: all but a GPU's bounds."""
    return {name: sizes[name] for name in f.components if not name.endswith(("_at_least", "_at_most"))}
