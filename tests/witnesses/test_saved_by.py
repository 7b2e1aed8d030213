"""Which operators hold what is saved, and for which gradients, held against PyTorch's own graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from estimator.answers.reasons import OPERATORS
from estimator.plans.plan import parse_plan
from estimator.plans.resolve import resolve
from estimator.steps.step import run
from estimator.witnesses.reference.model import build_model
from tests.cases.small_models import METHODS, write_config

CASES = [
    (family, method, dtype, attention)
    for family, method in (("llama", "full"), ("llama", "lora"), ("qwen3", "full"), ("qwen2", "lora-all-dropout"))
    for dtype, attention in (("float32", "sdpa"), ("bfloat16", "eager"))
]


@pytest.mark.parametrize(("family", "method", "dtype", "attention"), CASES)
def test_operators_hold_what_autograd_holds(
    family: str, method: str, dtype: str, attention: str, tmp_path: Path
) -> None:
    """Asks autograd: of each kind of node, how many tensors its nodes hold that are no parameters or buffers."""
    config = write_config(tmp_path, {"model_type": family, "num_hidden_layers": 3})
    keys = {"model": config, "method": METHODS[method], "dtype": dtype, "attention": attention, "batch": 2, "seq": 9}
    resolved = resolve(parse_plan(keys))
    totals = run(resolved.step, resolved.sizes(), resolved.method, 2, 9, keep_rows=True)
    ours = Counter(use.operator for use in totals.saved_by)
    model = build_model(resolved)
    ids = torch.randint(0, 500, (2, 9))
    resident = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    theirs: Counter[str] = Counter()
    stack, seen = [model(input_ids=ids, labels=ids, use_cache=False).loss.grad_fn], set()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        stack += [edge for edge, _ in node.next_functions]
        for name in dir(node):
            held = getattr(node, name) if name.startswith("_saved_") else None
            is_number = isinstance(held, torch.Tensor) and held.dtype == torch.float64  # of a Python number
            if isinstance(held, torch.Tensor) and not is_number:
                theirs[node.name()] += held.untyped_storage().data_ptr() not in resident
    assert ours == +theirs


F = torch.nn.functional
FUNCTIONS: dict[str, tuple[Callable[..., Any], list[tuple[int, ...]], tuple[str, ...]]] = {
    "MmBackward0": (torch.mm, [(3, 4), (4, 5)], ("mat2", "self")),
    "BmmBackward0": (torch.bmm, [(2, 3, 4), (2, 4, 5)], ("mat2", "self")),
    "AddmmBackward0": (torch.addmm, [(3, 5), (3, 4), (4, 5)], ("mat2", "mat1")),
    "BaddbmmBackward0": (torch.baddbmm, [(2, 3, 5), (2, 3, 4), (2, 4, 5)], ("batch2", "batch1")),
    "MvBackward0": (torch.mv, [(3, 4), (4,)], ("vec", "self")),
    "DotBackward0": (torch.dot, [(4,), (4,)], ("tensor", "self")),
    "MulBackward0": (torch.mul, [(3, 4), (3, 4)], ("other", "self")),
    "DivBackward0": (torch.div, [(3, 4), (3, 4)], ("self", "other")),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_which_gradients_need_what_is_saved(name: str) -> None:
    """Asks PyTorch's node: it holds a factor if, and only if, an input that the table names needs a gradient."""
    function, shapes, held = FUNCTIONS[name]
    for needs in product((False, True), repeat=len(shapes)):
        if not any(needs):
            continue
        inputs = [torch.ones(shape, requires_grad=need) for shape, need in zip(shapes, needs, strict=True)]
        node = function(*inputs).grad_fn
        assert node.name() == name
        for kept, theirs in zip(OPERATORS[name].saved, held, strict=True):
            wanted = any(needs[number] for number in kept.wanted)
            assert (getattr(node, f"_saved_{theirs}") is not None) == wanted
