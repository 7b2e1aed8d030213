"""Answers for a trainer of the user's own, whose step is recorded. Needs PyTorch and transformers."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..plans.flat import nested
from ..plans.plan import parse_plan
from ..plans.resolve import resolve
from ..recorder.trainer_object import recorded
from ..steps.step import run
from ..steps.trainer_step import OtherModel, TrainerStep
from ..trainers.formats import read as read_training_file
from .estimate import to_result
from .result import Result


def of_trainer(trainer: Any, keys: Mapping[str, Any]) -> Result:
    """The answer for a step of a trainer. Its arguments are read as a file of them would be."""
    with tempfile.TemporaryDirectory() as folder:
        own = recorded(trainer, Path(folder))
        reading = read_training_file(str(Path(folder) / "training_args.json"), "training-arguments")
        if reading.problems:
            raise InputError(next(iter(reading.problems.values())))
        given = {name: value for name, value in reading.plan.items() if name != "run"}
        asked = {**given, **own.keys, "model": str(Path(folder) / "config.json")}
        others = {
            name: resolve(parse_plan(nested({**asked, "model": str(path), "dtype": dtype, "method": "full"}, keys)))
            for name, (path, dtype) in own.others.items()
        }
        models = tuple((name, OtherModel(other.step, other.sizes)) for name, other in others.items())
        procedure = TrainerStep(own.step, own.reference, own.rows, every=own.every, others=models)
        resolved = resolve(parse_plan(nested(asked, keys)), procedure)
    plan = resolved.plan.model_copy(update={"model": own.model})
    resolved = resolved._replace(plan=plan)
    return to_result(resolved, run(resolved.step, resolved.sizes(), resolved.method, plan.batch, plan.seq))
