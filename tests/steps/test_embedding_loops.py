"""Steps of sentence-transformers' trainer. The witness is its own loop on the CPU, recorded with date and versions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from estimator.answers.estimate import estimate
from estimator.answers.formulas import compile_plan
from estimator.errors import InputError
from estimator.plans import models
from estimator.plans.plan import parse_plan
from tests.cases.embedding_loops import BERT, CASES, RECORD
from tests.helpers.recordings import refuse

MEASURED: dict[str, dict[str, int]] = json.loads(RECORD.read_text(encoding="utf-8"))["steps"]
TEXTS: dict[str, Any] = {"trainer": "sentence-transformers", "dtype": "float32"}


def plan_of(config: dict[str, Any], keys: dict[str, Any], folder: Path) -> Any:
    path = folder / "config.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    return parse_plan({**TEXTS, "model": str(path), **keys})


@pytest.mark.parametrize(("name", "config", "keys"), CASES, ids=[name for name, *_ in CASES])
def test_a_plan_is_what_the_trainer_takes(
    name: str, config: dict[str, Any], keys: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the steps and the programs that come with the package. With DDP one embedding of each anchor is not counted,
    where the peak is in the backward pass of the other texts.
    """
    monkeypatch.setattr(models, "_live", refuse)
    found = estimate(plan_of(config, keys, tmp_path)).bytes
    uncounted = keys["batch"] * config["hidden_size"] * 4 if name == "cosent-autocast, ddp" else 0
    own = {part: found[part] for part in MEASURED[name]}
    assert {**own, "peak_above_resident": own["peak_above_resident"] + uncounted} == MEASURED[name]


def test_every_case_is_measured() -> None:
    assert {name for name, *_ in CASES} == {*MEASURED}


def test_a_formula_is_the_estimate(tmp_path: Path) -> None:
    """In batch and length, at other sizes than the plan's."""
    plan = plan_of(BERT, {"batch": 3, "seq": 40, "anchor_seq": 9, "negatives": 2}, tmp_path)
    formula = compile_plan(plan)
    for batch, seq in ((3, 40), (7, 61), (1, 33)):
        other = plan.model_copy(update={"batch": batch, "seq": seq})
        assert formula.evaluate(batch, seq)["peak"] == estimate(other).bytes["peak"]


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"loss_type": "MegaBatchMarginLoss"}, "loss_type: MegaBatchMarginLoss has no rule .* known are AnglELoss, Co"),
        ({"loss_type": "CoSENTLoss", "negatives": 1}, "negatives: 1 has no rule .* known are 0"),
        ({"loss_type": "TripletLoss", "negatives": 0}, "negatives: 0 has no rule .* known are 1"),
        ({"pooling_mode": "max"}, "pooling_mode: max has no rule .* known are cls, mean"),
        ({"matryoshka_dims": [384, 1]}, "matryoshka_dims: 384 does not go with embeddings of 64 numbers"),
        ({"anchor_seq": 41}, "anchor_seq: 41 does not go with seq: 40"),
        ({"head": "masked-lm"}, "trainer: sentence-transformers has no rule with head: masked-lm"),
        ({"prompt_seq": 3}, "prompt_seq belongs to a trainer of rows with prompts"),
        ({"reference": "copy"}, "reference belongs to trainer: trl-dpo"),
        ({"trl": "1.14"}, "trl belongs to a trainer of TRL"),
        ({"trainer": "trl-dpo", "head": "feature-extraction"}, "trl-dpo has no rule with head: feature-extraction"),
        ({"trainer": "hf-trainer", "normalize": True}, "normalize belongs to trainer: sentence-transformers"),
    ],
)
def test_what_is_refused(keys: dict[str, Any], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("estimator.plans.resolve.installed_release", lambda *_: "")
    with pytest.raises(InputError, match=says):
        estimate(plan_of(BERT, {"batch": 2, "seq": 40, **keys}, tmp_path))
