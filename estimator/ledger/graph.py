"""The backward graph, and the engine that runs it.

A ``Node`` holds what its operator saved and the edges to its inputs, for exactly as long as autograd does.

Sources of the rules kept here: ``torch/csrc/autograd/engine.cpp`` (order of execution, ``validate_outputs``),
``input_buffer.cpp`` (in-place accumulation), ``functions/accumulate_grad.h``.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from weakref import ref

from ..errors import InputError
from .ledger import NOTHING, Counted, Ledger, Shape, Tensor, identity
from .refcounts import is_alone, shares_its_storage
from .sizes import Size


class Accumulator:
    """The end of the graph at a leaf: stores the gradient in ``leaf.grad``. Only the graph holds it, not the leaf."""

    __slots__ = ("__weakref__", "leaf")

    def __init__(self, leaf: Tensor) -> None:
        self.leaf = leaf


Backward = Callable[["Call"], "tuple[Tensor | None, ...]"]


class Call:
    """What a backward rule is given: the incoming gradient, the saved tensors, which inputs need a gradient.

    ``grads`` has a gradient for each of the operator's results, ``None`` for one that the loss does not depend on.
    ``grad`` is the only one.
    """

    __slots__ = ("args", "grads", "ledger", "needs", "saved")

    def __init__(self, node: Node, *grads: Any) -> None:
        self.ledger, self.needs, self.args = node.ledger, node.needs, node.args
        self.grads: list[Any] = list(grads)
        self.saved: list[Any] = [unpack(held) for held, unpack in node.saved]

    @property
    def grad(self) -> Tensor:
        """The gradient of the only result."""
        grad: Tensor = self.grads[0]
        return grad


class Output(NamedTuple):
    """A result of a node. In a counted part it stands for ``copies`` results (``split_counted``)."""

    shape: Shape
    dtype: str
    copies: Size = 1


class Edge(NamedTuple):
    """Where a gradient goes: a node and the number of its result, or a leaf's accumulator."""

    target: Node | Accumulator
    number: int

    @property
    def output(self) -> tuple[Shape, str]:
        """Shape and dtype of the tensor whose gradient it is (``validate_outputs``)."""
        target = self.target
        if isinstance(target, Accumulator):
            return target.leaf.shape, target.leaf.dtype
        return target.outputs[self.number][:2]


def _edge(tensor: Tensor | None) -> Edge | None:
    """Where a tensor's gradient goes: the node that made it, a leaf's accumulator, or nowhere."""
    if tensor is None or not tensor.requires_grad:
        return None
    if tensor.node is not None:
        return Edge(tensor.node, tensor.number)
    accumulator = None if tensor.accumulator is None else tensor.accumulator()
    if accumulator is None:
        accumulator = Accumulator(tensor)
        tensor.accumulator = ref(accumulator)
    return Edge(accumulator, 0)


class Node:
    """One operator in the backward graph."""

    __slots__ = (
        "args",
        "attached",
        "backward",
        "edges",
        "hooks",
        "ledger",
        "name",
        "needs",
        "outputs",
        "saved",
        "scope",
        "segment",
        "sequence",
        "turn",
        "within",
    )

    def __init__(
        self,
        name: str,
        ledger: Ledger,
        inputs: Sequence[Tensor | None],
        args: tuple[Any, ...],
        backward: Backward,
    ) -> None:
        self.ledger, self.name, self.backward, self.args = ledger, name, backward, args
        self.scope, self.segment, self.turn, self.within = ledger.scope, ledger.segment, ledger.turn, ledger.within
        self.outputs: list[Output] = []
        ledger.sequence += 1
        self.sequence = ledger.sequence
        self.needs = [t is not None and t.requires_grad for t in inputs]
        self.edges: list[Edge | None] = [_edge(t) for t in inputs]
        self.saved: list[tuple[Any, Callable[[Any], Any]]] = []
        self.attached: Counted | None = None
        self.hooks: tuple[Callable[[], None], ...] = ()
        """Called when the gradients of its results are complete, before it runs (``Tensor.register_hook``)."""

    def attach(self, tensor: Tensor) -> None:
        """Hold a tensor like an attribute of the ``ctx`` of a ``torch.autograd.Function``.

        Saved-tensor hooks do not see it. It is held after the node has run, for as long as the loss holds the graph.
        """
        self.attached = self.attached or Counted(self.ledger)
        self.attached.add(tensor.alias(), self.ledger.copies)

    def hold(self, tensor: Tensor) -> None:
        """Hold a tensor until the node has run. Saved-tensor hooks do not see it."""
        if self.ledger.thrown_away is not None:
            self.ledger.thrown_away.add(tensor)
        self.saved.append((tensor, identity))


class _Result:
    """In a list of saved tensors: the operator's own result."""


RESULT = _Result()


class Beside(NamedTuple):
    """Another result of the operator that is saved, such as the statistics of a norm."""

    tensor: Tensor


Saved = Sequence["Tensor | _Result | Beside | None"]


