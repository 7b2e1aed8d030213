"""How a program's events are run. Witness: by hand, the live bytes of a ledger."""

from __future__ import annotations

import pytest

from estimator.errors import InputError
from estimator.ledger import Ledger
from estimator.operators import CPU
from estimator.programs.event_loop import EventLoop, Frame
from estimator.programs.program import Autocast, Call, Drop, Enter, Event, Exit, GradMode, Made, Ref


@pytest.mark.parametrize(
    "call",
    [
        Call("to", (73, "int64"), (), (Made(1, (3,), "int64"),)),
        Call("to", (Ref(0), ((),)), (), (Made(1, (3,), "float32"),)),
        Call("cat", (Ref(0),), (), (Made(1, (3,), "float32"),)),
    ],
)
def test_a_call_that_its_operator_cannot_take_is_one_line(call: Call) -> None:
    """A file of a recorded program may have been changed."""
    ledger, frame = Ledger(CPU), Frame()
    frame[0] = ledger.empty((3,), "float32")
    with pytest.raises(InputError, match=f"this model calls {call.op} in a way that has no rule"):
        EventLoop(ledger).run([call], 0, 1, frame)


def test_a_tensor_lives_from_its_call_until_it_is_dropped() -> None:
    ledger, frame = Ledger(CPU), Frame()
    frame[0] = ledger.empty((64,), "float32")
    events: list[Event] = [
        Call("exp", (Ref(0),), (), (Made(1, (64,), "float32"),)),
        Call("exp", (Ref(1),), (), (Made(2, (64,), "float32"),)),
        Drop(1),
        Call("exp", (Ref(2),), (), (Made(3, (64,), "float32"),)),
    ]
    live = []
    for stop in range(len(events)):
        EventLoop(ledger).run(events, stop, stop + 1, frame)
        live.append(ledger.live // 256)
    assert live == [2, 3, 2, 3]
    assert sorted(frame) == [0, 2, 3]
    with pytest.raises(InputError, match="uses slot 1, which has no tensor there"):
        EventLoop(ledger).run([Call("exp", (Ref(1),), (), (Made(4, (64,), "float32"),))], 0, 1, frame)


def test_modes_are_those_of_the_plan_where_a_program_switches_them_on_again() -> None:
    for grad, dtype in ((True, "bfloat16"), (False, None)):
        ledger = Ledger(CPU)
        ledger.grad_enabled, ledger.autocast = grad, dtype
        loop, found = EventLoop(ledger), []
        loop.start()
        for event in (GradMode(False), Autocast(False), GradMode(True), Autocast(True)):
            loop.run([event], 0, 1, Frame())
            found.append((ledger.grad_enabled, ledger.autocast))
        assert found == [(False, dtype), (False, None), (grad, None), (grad, dtype)]


def test_a_tensor_is_of_the_module_that_runs() -> None:
    """Modules are entered and left in turn; around a replaced one nothing of it is run."""
    ledger, frame = Ledger(CPU), Frame()
    frame[0] = ledger.empty((64,), "float32")
    exp = [Call("exp", (Ref(slot),), (), (Made(slot + 1, (64,), "float32"),)) for slot in range(3)]
    events: list[Event] = [
        *(Enter("a", (Ref(0),), ()), exp[0], Enter("a.b", (Ref(1),), ()), exp[1], Exit("a.b", (Ref(2),))),
        *(exp[2], Exit("a", (Ref(3),))),
    ]
    loop, seen = EventLoop(ledger), []
    loop.watch = lambda path, entered: seen.append((path, entered, ledger.within))
    loop.run(events, 0, len(events), frame)
    assert seen == [("a", True, ""), ("a.b", True, "a"), ("a.b", False, "a.b"), ("a", False, "a")]
    assert ledger.within == ""
    assert ledger.live == 4 * 256
    given: list[object] = []

    def replacement(*args: object) -> object:
        given.append(args)
        return frame[1]

    loop.replaced["a.b"] = replacement  # type: ignore[assignment]
    again = Frame()
    again[0] = frame[0]
    loop.run(events, 0, len(events), again)
    assert given == [(again[1],)]
    assert again[2] is frame[1]
    assert ledger.within == ""
