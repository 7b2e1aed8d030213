"""Steps of real trainers: what a plan says of them is what they take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cases.trainer_loops import HF_TRAINER, TRAINERS
from tests.helpers.trainer_steps import assert_trainer_step, hf_trainer


@pytest.mark.parametrize(("config", "plan"), [pytest.param(*case, id=name) for name, *case in TRAINERS])
def test_hf_trainer(config: dict[str, Any], plan: dict[str, Any], tmp_path: Path) -> None:
    """Witness: ``Trainer.training_step``, clipping, the optimizer's step and ``zero_grad``."""
    assert_trainer_step(hf_trainer, config, {**HF_TRAINER, **plan}, tmp_path)
