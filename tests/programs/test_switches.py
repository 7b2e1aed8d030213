"""Keys that decide which parameters there are. Witness: by hand, on a model of two layers."""

from __future__ import annotations

from dataclasses import replace

from estimator.programs.module_table import NamedModule
from estimator.programs.program import Body, Call, Made, Program, Ref, Stack, Stored, Weight
from estimator.programs.switches import Switch, switch, switched


def program(bias: bool, tied: bool) -> Program:
    """Two layers of one product each between an embedding and a head."""
    paths = ("layers.0", "layers.1")
    linear = (Ref(1), Weight("{}.q.weight"), Weight("{}.q.bias") if bias else None)
    head = Weight("embed.weight" if tied else "head.weight")
    names = ["embed.weight", *[f"{path}.q.{one}" for path in paths for one in ("weight", "bias")[: 1 + bias]]]
    names += [] if tied else ["head.weight"]
    return Program(
        modules=(
            NamedModule("embed", "embedding", (9, 4)),
            *[NamedModule(f"{path}.q", "linear", (4, 4), bias=bias) for path in paths],
            NamedModule("head", "linear", (9, 4)),
        ),
        parameters=tuple([Stored(name, (4,), "float32") for name in names]),
        buffers=(),
        attributes=(),
        inputs={"input_ids": 0},
        outputs={},
        before=(Call("embedding", (Ref(0), Weight("embed.weight")), (), (Made(1, (4,), "float32"),)),),
        bodies=(Body((Call("linear", linear, (), (Made(2, (4,), "float32"),)),), 0),),
        layers=(0, 0),
        after=(Call("linear", (Ref(2), head), (), (Made(3, (9,), "float32"),)),),
        stacks=(Stack("layers.{}", 2),),
        tied={"head.weight": "embed.weight"} if tied else {},
    )


def test_two_programs_give_a_switch() -> None:
    """The one with more parameters, whichever comes first, and what the other lacks, each layer's by one name."""
    full = program(bias=True, tied=False)
    biases = Switch(True, ("{}.q.bias",), {})
    ties = Switch(True, ("head.weight",), {"head.weight": "embed.weight"})
    for found, fewer in ((biases, program(bias=False, tied=False)), (ties, program(bias=True, tied=True))):
        assert switch(full, fewer) == switch(fewer, full) == (full, found)
        assert switched(full, [found]) == fewer
    assert switched(full, [biases, ties]) == program(bias=False, tied=True)
    assert switched(full, []) is full


def test_programs_that_differ_in_more_give_none() -> None:
    full, fewer = program(bias=True, tied=False), program(bias=False, tied=False)
    assert switch(full, full) is None
    assert switch(full, replace(fewer, routed=True)) is None
    named = replace(full, parameters=(*full.parameters, Stored("scale", (1,), "float32")))
    assert switch(named, full) is None  # a call may be given no bias, and no scale
