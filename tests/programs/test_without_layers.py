"""A model that calls its layers more than once: its program has none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from estimator.answers.estimate import estimate
from estimator.errors import InputError
from estimator.plans.plan import parse_plan
from tests.cases.causal_classes import CLASSES


@pytest.mark.parametrize("keys", [{"loss": "chunked"}, {"checkpointing": "every-2"}, {"mlp_chunks": 2}])
def test_what_acts_on_layers_is_refused(keys: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**CLASSES["dory"], "model_type": "dory"}))
    ((key, value),) = keys.items()
    with pytest.raises(InputError, match=f"^{key}: {value} has no rule with a model that calls its layers more than"):
        estimate(parse_plan({"model": str(path), "seq": 12, "dtype": "float32", **keys}))
