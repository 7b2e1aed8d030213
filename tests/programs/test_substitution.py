"""Numbers, dtypes and rates in place of a program's symbols. Witness: by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from estimator.errors import InputError
from estimator.ledger.sizes import symbol
from estimator.programs.module_table import NamedModule
from estimator.programs.program import Body, Call, Drop, DtypeOf, Made, Program, Rate, Ref, Repeat, Stack, Stored
from estimator.programs.rows import Rows
from estimator.programs.substitution import DTYPE, PASS, at_pass, sizes_symbol, substitute, without_sources

B, S = symbol("B"), symbol("S")
CALL = Call(
    "to", (Ref(0), DtypeOf(0, DTYPE), DtypeOf(1, "float32"), DTYPE, "int64", (B * S, (Rate("dropout"), Rate("other")))),
    (("size", B + 2),), (Made(1, (B, S, 3), DTYPE), Made(2, (), "int64")),
)  # fmt: skip
PROGRAM = Program(
    modules=(NamedModule("a", "linear", (B, 3), False, None, None), NamedModule("b", "container")),
    parameters=(Stored("a.weight", (B, 3), DTYPE, storage=2 * B), Stored("a.bias", (3,), "float32")),
    buffers=(), attributes=(), inputs={}, outputs={}, before=(CALL, Drop(1)), bodies=(Body((CALL,), 0),), layers=(0,),
    after=(), stacks=(Stack("b.{}", 1),), dtype=DTYPE,
)  # fmt: skip


def _called(dtype: str, first: object, second: object) -> Call:
    return Call(
        "to", (Ref(0), first, second, dtype, "int64", (10, (1.0, Rate("other")))), (("size", 4),),
        (Made(1, (2, 5, 3), dtype), Made(2, (), "int64")),
    )  # fmt: skip


def test_all_that_a_program_has() -> None:
    """Dtypes that are a tensor's stay so, until their sources are left out."""
    found = substitute(PROGRAM, {"B": 2, "S": 5}, "float16", {"dropout": 1.0})
    call = _called("float16", DtypeOf(0, "float16"), DtypeOf(1, "float32"))
    assert found == replace(
        PROGRAM,
        modules=(PROGRAM.modules[0]._replace(shape=(2, 3)), PROGRAM.modules[1]),
        parameters=(Stored("a.weight", (2, 3), "float16", storage=4), Stored("a.bias", (3,), "float32")),
        before=(call, Drop(1)), bodies=(Body((call,), 0),), dtype="float16",
    )  # fmt: skip
    plain = _called("float16", "float16", "float32")
    assert without_sources(found) == replace(found, before=(plain, Drop(1)), bodies=(Body((plain,), 0),))
    assert substitute(PROGRAM, {}) == PROGRAM
    own = substitute(PROGRAM, {"B": 2, "S": S})
    assert own.before[0] == CALL._replace(
        args=(*CALL.args[:5], (2 * S, (Rate("dropout"), Rate("other")))), keywords=(("size", 4),),
        out=(Made(1, (2, S, 3), DTYPE), CALL.out[1]),
    )  # fmt: skip


def test_loops_and_rows() -> None:
    made = Call("exp", (Ref(7),), (), (Made(8, (sizes_symbol(PASS) + 1,), "float32"),))
    ran = made._replace(out=(Made(8, (3,), "float32"),))
    assert at_pass(made, 2) == ran
    loop, rows = Repeat(B + 1, 7, 2, (CALL,)), Rows(B, (CALL,))
    found = substitute(replace(PROGRAM, before=(loop, rows)), {"B": 2, "S": 5}, "float16", {"dropout": 1.0}).before
    call = _called("float16", DtypeOf(0, "float16"), DtypeOf(1, "float32"))
    assert found == (loop._replace(count=3, events=(call,)), Rows(2, (call,)))


def test_sizes_that_do_not_fit() -> None:
    """A size is a whole number, and none is below zero unless it is so by what it is."""
    program = replace(PROGRAM, before=(Call("x", (B - 5,), (), ()),), bodies=(), layers=())
    with pytest.raises(InputError, match="is -3 here; the program does not fit these sizes"):
        substitute(program, {"B": 2})
    least = replace(PROGRAM, before=(Call("x", (-1 * B, B - 2), (), ()),))
    assert substitute(least, {"B": 2}).before[0].args == (-2, 0)  # type: ignore[union-attr]
    with pytest.raises(InputError, match="'a b' is no name of a size"):
        sizes_symbol("a b")
    with pytest.raises(InputError, match="is no name of a size"):
        sizes_symbol("größe")