def record(
    name: str,
    make: Callable[[], Tensor],
    inputs: Sequence[Tensor | None],
    saved: Saved,
    backward: Backward,
    *args: Any,
) -> Tensor:
    """Run an operator and put it into the backward graph if any input requires a gradient.

    ``make`` allocates the result. ``saved`` lists what the operator saves: inputs, saved before the operator runs;
    ``RESULT`` for its result and ``Beside`` for others, saved after; ``None`` for nothing. ``backward`` is its backward
    rule, and ``args`` are its ``Call.args``. The rule must reach tensors only through its ``Call``, since others would
    stay alive.
    """
    ledger, requires_grad = None, False
    for tensor in inputs:
        if tensor is not None:
            ledger, requires_grad = tensor.ledger, requires_grad or tensor.requires_grad
    tensor = None  # a reference would keep the last input alive while the operator runs
    if ledger is None:
        return make()
    outer = ledger.running
    ledger.running = outer or name
    out = _record(ledger, name, make, inputs, saved, backward, args) if requires_grad else make()
    ledger.running = outer
    return out


def _record(
    ledger: Ledger,
    name: str,
    make: Callable[[], Tensor],
    inputs: Sequence[Tensor | None],
    saved: Saved,
    backward: Backward,
    args: tuple[Any, ...],
) -> Tensor:
    if ledger.forward_mode is not None:
        return ledger.forward_mode(name, make, inputs)
    if not ledger.grad_enabled:
        return make()
    node = Node(name, ledger, inputs, args, backward)
    node.saved = [
        NOTHING if t is RESULT or isinstance(t, Beside) else ledger.pack(t, name, i, inputs)  # type: ignore[arg-type]
        for i, t in enumerate(saved)
    ]
    out = make()
    node.outputs.append(Output(out.shape, out.dtype))
    out.requires_grad = True
    out.node = node
    for i, t in enumerate(saved):
        if t is RESULT:
            node.saved[i] = ledger.pack(out, name, i, inputs)
        elif isinstance(t, Beside):
            node.saved[i] = ledger.pack(t.tensor, name, i, inputs)
    return out


def record_views(
    name: str, make: Callable[[], Tensor], copies: Sequence[Size], x: Tensor, backward: Backward, *args: Any
) -> list[Tensor]:
    """Run an operator whose results are views (``split``, ``unbind``), with one node for all of them.

    ``make`` gives the next view, which stands for the next of ``copies`` views. Each view's gradients are added up, and
    ``Call.grads`` holds the gradients of all views while the rule makes the one of ``x``.
    """
    first = record(name, make, (x,), (), backward, *args)
    views = [first, *(make() for _ in copies[1:])]
    node = first.node
    if node is not None:
        node.outputs = [Output(view.shape, view.dtype, count) for view, count in zip(views, copies, strict=True)]
        for number, view in enumerate(views):
            view.requires_grad, view.node, view.number = True, node, number
    return views


def backward(ledger: Ledger, *roots: Tensor, grads: Sequence[Tensor] | None = None) -> None:
    """Run the graph from a scalar loss, newest operator first, as autograd's engine does.

    ``grads`` are the gradients of roots that are none, within the backward pass of another graph.
    """
    ledger.phase = "backward"
    enabled, ledger.grad_enabled = ledger.grad_enabled, False
    within, running = ledger.within, ledger.running
    nodes = [root.node for root in roots if root.node is not None]
    if not nodes:
        raise InputError(
            "the loss depends on nothing that trains, so PyTorch's backward refuses to run; train something that "
            "it depends on (OFT with num_cayley_neumann_terms 1 rotates nothing), or set task infer"
        )
    waiting = _count_dependencies(nodes)
    # held until the backward pass ends
    ones = [ledger.empty(root.shape, root.dtype) for root in roots] if grads is None else grads
    buffers: dict[tuple[int, int], Any] = {
        (id(root.node), root.number): grad for root, grad in zip(roots, ones, strict=True) if root.node is not None
    }
    first_nodes = {id(node): node for node in nodes if id(node) not in waiting}
    ready: list[tuple[int, int, Node]] = [(-node.sequence, key, node) for key, node in first_nodes.items()]
    heapq.heapify(ready)
    spans = sorted(ledger.counted_spans, key=lambda span: (span[1], -span[0]))  # the newest last, and outer parts
    inside: list[tuple[int, Size, Size, Size]] = []
    while ready:
        _, _, node = heapq.heappop(ready)
        _leave(ledger, inside, node.sequence)
        while spans and node.sequence <= spans[-1][1]:
            first, _, extra = spans.pop()
            if first <= node.sequence and (not inside or first > inside[-1][0]):
                inside.append((first, ledger.live, ledger.work, extra))
        ledger.scope, ledger.segment, ledger.within, ledger.running = node.scope, node.segment, node.within, node.name
        ledger.turn = node.turn
        for hook in node.hooks:
            hook()
        outputs = _run(node, [buffers.pop((id(node), i), None) for i in range(len(node.outputs))])
        for i in range(len(outputs)):
            edge = node.edges[i]
            if edge is None:
                continue
            target = edge.target
            key = id(target), edge.number
            if outputs[i] is None:
                pass  # an undefined gradient, which a node waits for all the same (engine.cpp: evaluate_function)
            elif key in buffers:
                _accumulate(buffers, key)
            else:
                buffers[key] = outputs[i]
            outputs[i] = None
            waiting[key[0]] -= 1
            if waiting[key[0]]:
                continue
            if isinstance(target, Accumulator):
                if key not in buffers:
                    continue
                _store_gradient(target.leaf, buffers, key)
            else:
                heapq.heappush(ready, (-target.sequence, key[0], target))
    _leave(ledger, inside, 0)
    ledger.grad_enabled, ledger.segment, ledger.within, ledger.running = enabled, -1, within, running
    ledger.turn = 0
    ledger.counted_spans.clear()
    if grads is None and ledger.after_backward is not None:
        ledger.after_backward()
    del ones


