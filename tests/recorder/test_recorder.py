"""What the recorder writes down of small modules.

Nothing here is a size: that a program's bytes are right is compared with measured steps elsewhere.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy
import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaAttention

from estimator.errors import InputError
from estimator.programs.program import (
    LOSS,
    Autocast,
    Call,
    Drop,
    DtypeOf,
    Enter,
    Event,
    Exit,
    Function,
    GradMode,
    Program,
    Ref,
    Stored,
    Weight,
)
from estimator.programs.step import Step
from estimator.recorder.calls import record
from estimator.recorder.calls.assembling import _drawn, _dtype, layers_as_checkpointed, stacks_among
from estimator.recorder.calls.data import tensors_in
from estimator.recorder.calls.marks import storage_of
from estimator.recorder.calls.noted_interfaces import Cache
from estimator.recorder.calls.results import Results
from estimator.recorder.hugging_face import HuggingFaceModel
from tests.cases.causal_classes import CLASSES


class Calls(nn.Module):
    """A module whose forward pass is a function of its weight and of its input."""

    def __init__(self, function: Callable[..., Any], *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape or (4, 4), device="meta"))
        self.function = function

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(self.weight, x)


def recorded(function: Callable[..., Any], *shape: int, inputs: tuple[int, ...] = (2, 6), **options: Any) -> Program:
    """The program of ``function(weight, ids)``."""
    model = Calls(function, *shape)
    ids = torch.empty(inputs, dtype=torch.int64, device="meta")

    def call() -> Mapping[str, Any]:
        return {"out": model(ids)}

    return record(model, {"input_ids": ids}, call, **options)


def events_of(program: Program) -> Sequence[Event]:
    return program.before


def calls(events: Sequence[Event]) -> Iterator[Call]:
    return (event for event in events if isinstance(event, Call))


def names(program: Program) -> list[str]:
    """The functions that are called, in their order."""
    return [call.op for call in calls(events_of(program))]


def last(program: Program) -> Call:
    return list(calls(events_of(program)))[-1]


# -- names and their deaths --------------------------------------------------------------------------------------------


def test_a_model_keeps_so_many_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A length that was asked before others is recorded again, and the same."""
    monkeypatch.setattr("estimator.recorder.hugging_face._MOST_PROGRAMS", 2)
    model = HuggingFaceModel({**CLASSES["llama"], "model_type": "llama"}, "the config")
    step = Step(family="llama", dtype="float32")
    first = model.at(step, 2, 5)
    assert model.at(step, 2, 5) is first
    for seq in (6, 7, 8):
        model.at(step, 2, seq)
    assert len(model._programs) == 2
    assert model.at(step, 2, 5) == first


