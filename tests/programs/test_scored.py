"""Steps whose completions a model scores. The witness is such a step as it was recorded."""

from __future__ import annotations

from typing import Any

import pytest

from estimator.errors import InputError
from estimator.programs.program import Backward, Drop, Program, renamed
from estimator.programs.rows import LISTS, Rows
from estimator.programs.scored import with_model
from estimator.programs.trainer_calls import Key
from estimator.programs.trainer_programs import has_step, step_of, steps_of


def numbered(program: Program) -> list[Any]:
    """The events outside of loops, backward passes aside, with slots in the order in which they come."""
    slots: dict[int, int] = {}
    found: list[Any] = []
    for event in program.before:
        if isinstance(event, Drop):
            found.append(slots[event.slot] if event.slot < LISTS else event.slot)
        elif not isinstance(event, (Rows, Backward)):
            found.append(
                renamed(event, lambda slot: slot if slot >= LISTS else slots.setdefault(slot, len(slots)), str)
            )
    return sorted(map(str, found))


@pytest.mark.parametrize(("trainer", "autocast"), [("trl-grpo", False), ("trl-grpo", True), ("trl-rloo", False)])
def test_a_recorded_step_follows_from_that_of_functions(trainer: str, autocast: bool) -> None:
    known = steps_of(trainer, "1.16")
    scored = next(key for key in known if key.rewards == 1 and key.autocast == autocast)
    model, functions = (step_of(trainer, "1.16", key).program for key in (scored, scored._replace(rewards=0)))
    assert numbered(with_model(functions, functions, model)) == numbered(model) != numbered(functions)


@pytest.mark.share(3)
def test_every_step_of_functions_has_one_of_a_model() -> None:
    """Of all losses and references, of several updates and beside vLLM."""
    for trainer in ("trl-grpo", "trl-rloo"):
        for key in steps_of(trainer, "1.16"):
            if not key.rewards:
                assert has_step(trainer, "1.16", key._replace(rewards=1))
                calls = [
                    getattr(event, "op", "")
                    for event in step_of(trainer, "1.16", key._replace(rewards=1)).program.before
                ]
                others = [getattr(event, "op", "") for event in step_of(trainer, "1.16", key).program.before]
                assert calls.count("model") == others.count("model") + 1


def test_a_step_that_scores_otherwise() -> None:
    known = steps_of("trl-rloo", "1.16")
    scored = next(key for key in known if key.rewards == 1 and not key.autocast)
    model, functions = (step_of("trl-rloo", "1.16", key).program for key in (scored, scored._replace(rewards=0)))
    other = step_of("trl-reward", "1.16", next(iter(steps_of("trl-reward", "1.16")))).program
    with pytest.raises(InputError, match="the completions are scored otherwise"):
        with_model(other, functions, model)
    assert not has_step("trl-rloo", "1.16", scored._replace(rewards=3))
    with pytest.raises(InputError, match=r"reward_model of 3 models has no rule with trainer: trl-rloo .* give one"):
        step_of("trl-rloo", "1.16", scored._replace(rewards=3))
    assert not has_step("trl-rloo", "1.16", Key("nothing", "none", False, rewards=1))