def _leave(ledger: Ledger, inside: list[tuple[int, Size, Size, Size]], sequence: int) -> None:
    """Add the other copies of each counted part whose nodes have all run: they have numbers above ``sequence``."""
    while inside and sequence < inside[-1][0]:
        ledger.settle()
        _, live, work, extra = inside.pop()
        ledger.live = ledger.live + (ledger.live - live) * extra
        ledger.work = ledger.work + (ledger.work - work) * extra


def _run(node: Node, grads: list[Any]) -> list[Tensor | None]:
    call = Call(node, *grads)
    counted = Counted(node.ledger)
    for number, output in enumerate(node.outputs):
        if output.copies != 1 and grads[number] is not None:
            counted.add(grads[number], output.copies)
    grads.clear()
    # Generated backward functions give undefined gradients for undefined ones (derivatives.yaml: any_grad_defined).
    outputs: list[Tensor | None] = [None for _ in node.edges]
    if any(grad is not None for grad in call.grads):
        outputs = list(node.backward(call))
    call.saved = []
    for i, edge in enumerate(node.edges):
        value = outputs[i]
        if edge is None or value is None:
            outputs[i] = None
            continue
        shape, dtype = edge.output
        if value.shape != shape:
            outputs[i] = value = sum_to(value, shape)
        if value.dtype != dtype:
            outputs[i] = value.ledger.empty(value.shape, dtype, value.strides if value.is_dense else None)
        value = None
    call.grads.clear()
    counted.clear()
    node.saved = []
    return outputs


def sum_to(x: Tensor, shape: Shape) -> Tensor:
    """``at::sum_to``: sum ``x`` to a smaller shape, one that broadcasts to ``x``'s."""
    padded = (1,) * (len(x.shape) - len(shape)) + shape
    out = x.ledger.empty(shape, x.dtype)
    reduced = [before != after for before, after in zip(x.shape, padded, strict=True)]
    x.ledger.transient(*x.ledger.device.workspace_of_sum(x, reduced))
    out.is_view = len(x.shape) > len(shape)  # a view of the sum, which is made with all dimensions
    return out


def _count_dependencies(roots: Sequence[Node]) -> dict[int, int]:
    waiting: dict[int, int] = {}
    stack, seen = [*roots], {id(root) for root in roots}
    while stack:
        for edge in stack.pop().edges:
            if edge is None:
                continue
            target = edge.target
            waiting[id(target)] = waiting.get(id(target), 0) + 1
            if isinstance(target, Node) and id(target) not in seen:
                seen.add(id(target))
                stack.append(target)
    return waiting


def _accumulate(buffers: dict[tuple[int, int], Tensor], key: tuple[int, int]) -> None:
    """Add a gradient to the one that waits: in place if nothing else refers to that one and it is no view."""
    alone = is_alone(buffers, key) and not shares_its_storage(buffers[key])
    old = buffers[key]
    if not alone or old.is_view:
        buffers[key] = old.ledger.empty(old.shape, old.dtype, old.strides if old.is_dense else None)


def _store_gradient(leaf: Tensor, buffers: dict[tuple[int, int], Tensor], key: tuple[int, int]) -> None:
    if leaf.name in leaf.ledger.tensor_hooks:
        buffers[key] = leaf.ledger.tensor_hooks[leaf.name](buffers.pop(key))
    alone = is_alone(buffers, key)
    grad = buffers.pop(key)
    ledger = leaf.ledger
    if leaf.grad is None:  # it is added in place otherwise
        if ledger.gradient_hooks is not None:
            ledger.gradient_hooks.before_gradient(leaf)
        # obeys_layout_contract (autograd/utils/grad_layout_contract.h)
        alike = grad.strides == leaf.strides if leaf.is_dense else grad.strides is None
        leaf.grad = grad.alias() if alone and alike else ledger.empty(leaf.shape, leaf.dtype)
        if ledger.events is not None:
            ledger.events.gradients[leaf.grad.storage.event] = (leaf.name,)
    elif grad.dtype != leaf.grad.dtype and not ledger.device.has_own_memory:
        ledger.transient(leaf.grad.nbytes)  # it is cast before it is added
    if ledger.gradient_hooks is not None:
        ledger.gradient_hooks.after_gradient(leaf)
