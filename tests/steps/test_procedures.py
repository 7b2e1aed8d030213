"""Procedures that the project does not have: that of its page, and one of two models in a ledger."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
import torch

from estimator import operators as ops
from estimator.answers.estimate import to_result
from estimator.errors import InputError
from estimator.ledger import backward
from estimator.plans.plan import parse_plan
from estimator.plans.resolve import Resolved, resolve
from estimator.programs import Procedure
from estimator.steps.loop import Loop, Model, zero_grad
from estimator.steps.prefill import Prefill
from estimator.steps.procedures import PROCEDURES
from estimator.steps.step import run
from estimator.steps.trainers import generation_of
from estimator.witnesses.measure import Step, run_step
from estimator.witnesses.reference.model import build_model, build_optimizer, storage_bytes
from tests.cases.small_models import write_config
from tests.helpers.measured_steps import TOLERANCE, assert_measured

PAGE = (Path(__file__).parents[2] / "docs" / "add-a-procedure.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
CONFIG = {"num_hidden_layers": 6, "vocab_size": 3000}


@pytest.fixture
def sam(monkeypatch: pytest.MonkeyPatch) -> type[Procedure]:
    """The page's procedure, as the file and the row that the page asks for."""
    module = ModuleType("estimator.steps.sam")
    module.__package__ = "estimator.steps"
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(BLOCKS[0], vars(module))
    (name, row), *_ = re.findall(r'`"(\w+)": "([\w.]+)"`', PAGE)
    monkeypatch.setitem(PROCEDURES, name, row)
    found: type[Procedure] = module.Sam
    return found


class _SamStep(Step):
    """SAM as its authors' loop has it, with the weights kept as clones."""

    def run(self, keep_gradients: bool = False) -> None:
        batch, weights = self._batch(), []
        for ascends in (True, False):
            out = self._forward(batch)
            self.note_saved = None  # what is called saved is saved by one forward pass
            out.loss.backward()
            if ascends:
                trained = [p for p in self.model.parameters() if p.requires_grad]
                norm = torch.nn.utils.get_total_norm([p.grad for p in trained])
                scale = (0.05 / (norm + 1e-12)).item()
                del norm
                with torch.no_grad():
                    for p in trained:
                        weights.append(p.clone())
                        p.add_(p.grad, alpha=scale)
                self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for p, weight in zip(trained, weights, strict=True):
                p.copy_(weight)
        weights.clear()
        del weight
        self.optimizer.step()
        if not keep_gradients:
            self.optimizer.zero_grad(set_to_none=True)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_procedure_of_the_page(method: str, sam: type[Procedure], tmp_path: Path) -> None:
    """Witness: measurement of the real loop. Of six equal layers, four are run."""
    keys = {"method": method, "batch": 2, "seq": 33, "dtype": "float32"}
    plan = parse_plan({"model": write_config(tmp_path, CONFIG), **keys})
    resolved = resolve(plan)
    resolved = resolved._replace(step=resolved.step._replace(procedure=sam()))
    predicted = to_result(resolved, run(resolved.step, resolved.sizes(), resolved.method, plan.batch, plan.seq))

    def make(resolved: Resolved, model: Any) -> Step:
        return _SamStep(resolved, resolved.spec.config.vocab_size, model, build_optimizer(resolved, model))

    assert_measured(plan, predicted, run_step(resolved, make_step=make), tolerance=TOLERANCE)


@pytest.mark.consistency
def test_what_the_page_asks(sam: type[Procedure]) -> None:
    """The page's last block runs. The weights of before are added to what a plain step has in backward."""
    asked: dict[str, Any] = {}
    exec(BLOCKS[1], asked)
    plan, resolved = asked["plan"], asked["resolved"]
    plain = run(resolved.step, resolved.sizes(), resolved.method, plan.batch, plan.seq)
    peaks = [one.moments["last block backward"][0] for one in (asked["totals"], plain)]
    assert peaks[0] - peaks[1] == plain.parameters


