"""Which operators hold what is saved, and for which gradients, held against PyTorch's own graph."""

from __future__ import annotations

import ast
import importlib
from collections import Counter
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from estimator.operators.table import SAVED
from estimator.plans.plan import parse_plan
from estimator.plans.resolve import resolve
from estimator.steps.step import run
from estimator.witnesses.reference.model import build_model
from tests.cases.method_examples import EXAMPLES
from tests.cases.small_models import METHODS, write_config


def holders(keys: dict[str, Any]) -> Counter[str]:
    """By the ledger, of each kind of node: how many tensors its nodes hold that are no parameters or buffers."""
    resolved = resolve(parse_plan(keys))
    totals = run(resolved.step, resolved.sizes(), resolved.method, keys["batch"], keys["seq"], keep_rows=True)
    return Counter(use.operator for use in totals.saved_by)


def holders_in_autograd(keys: dict[str, Any]) -> Counter[str]:
    """The same by PyTorch's graph of the real model. The tensors that Python numbers become are left out."""
    model = build_model(resolve(parse_plan(keys)))
    ids = torch.randint(3, 200, (keys["batch"], keys["seq"]))
    resident = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    found: Counter[str] = Counter()
    stack, seen = [model(input_ids=ids, labels=ids, use_cache=False).loss.grad_fn], set()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        stack += [edge for edge, _ in node.next_functions]
        names = [name for name in dir(node) if name.startswith("_saved_")]
        held = [getattr(node, name) for name in names] if names else [*getattr(node, "saved_tensors", ())]
        for one in held:
            for x in one if isinstance(one, (list, tuple)) else [one]:
                if isinstance(x, torch.Tensor) and x.dtype != torch.float64:
                    found[node.name()] += x.untyped_storage().data_ptr() not in resident
    return +found


WRITTEN = [
    (family, method, dtype, attention)
    for family, method in (("llama", "full"), ("llama", "lora"), ("qwen3", "full"), ("qwen2", "lora-all-dropout"))
    for dtype, attention in (("float32", "sdpa"), ("bfloat16", "eager"))
]


@pytest.mark.parametrize(("family", "method", "dtype", "attention"), WRITTEN)
def test_operators_hold_what_autograd_holds(
    family: str, method: str, dtype: str, attention: str, tmp_path: Path
) -> None:
    """Asks autograd, of families whose programs are written by hand."""
    config = write_config(tmp_path, {"model_type": family, "num_hidden_layers": 3})
    keys = {"model": config, "method": METHODS[method], "dtype": dtype, "attention": attention, "batch": 2, "seq": 9}
    assert holders(keys) == holders_in_autograd(keys)


RECORDED = ("gemma2", "gemma3_text", "gpt2", "mixtral", "olmo2", "phi3")


@pytest.mark.parametrize("family", RECORDED)
def test_operators_of_recorded_families(family: str, tmp_path: Path) -> None:
    """Asks autograd, of families whose programs are recorded."""
    sizes = {"n_embd": 64, "n_head": 4, "n_layer": 3} if family == "gpt2" else {"num_hidden_layers": 3}
    sizes |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    keys = {"model": write_config(tmp_path, {"model_type": family, **sizes}), "dtype": "float32", "batch": 2, "seq": 9}
    assert holders(keys) == holders_in_autograd(keys)


ADAPTERS = ("hira", "loha", "lokr", "miss", "oft", "p_tuning", "prefix_tuning", "randlora", "trainable_tokens", "vera")


@pytest.mark.parametrize("method", ADAPTERS)
def test_operators_of_adapters(method: str, tmp_path: Path) -> None:
    """Asks autograd, of PEFT's own modules."""
    config = write_config(tmp_path, {"num_hidden_layers": 3})
    keys = {"model": config, "method": EXAMPLES[method][0], "dtype": "bfloat16", "batch": 2, "seq": 9}
    assert holders(keys) == holders_in_autograd(keys)


ROOT = Path(__file__).parents[2]
RULES = [
    path
    for folder in ("operators", "bases", "methods", "steps")
    for path in (ROOT / "estimator" / folder).rglob("*.py")
]


def test_every_operator_that_saves_has_a_row() -> None:
    """Asks the rules: whatever node they record with saved tensors, the table has it."""
    named, found = set(), 0
    for path in RULES:
        importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
                continue
            at = {"record": (0, 3), "write": (2, 3)}.get(call.func.id)
            if at is None or len(call.args) <= at[1] or not isinstance(call.args[at[0]], ast.Constant):
                continue
            found += 1
            if ast.unparse(call.args[at[1]]) != "()":
                named.add(call.args[at[0]].value)
    assert found > 80
    assert named <= {*SAVED}


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
        for kept, theirs in zip(SAVED[name].kept, held, strict=True):
            wanted = any(needs[number] for number in kept.wanted)
            assert (getattr(node, f"_saved_{theirs}") is not None) == wanted
