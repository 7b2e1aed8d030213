"""Files of trainers' steps. The witness is the file itself, as it was recorded."""

from __future__ import annotations

import json

import pytest

from estimator.errors import InputError
from estimator.programs.trainer_programs import folder, step_of, steps_of, written


@pytest.mark.parametrize(("trainer", "release"), [("trl-reward", "1.16"), ("llama-factory-kto", "0.9.5")])
def test_what_was_read_is_written_again(trainer: str, release: str) -> None:
    """Of each step what is in none before it."""
    head = json.loads((folder() / f"{trainer}-{release}.json").read_text(encoding="utf-8"))
    steps = {key: step_of(trainer, release, key).program for key in steps_of(trainer, release)}
    assert json.loads(written(release, head["versions"], steps)) == head


def test_a_step_that_there_is_not() -> None:
    """One line that says which there are."""
    assert steps_of("trl-dpo", "0.1") == {}
    known = next(iter(steps_of("trl-dpo", "1.16")))
    assert step_of("trl-dpo", "1.16", known) is step_of("trl-dpo", "1.16", known)
    for key, says in (
        (known._replace(loss_type="nothing"), "loss_type: nothing has no rule with trainer: trl-dpo; known are"),
        (known._replace(reference="other"), "reference: other has no rule with trainer: trl-dpo; known are "),
        (known._replace(generates="x"), "has no rule in this setting"),
    ):
        with pytest.raises(InputError, match=says):
            step_of("trl-dpo", "1.16", key)
    with pytest.raises(InputError, match=r"trl: 0\.1 has no rule with trainer: trl-dpo"):
        step_of("trl-dpo", "0.1", known)