def test_a_name_dies_where_python_drops_it() -> None:
    def function(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        a = w.exp()
        b = a.sin()
        del a
        return b.cos()

    events = [e for e in events_of(recorded(function)) if isinstance(e, (Call, Drop))]
    first = next(e for e in events if isinstance(e, Call) and e.op == "exp")
    order = [e.op if isinstance(e, Call) else e.slot for e in events]
    assert order.index("sin") < order.index(first.out[0].slot) < order.index("cos")


def test_data_of_a_weight_that_is_set() -> None:
    """The old data go where the new ones come, so the bytes of the new name's death stand for theirs."""

    def function(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        w.data = w.detach().clone()
        return w.exp()

    assert names(recorded(function)) == ["detach", "clone", "exp"]

    def larger(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        w.data = torch.zeros(5, 5)
        return w.exp()

    with pytest.raises(InputError, match="sets data of a tensor"):
        recorded(larger)


def test_a_result_that_is_its_operand_gets_a_name_of_its_own() -> None:
    program = recorded(lambda w, x: w.exp().contiguous())
    exp, contiguous = calls(events_of(program))
    assert contiguous.args == (Ref(exp.out[0].slot),)
    assert contiguous.out[0].slot != exp.out[0].slot


def test_in_place_operators_give_the_same_name_back() -> None:
    exp, add = calls(events_of(recorded(lambda w, x: w.exp().add_(1))))
    assert (add.op, add.out[0].slot) == ("add_", exp.out[0].slot)


# -- in place ----------------------------------------------------------------------------------------------------------


def test_a_write_to_a_view_makes_its_base_require_a_gradient() -> None:
    asked: list[bool] = []

    def function(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        base = torch.zeros(4, 4)
        other = base[1]
        asked.append(base.requires_grad)
        base[0].add_(w[0])
        asked.extend((base.requires_grad, other.requires_grad, base.detach().requires_grad))
        return base

    recorded(function)
    assert asked == [False, True, True, False]


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (lambda y, w: y.__setitem__((slice(None), 0), w[0]), ["select", "copy_"]),
        (lambda y, w: y.__setitem__((Ellipsis, slice(1, 3)), w[:, 1:3]), ["slice", "copy_"]),
        (lambda y, w: y.__setitem__(0, 1.0), ["select", "fill_"]),
        (lambda y, w: y.__setitem__(torch.tensor([0, 2]), w[:2]), ["index_put_"]),
    ],
)
def test_items_are_written_through_views(write: Callable[..., None], expected: list[str]) -> None:
    def function(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        y = w.exp()
        write(y, w)
        return y

    found = names(recorded(function))
    assert [op for op in found if op in ("copy_", "fill_", "index_put_")] == expected[-1:]
    assert set(expected) <= set(found)


# -- indexing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("index", "expected", "shape"),
    [
        (0, ["select"], (5, 6)),
        (slice(1, 3), ["slice"], (2, 5, 6)),
        (slice(None), ["alias"], (4, 5, 6)),
        (None, ["unsqueeze"], (1, 4, 5, 6)),
        ((Ellipsis, None, 2), ["unsqueeze", "select"], (4, 5, 1)),
        ((slice(None), -1, slice(0, 6, 2)), ["select", "slice"], (4, 3)),
        ([0, 2], ["tensor", "index"], (2, 5, 6)),
        ((slice(None), [0, 2, 3]), ["tensor", "index"], (4, 3, 6)),
        (Ellipsis, ["alias"], (4, 5, 6)),
    ],
)
def test_forms_of_an_index(index: Any, expected: list[str], shape: tuple[int, ...]) -> None:
    program = recorded(lambda w, x: w[index], 4, 5, 6)
    assert names(program) == expected
    assert last(program).out[0].shape == shape


def test_an_index_by_a_mask_that_is_known() -> None:
    program = recorded(lambda w, x: w[torch.arange(4) < 3])
    assert last(program).out[0].shape == (3, 4)


# -- what is known of data ---------------------------------------------------------------------------------------------


def answer(function: Callable[[torch.Tensor], Any], **options: Any) -> Any:
    """What a module reads of its token ids."""
    found = []

    def read(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        found.append(function(x))
        return w.exp()

    recorded(read, **options)
    return found[0]


def test_sizes_and_constants_are_known() -> None:
    assert answer(lambda x: torch.arange(5).sum().item()) == 10
    assert answer(lambda x: torch.ones_like(x).cumsum(-1)[:, -1].tolist()) == [6, 6]
    assert answer(lambda x: bool((torch.zeros(3) == 0).all())) is True
    assert answer(lambda x: int(torch.full((), 7))) == 7
    assert answer(lambda x: torch.arange(6).view(2, 3).nonzero().shape) == (5, 2)
    assert answer(lambda x: [len(i) for i in torch.where(torch.eye(3) > 0)]) == [3, 3]


def test_writes_are_followed() -> None:
    def read(x: torch.Tensor) -> Any:
        y = torch.zeros(4, dtype=torch.int64)
        y[1:3] = 1
        y[0].add_(5)
        return y.tolist()

    assert answer(read) == [5, 1, 1, 0]


def test_tokens_are_ordinary_ones() -> None:
    class Config:
        vocab_size = 11

        def to_dict(self) -> dict[str, Any]:
            return {"vocab_size": 11, "pad_token_id": 0, "eos_token_id": [1, 2], "vision": {"image_token_id": 4}}

    model = Calls(lambda w, x: w.exp())
    model.config = Config()
    ids = torch.empty((2, 6), dtype=torch.int64, device="meta")
    found = []

    def call() -> Mapping[str, Any]:
        found.append(sorted(set(ids.flatten().tolist())))
        assert 0 not in ids
        return {}

    record(model, {"input_ids": ids}, call)
    assert found == [[3, 5, 6, 7, 8, 9, 10]]


def test_numbers_that_depend_on_weights_are_refused() -> None:
    with pytest.raises(InputError, match="reads numbers that it has computed"):
        recorded(lambda w, x: w.exp() if w.sum() > 0 else w)
    with pytest.raises(InputError, match="numbers that it has computed"):
        recorded(lambda w, x: w[w > 0])
    with pytest.raises(InputError, match="numbers that it has computed"):
        recorded(lambda w, x: w.nonzero())


def test_what_was_known_is_forgotten_when_unknown_numbers_are_written() -> None:
    def function(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        y = torch.zeros(4, 4)
        y[0] = w[0]
        return w if y.sum() > 0 else y

    with pytest.raises(InputError, match="reads numbers that it has computed"):
        recorded(function)


def test_numbers_are_finite() -> None:
    assert names(recorded(lambda w, x: w.exp() if torch.isinf(w).any() else w.sin()))[-1] == "sin"
    assert names(recorded(lambda w, x: w.exp() if torch.isnan(w).any() else w.sin()))[-1] == "sin"
    assert names(recorded(lambda w, x: w.sin() if torch.isfinite(w).all() else w.exp()))[-1] == "sin"
    assert names(recorded(lambda w, x: w.sin() if torch._is_all_true(w > 0) else w.exp()))[-1] == "sin"


@pytest.mark.parametrize(("routing", "expected"), [("balanced", [3, 3, 3, 3]), ("worst", [6, 6, 0, 0])])
def test_experts_are_chosen_by_the_policy(routing: Any, expected: list[int]) -> None:
    found = []

    def function(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        _, experts = w.softmax(-1).topk(2, dim=-1)
        hit = functional.one_hot(experts, num_classes=4).permute(2, 1, 0)
        found.extend(len(torch.where(hit[i])[0]) for i in range(4))
        return w.exp()

    recorded(function, 6, 4, routing=routing)
    assert found == expected


def test_grouped_products_of_any_dtype() -> None:
    def function(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return functional.grouped_mm(torch.ones(5, 8), w, offs=torch.tensor([2, 5], dtype=torch.int32))

    call = last(recorded(function, 2, 8, 16))
    assert (call.op, call.out[0].shape, call.out[0].dtype) == ("_grouped_mm", (5, 16), "float32")


# -- modes -------------------------------------------------------------------------------------------------------------


def test_grad_mode_is_noted() -> None:
    asked = []

    def function(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            y = w.exp()
            asked.append((y.requires_grad, torch.is_grad_enabled()))
        asked.append((w.exp().requires_grad, torch.is_grad_enabled()))
        return y

    program = recorded(function)
    assert asked == [(False, False), (True, True)]
    assert [e.enabled for e in events_of(program) if isinstance(e, GradMode)] == [False, True]


def test_autocast_gives_its_dtype_and_is_noted_where_it_ends() -> None:
    def function(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        y = w @ w
        with torch.autocast("cpu", enabled=False):
            return y.float() @ w

    model = Calls(function)

    def call() -> Mapping[str, Any]:
        with torch.autocast("cpu", torch.bfloat16):
            return {"out": model(torch.empty(2, device="meta"))}

    program = record(model, {}, call, autocast=torch.bfloat16)
    products = [call for call in calls(events_of(program)) if call.op == "matmul"]
    assert [call.out[0].dtype for call in products] == ["bfloat16", "float32"]
    assert False in [e.enabled for e in events_of(program) if isinstance(e, Autocast)]


def test_the_device_is_the_plans() -> None:
    asked = []
    recorded(lambda w, x: asked.append((w.device.type, w.is_cuda)) or w.exp(), device="cuda")
    assert asked == [("cuda", True)]


# -- custom functions --------------------------------------------------------------------------------------------------


class Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(factor)
        return x * factor

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        (factor,) = ctx.saved_tensors
        return grad * factor, None


class Split(torch.autograd.Function):
    @staticmethod
    def forward(x: torch.Tensor) -> torch.Tensor:
        return x.sin()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        return grad * ctx.saved_tensors[0].cos()


class Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.sin()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        grad.backward()
        return grad


class Two(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> Any:
        return x.sin(), x.cos()


class Sparing(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(None, x)
        return x.sin()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        nothing, x = ctx.saved_tensors
        assert nothing is None
        return grad * x.cos()


def test_a_custom_function_may_save_nothing_in_a_place() -> None:
    program = recorded(lambda w, x: Sparing.apply(w))
    (function,) = (e for e in events_of(program) if isinstance(e, Function))
    assert function.saved[0] is None
    assert [slot >= 0 for slot in function.unpacked] == [False, True]


def test_a_custom_functions_forward_and_backward() -> None:
    program = recorded(lambda w, x: Scaled.apply(w, w.detach()))
    (function,) = (e for e in events_of(program) if isinstance(e, Function))
    assert [call.op for call in calls(function.forward)] == ["mul"]
    assert [call.op for call in calls(function.backward)] == ["mul"]
    assert len(function.saved) == 1
    assert function.results[0] is not None
    assert function.results[1] is None


def test_a_model_s_dtype_is_that_of_most_of_its_elements() -> None:
    half, small = Stored("h", (4, 2), "bfloat16"), Stored("s", (5,), "float32")
    added = Stored("a", (99,), "float16", added=True)
    assert _dtype([half, half, small, small, added]) == "bfloat16"
    assert _dtype([small, half, small, added]) == "float32"
    assert _dtype([added]) == "float32"


def test_a_custom_function_asks_which_gradients_are_needed() -> None:
    class Needed(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *parts: Any) -> torch.Tensor:
            asked.append(ctx.needs_input_grad)
            return parts[0] * parts[1]

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> Any:
            return grad, None, None

    asked: list[tuple[bool, ...]] = []
    recorded(lambda w, x: Needed.apply(w, w.detach(), 3))
    assert asked == [(True, False, False)]


def test_a_custom_function_with_a_context_of_its_own() -> None:
    program = recorded(lambda w, x: Split.apply(w))
    (function,) = (e for e in events_of(program) if isinstance(e, Function))
    assert [call.op for call in calls(function.backward)] == ["cos", "mul"]


@pytest.mark.parametrize(("function", "why"), [(Backward, "a backward pass of its own"), (Two, "several results")])
def test_custom_functions_without_a_rule(function: Any, why: str) -> None:
    with pytest.raises(InputError, match=why):
        recorded(lambda w, x: function.apply(w))


def test_checkpoints_within_a_model_are_refused() -> None:
    with pytest.raises(InputError, match="by hooks"):
        recorded(lambda w, x: torch.utils.checkpoint.checkpoint(torch.sin, w, use_reentrant=False))
    with pytest.raises(InputError, match="by hooks"):  # of a tensor that the step makes, which a checkpoint keeps
        recorded(lambda w, x: torch.utils.checkpoint.checkpoint(torch.sin, torch.zeros(3), use_reentrant=False))


# -- modules -----------------------------------------------------------------------------------------------------------


class Layers(nn.Module):
    def __init__(self, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4, device="meta") for _ in range(depth))
        self.loss_function = lambda x: x.sum()

    def forward(self, x: torch.Tensor) -> Any:
        for layer in self.layers:
            x = layer(x).relu()
        return self.loss_function(x)


def test_layers_are_found_and_equal_ones_are_one_body() -> None:
    model = Layers(5)
    x = torch.empty((2, 4), device="meta")
    program = record(model, {"x": x}, lambda: {"loss": model(x)})
    assert len(program.layers) == 5
    assert [stack.path for stack in program.stacks] == ["layers.{}"]
    assert len(program.bodies) == len(set(program.layers)) < 5
    after = [event.path for event in program.after if isinstance(event, (Enter, Exit))]
    assert after == [LOSS, LOSS]


def test_a_dtype_that_a_module_asks_for_is_its_own() -> None:
    """A cast to the dtype of a tensor follows it under autocast. What another module asked for is not followed."""

    class Casts(nn.Module):
        def __init__(self, own: bool) -> None:
            super().__init__()
            self.own = own

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.to(x.float().dtype if self.own else torch.float32)

    model = nn.ModuleList([Casts(True), Casts(False)])
    x = torch.empty((2, 4), dtype=torch.bfloat16, device="meta")
    program = record(model, {"x": x}, lambda: {"out": model[0](x) + model[1](x)}, interfaces=Cache())
    casts = [call.args[1] for call in calls(program.before) if call.op == "to"][1:]  # after that of float()
    assert [type(dtype) for dtype in casts] == [DtypeOf, str]
    assert casts[0].dtype == casts[1] == "float32"


def test_a_tensor_that_nothing_registered_is_an_attribute() -> None:
    model = Calls(lambda w, x: w + model.plain)
    model.plain = torch.empty(4, device="meta")
    program = record(model, {}, lambda: {"out": model(torch.empty(2, device="meta"))})
    assert [(a.shape, a.dtype) for a in program.attributes] == [((4,), "float32")]


@pytest.mark.parametrize(
    "function",
    [
        lambda a, b: a + b,
        lambda a, b: a.to(torch.float16) @ b,
        lambda a, _: a.contiguous(),
        lambda a, _: a[[0, 1]],
        lambda a, _: torch.split(a.exp(), 2),
        lambda a, _: a.transpose(0, 1),
        lambda a, _: a.mul_(2),
        lambda a, _: a.sum(dim=(0, 1), keepdim=True),
    ],
)
def test_a_result_is_worked_out_once(function: Callable[..., Any]) -> None:
    """Witness: PyTorch. A second result is laid out as the first one; views stay views, and an operand itself."""
    x = torch.empty(3, 4, 5, device="meta").transpose(0, 1)
    y = torch.empty(5, dtype=torch.float16, device="meta")
    results = Results()

    def seen(out: Any) -> list[Any]:
        tensors = tensors_in(out)
        return [(z.shape, z.stride(), z.dtype, z._is_view(), z is x, storage_of(z) == storage_of(x)) for z in tensors]

    first = results.of(function, (x, y), {})
    second = results.of(function, (x, y), {})
    assert seen(function(x, y)) == seen(first) == seen(second)


class Backwards(set[Any]):
    """A set that is walked from its end: one of the orders of a plain one, which is another in each process."""

    def __iter__(self) -> Iterator[Any]:
        return iter(sorted(super().__iter__(), reverse=True))


@pytest.mark.parametrize("model_type", ["gemma3_text", "gemma4_text"])
def test_a_models_sets_are_walked_in_order(model_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gemma 3 walks one in its forward pass, Gemma 4 one that it made with its modules."""
    name = model_type.removesuffix("_text")
    modeling = importlib.import_module(f"transformers.models.{name}.modeling_{name}")
    monkeypatch.setattr(modeling, "set", Backwards, raising=False)
    live = HuggingFaceModel({"model_type": model_type, **CLASSES[model_type]}, "the config")
    program = live.at(Step(model_type, "bfloat16"), 2, 9)
    read = [x.name for event in program.before if isinstance(event, Call) for x in event.args if isinstance(x, Weight)]
    order = [name for name in read if name.endswith("inv_freq")]
    assert len({*order}) == 2
    assert order == sorted(order)


@pytest.mark.parametrize("causal", [None, False, True])
def test_attention_is_causal_where_it_is_told_so(causal: bool | None) -> None:
    """Witness: PyTorch's default."""
    told = {} if causal is None else {"is_causal": causal}
    call = last(recorded(lambda w, x: functional.scaled_dot_product_attention(w, w, w, **told), 1, 2, 4, 8))
    assert (call.op, dict(call.keywords)["is_causal"]) == ("scaled_dot_product_attention", bool(causal))


def test_factors_of_a_product_are_noted_where_they_are_not_one() -> None:
    """Witness: PyTorch's defaults, which are one."""

    def noted(**factors: Any) -> Any:
        call = last(recorded(lambda w, x: torch.addmm(w, w, w, **factors), 4, 4))
        return call.op, dict(call.keywords)

    assert noted() == noted(beta=1, alpha=1.0) == ("addmm", {"beta": False, "alpha": False})
    assert noted(beta=2) == ("addmm", {"beta": True, "alpha": False})
    assert noted(alpha=0) == ("addmm", {"beta": False, "alpha": True})


def test_a_list_without_attention_is_no_stack_beside_layers_with_it() -> None:
    """A tower's mergers may have more parameters than its layers, and run between them."""

    def listed(layer: Callable[[], nn.Module], name: str) -> tuple[nn.ModuleList, list[str]]:
        return nn.ModuleList([layer(), layer()]), [f"{name}.0", f"{name}.1"]

    mergers = listed(lambda: nn.Linear(99, 99), "mergers")
    layers = listed(lambda: LlamaAttention(LlamaConfig(hidden_size=8, num_attention_heads=2), 0), "layers")
    assert stacks_among([mergers, layers], lambda a, b: True) == [layers[1]]
    assert stacks_among([mergers], lambda a, b: True) == [mergers[1]]


def test_what_numpy_draws_is_the_largest_share() -> None:
    """The places of spans lie as far apart as they can, and no layer of an adapter is left out."""
    with _drawn():
        found = [numpy.random.choice(numpy.arange(9), size, replace=False).tolist() for size in (1, 2, 3, 4)]
        assert (numpy.random.random(), numpy.random.rand(2).tolist()) == (1.0, [1.0, 1.0])
    assert found == [[0], [0, 8], [0, 4, 8], [0, 2, 5, 8]]


def test_layers_are_called_as_checkpoints_call_them() -> None:
    """Those of which the parent, and not the layer itself, makes a checkpoint."""
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    model.gradient_checkpointing = model[1].gradient_checkpointing = False
    with layers_as_checkpointed(model):
        for module in (model, model[1]):
            assert module.gradient_checkpointing
            assert module._gradient_checkpointing_func(lambda *args, **keys: (args, keys), 1, a=2) == ((1,), {"a": 2})
        assert not hasattr(model[0], "gradient_checkpointing")
    for module in (model, model[1]):
        assert not module.gradient_checkpointing
        assert not hasattr(module, "_gradient_checkpointing_func")


def test_an_error_of_the_module_is_its_own() -> None:
    """Wrong sizes are no data that are not there."""
    x, y = (torch.empty(shape, device="meta") for shape in ((3, 4), (5, 6)))
    with pytest.raises(RuntimeError, match=r"\[3, 4\] X \[5, 6\]"):
        record(nn.Module(), {"x": x, "y": y}, lambda: {"out": x @ y})