@dataclass(frozen=True)
class Distil(Procedure):
    """The loss is the student's, and the mean squared error of its logits to the teacher's."""

    teacher: Resolved

    runs_backward: ClassVar[bool] = True

    def phases(self, loop: Loop) -> Iterator[str]:
        ledger, student, plan = loop.ledger, loop.model, self.teacher.plan
        step = self.teacher.step._replace(procedure=Prefill())
        teacher = Model(ledger, step, self.teacher.sizes(), self.teacher.method, plan.batch, plan.seq)
        loop.models["teacher"] = teacher
        loop.note_gradients()
        yield "forward"
        batch = student.batch()
        with ledger.no_grad():
            wanted = teacher(batch)[1]
        loss, logits, *_ = student(batch)
        yield "loss"
        ledger.scope = "loss"
        loss = ops.add(loss, ops.mean(ops.square(ops.sub(logits, wanted))))
        loop.note_saved()
        yield "backward"
        backward(ledger, loss)
        yield "update"
        loop.update()
        yield "zero_grad"
        zero_grad(loop.trained)
        yield "end"


class _DistilStep(Step):
    teacher: Any

    def run(self, keep_gradients: bool = False) -> None:
        batch = self._batch()
        with torch.no_grad():
            wanted = self.teacher(batch["input_ids"], use_cache=False).logits
        with self._hooks():
            out = self.model(**batch, use_cache=False)
            loss, logits = out.loss, out.logits
            del out
            loss = loss + (logits - wanted).square().mean()
        loss.backward()
        self.optimizer.step()
        if not keep_gradients:
            self.optimizer.zero_grad(set_to_none=True)


def test_two_models_in_a_ledger(tmp_path: Path) -> None:
    """Witness: measurement of a student of six layers, and a wider teacher of seven."""
    keys = {"batch": 2, "seq": 33, "dtype": "float32"}
    plan = parse_plan({"model": write_config(tmp_path / "student", CONFIG), **keys})
    wider = {**CONFIG, "num_hidden_layers": 7, "hidden_size": 192, "num_attention_heads": 12}
    teacher = resolve(parse_plan({"model": write_config(tmp_path / "teacher", wider), **keys}))
    resolved = resolve(plan)
    step = resolved.step._replace(procedure=Distil(teacher))
    totals = run(step, resolved.sizes(), resolved.method, plan.batch, plan.seq)

    def make(resolved: Resolved, model: Any) -> Step:
        made = _DistilStep(resolved, resolved.spec.config.vocab_size, model, build_optimizer(resolved, model))
        made.teacher = build_model(teacher).requires_grad_(False)
        return made

    measured = run_step(resolved, make_step=make)
    model = build_model(teacher)
    measured["reference"] = storage_bytes(list(model.parameters()))
    measured["buffers"] += storage_bytes(list(model.buffers()))
    assert_measured(plan, to_result(resolved, totals), measured, tolerance=TOLERANCE)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (("trl-dpo", None, 1, 2, 0, 4), (1, 0, False)),
        (("trl-grpo", None, 1, 2, 8, 4), (2, 2, False)),
        (("trl-grpo", None, 2, 2, 8, 4), (2, 4, True)),
        (("trl-grpo", 4, 1, 2, 8, 4), (4, 4, True)),
        (("trl-grpo", 1, 1, 2, 4, 4), (1, 1, False)),
    ],
    ids=str,
)
def test_what_comes_from_one_generation(asked: Any, expected: tuple[int, int, bool]) -> None:
    """By hand: its batches, after how many there is another one, and whether they train more than one update."""
    assert generation_of(*asked) == expected


def test_generations_without_a_rule() -> None:
    with pytest.raises(InputError, match=r"^batch: 4 is not a multiple of num_generations: 8"):
        generation_of("trl-grpo", None, 1, 1, 8, 4)
    with pytest.raises(InputError, match=r"^completions are generated every 3 batches, of which .*: 2 is neither"):
        generation_of("trl-grpo", 3, 1, 2, 2, 4)
