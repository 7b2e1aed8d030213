"""A training step of mlx-lm: ``tuner/trainer.py: train``, with the loss and the optimizers it calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from . import arrays as mx
from .arrays import Array, scalar
from .compiler import compiled
from .evaluation import Evaluator, constants_of, count_references
from .gradients import vjp
from .models import Block, Model


class Usage(NamedTuple):
    """Bytes of a step."""

    parameters: int
    trained: int
    states: int
    peak: int
    """Above what was there before."""


def prepare(model: Model, method: str, layers: int, rank: int, keys: Sequence[str] | None = None) -> None:
    """Make layers trainable from the last on; 0 or fewer: all (``lora.py: train_model``)."""
    chosen: list[Block] = model.layers[-max(layers, 0) :]
    named = None if keys is None else {key.rpartition(".")[2] for key in keys}
    for layer in chosen:
        if method == "full":
            layer.train()
            continue
        for name, linear in layer.linears.items():
            if named is None or name in named:
                linear.adapt(rank, method == "dora")


def cross_entropy(logits: Array, targets: Array, metal: bool) -> Array:
    """``nn.losses.cross_entropy``."""
    if metal:
        primitive = mx.Primitive("CrossEntropy", (), _cross_entropy_vjp)
        return Array(targets.shape, "float32", primitive, (logits, targets)).astype(logits.dtype)
    logits = logits - mx.stop_gradient(mx.reduce("Max", logits, (-1,), keepdims=True))
    score = mx.squeeze(mx.take_along_axis(logits, mx.expand_dims(targets, -1)), (-1,))
    return mx.logsumexp(logits) - score


def _cross_entropy_vjp(node: Array, cotangents: list[Array]) -> list[Array]:
    logits, targets = node.inputs
    primitive = mx.Primitive("CrossEntropyVJP")
    return [Array(logits.shape, logits.dtype, primitive, (logits, targets, cotangents[0]))]


def default_loss(model: Model, batch: Array, lengths: Array) -> list[Array]:
    """The loss and the number of tokens (``tuner/trainer.py: default_loss``)."""
    tokens = batch.shape[1]
    inputs, targets = mx.slice_axis(batch, 1, 0, tokens - 1), mx.slice_axis(batch, 1, 1, tokens)
    logits = model(inputs)
    steps = mx.arange(1, tokens)
    mask = mx.binary(
        "LogicalAnd",
        mx.binary("GreaterEqual", steps, mx.slice_axis(lengths, 1, 0, 1), "bool"),
        mx.binary("LessEqual", steps, mx.slice_axis(lengths, 1, 1, 2), "bool"),
        "bool",
    )
    loss = cross_entropy(logits, targets, model.setting.metal) * mask
    count = mx.sum(mask, (0, 1))
    return [mx.divide(mx.sum(loss.astype("float32"), (0, 1)), count.astype("float32")), count]


def _adam(gradient: Array, parameter: Array, states: list[Array], rate: Array) -> tuple[Array, list[Array]]:
    rate = rate.astype(gradient.dtype)
    m = 0.9 * states[0] + 0.1 * gradient
    v = 0.999 * states[1] + 0.001 * mx.unary("Square", gradient)
    return parameter - rate * m / (mx.unary("Sqrt", v) + 1e-8), [m, v]


def _adamw(gradient: Array, parameter: Array, states: list[Array], rate: Array) -> tuple[Array, list[Array]]:
    decayed = parameter * (1 - rate.astype(gradient.dtype) * 0.01)
    return _adam(gradient, decayed, states, rate)


def _sgd(gradient: Array, parameter: Array, states: list[Array], rate: Array) -> tuple[Array, list[Array]]:
    return parameter - rate.astype(gradient.dtype) * gradient, states


OPTIMIZERS: Mapping[str, tuple[int, Callable[[Array, Array, list[Array], Array], tuple[Array, list[Array]]]]] = {
    "adam": (2, _adam),
    "adamw": (2, _adamw),
    "sgd": (1, _sgd),
}
"""How many states of a parameter's shape each has, and its update (``mlx/optimizers/optimizers.py``)."""


def step(model: Model, batch: int, length: int, optimizer: str, accumulated: int, evaluator: Evaluator) -> Usage:
    """Make and evaluate a step. ``length`` counts what the model sees.

    Of ``accumulated`` micro-batches the last is evaluated, beside the gradients of those before it.
    """
    count, update = OPTIMIZERS[optimizer]
    slots = [(module, name) for module in model.modules() for name in module.arrays]
    before = {id(module[name]): module[name] for module, name in slots}
    trained = [(module, name) for module, name in slots if name in module.trained]
    states = [[Array(m[n].shape, m[n].dtype) for _ in range(count)] for m, n in trained]
    number, rate = Array((), "uint64"), Array((), "float32")
    losses, seen = Array((), "float32"), Array((), "int32")
    tokens, lengths = Array((batch, length + 1), "int32"), Array((batch, 2), "int32")
    old = [module[name] for module, name in trained]
    sums = [Array(a.shape, a.dtype) for a in old] if accumulated > 1 else []

    def run(parameters: list[Array]) -> list[Array]:
        for (module, name), array in zip(trained, parameters, strict=True):
            module.arrays[name] = array
        loss, found = default_loss(model, tokens, lengths)
        return [loss, mx.stop_gradient(found)]

    (loss, found), gradients = vjp(run, old, [scalar(1.0, "float32")])
    if sums:
        gradients = [(gradient + sum_) / accumulated for gradient, sum_ in zip(gradients, sums, strict=True)]
    fresh, moved = [], []
    for gradient, parameter, state in zip(gradients, old, states, strict=True):
        parameter, state = update(gradient, parameter, state, rate)
        fresh.append(parameter)
        moved.append(state)
    for (module, name), array in zip(trained, fresh, strict=True):
        module.arrays[name] = array
    inputs = [tokens, lengths, *sums, *before.values(), number, rate, *(s for state in states for s in state)]
    results = [loss, found, *(module[name] for module, name in slots)]
    results += [number + 1, rate, *(s for state in moved for s in state)]
    loss, found, *rest = compiled(inputs, results)
    outputs = [*rest, mx.add(losses, loss), mx.add(seen, found)]
    for a in (*inputs, losses, seen):
        evaluator.hold(a)
    count_references(outputs)
    for out in (*outputs, tokens, lengths):
        out.refs += 1
    for a in constants_of(outputs):
        a.refs += 1
        evaluator.hold(a)
    active = evaluator.allocator.active
    evaluator.allocator.peak = active
    evaluator.evaluate(outputs)
    active -= sum(a.nbytes for a in sums)  # gradients are no part of what is resident
    nbytes = sum(a.nbytes for a in old)
    return Usage(
        sum(module[name].nbytes for module, name in slots if name[0] != "_"),
        nbytes,
        number.nbytes + rate.nbytes + sum(s.nbytes for state in states for s in state),
        evaluator.allocator.peak - active,
    )
