"""What the ledger asks of the interpreter. Every Python that runs the tests is one more witness."""

from __future__ import annotations

import time
from typing import Any

import pytest

from estimator import operators as ops
from estimator.errors import InputError
from estimator.ledger import Events, Ledger, Tensor, backward, refcounts
from estimator.ledger.graph import record
from estimator.ledger.ledger import FARTHEST, input_of
from estimator.operators import Cpu


def test_the_question_at_import_is_short() -> None:
    start = time.process_time()
    refcounts.check()
    assert time.process_time() - start < 0.002


@pytest.mark.parametrize("count", [1, 9])
def test_an_interpreter_that_counts_otherwise_is_refused(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refcounts, "getrefcount", lambda _: count)
    with pytest.raises(InputError, match=r"counts references in a way .*; use CPython, release 3\.11 to 3\.14$"):
        refcounts.check()


def test_a_temporary_that_outlives_its_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a garbage collector lets go of things later."""
    kept: list[Any] = []

    def late(thing: Any, dead: list[str]) -> list[str]:
        kept.append(thing)
        return list(dead)

    monkeypatch.setattr(refcounts, "_rebinds", late)
    with pytest.raises(InputError, match="counts references"):
        refcounts.check()


def test_of_two_leaves_the_first_one_copies_their_gradient() -> None:
    """``accumulate_grad.h``: while the second one's edge holds it, the first one's gradient is a clone."""
    ledger = Ledger(ops.CPU, events=Events())
    a, b = (ledger.parameter(name, (1000,), "float32", True) for name in "ab")
    backward(ledger, ops.neg(ops.add(a, b)))
    assert ledger.events is not None
    assert ledger.events.sizes == [4000] * 7  # both, sum, result, the gradient one, neg's gradient, the clone
    assert a.grad is not None
    assert b.grad is not None
    assert a.grad.storage is not b.grad.storage
    assert not ledger.events.origins  # unless they are asked for


@pytest.mark.parametrize(
    ("keys", "cost"), [({}, 1), ({"events": Events()}, 2), ({"symbolic": True}, 10)], ids=["plain", "log", "symbols"]
)
def test_a_step_makes_so_many_tensors_at_most(keys: dict[str, Any], cost: int) -> None:
    """Those of a log, and those whose sizes are polynomials, take more time."""
    ledger = Ledger(ops.CPU, **keys, work_left=3 * cost)
    kept = [ledger.empty((3, 5), "float32") for _ in range(3)]
    with pytest.raises(InputError, match="more than 160,000 tensors"):
        kept.append(ledger.empty((3, 5), "float32"))


def test_the_log_says_which_allocations_are_saved() -> None:
    """The first of all, too. With origins, it says where each is made."""
    ledger = Ledger(ops.CPU, events=Events(with_origins=True))
    assert ledger.events is not None
    x = ledger.empty((3, 5), "float32")
    x.requires_grad = True
    y = ops.mul(x, x)
    assert ledger.events.saved == {0}
    assert ledger.events.sizes == [60, 60]
    assert [origin.phase for origin in ledger.events.origins] == ["forward"] * 2
    del y
    assert ledger.events.order == [0, 1, ~1]


@pytest.mark.parametrize(
    ("shape", "strides", "dense"),
    [
        ((4, 6), (6, 1), True),
        ((4, 6), (1, 4), True),
        ((2, 3, 4), (4, 8, 1), True),
        ((1, 6), (7, 1), True),
        ((4, 6), (12, 1), False),
        ((4, 6), (12, 2), False),
        ((5,), (2,), False),
    ],
)
def test_gaps_between_elements(shape: tuple[int, ...], strides: tuple[int, ...], dense: bool) -> None:
    """By hand; those without gaps are the ones whose strides ``torch.empty_like`` keeps."""
    whole = Ledger(ops.CPU).empty((99,), "float32")
    assert Tensor(whole.storage, shape, "float32", strides).is_dense == dense


def test_an_operator_within_another_runs_under_the_outer_ones_name() -> None:
    """As in a profile: what is saved for either is the outer one's."""
    ledger = Ledger(ops.CPU)
    x = ledger.parameter("w", (3,), "float32", requires_grad=True)
    names: list[str] = []

    def inner() -> Tensor:
        names.append(ledger.running)
        return ledger.empty((3,), "float32")

    def outer() -> Tensor:
        return record("Inner", inner, (x,), (), lambda call: (None,))

    record("Outer", outer, (x,), (), lambda call: (None,))
    record("Inner", inner, (x,), (), lambda call: (None,))
    assert (names, ledger.running) == (["Outer", "Inner"], "")


def test_what_the_graph_says_of_an_input() -> None:
    """The only leaf that a gradient reaches, and by way of which operators; of two leaves none is named."""
    ledger = Ledger(ops.CPU)
    a, b = (ledger.parameter(name, (4, 5), "float32", True) for name in "ab")
    assert input_of(ledger.parameter("c", (4,), "float32", False)) == (False, "", ())
    assert input_of(a) == (True, "a", ())
    turned = ops.neg(ops.neg(a))
    assert (input_of(turned).parameter, len(input_of(turned).through)) == ("a", 2)
    assert input_of(ops.add(turned, b)) == (True, "", ())
    for _ in range(FARTHEST - 2):
        turned = ops.neg(turned)
    assert input_of(turned).parameter == "a"
    assert input_of(ops.neg(turned)) == (True, "", ())


@pytest.mark.parametrize("on_host", [False, True])
def test_a_shard_takes_the_place_of_a_parameter(on_host: bool) -> None:
    """By hand: a quarter of it rests here or on the host; the whole has no bytes until it is given some."""
    ledger, host = Ledger(ops.CPU), Ledger(ops.CPU)
    first, whole, last = (ledger.parameter(name, (8, 3), "bfloat16", True, added=True) for name in "abc")
    whole.copies, whole.unreached = 5, True
    local = ledger.shard(whole, (2, 3), host if on_host else None)
    assert (local.nbytes, local.storage.resident, local.storage.ledger is host) == (2 * 3 * 2, True, on_host)
    assert (local.name, local.copies, local.added, local.unreached, local.requires_grad) == ("b", 5, True, True, True)
    assert local.whole is whole
    assert (whole.storage.nbytes, whole.storage.resident) == (0, False)
    assert [id(p) for p in ledger.parameters] == [*map(id, (first, last) if on_host else (first, local, last))]
    assert [id(p) for p in host.parameters] == ([id(local)] if on_host else [])


def test_a_backward_pass_leaves_no_place_behind() -> None:
    """What is allocated after it belongs to no layer, no pass of a loop and no module."""
    ledger = Ledger(Cpu(), events=Events(with_origins=True))
    ledger.scope, ledger.segment, ledger.turn = "a layer", 3, 5
    y = ops.sum(ops.exp(ledger.parameter("x", (4, 7), "float32", True)))
    ledger.segment, ledger.turn = -1, 0
    backward(ledger, y)
    made = ledger.empty((3,), "float32")
    assert ledger.events is not None
    assert (ledger.events.segments[-1], ledger.events.turns[-1], made.storage.nbytes) == (-1, 0, 12)
    assert (ledger.within, ledger.running, ledger.grad_enabled) == ("", "", True)
