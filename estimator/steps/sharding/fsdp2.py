"""FSDP2: ``fully_shard`` of each layer, then of the model, on a mesh of one dimension.

Source: ``torch/distributed/fsdp/_fully_shard/`` of 2.13 (``_fsdp_param_group.py``, ``_fsdp_collectives.py``,
``_fsdp_state.py``), by whose names states and methods are called here. All is of one rank, the first, which has the
most.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from ...ledger import ITEMSIZE, Call, Ledger, Size, Tensor, ceiling, product, record
from ...ledger.graph import Output


class _Shard(NamedTuple):
    """A parameter of a group: as its module has it, as the rank keeps it, and the rows that all ranks have of it."""

    whole: Tensor
    local: Tensor
    rows: Size

    def padded(self, itemsize: int) -> Size:
        """Bytes of the rows of all ranks."""
        return self.rows * product(self.whole.shape[1:]) * itemsize


class _Communication:
    """What the groups share (``FSDPCommContext``)."""

    def __init__(self) -> None:
        self.gathered: Tensor | None = None
        """In forward, the output of the last all-gather, which the next group frees once it has copied its own out."""
        self.reduced: Tensor | None = None
        """The input of the last reduce-scatter, which the next group frees before its own."""
        self.post_forward_order: list[_Group] = []


class _Group:
    """Parameters that are gathered and reduced together (``FSDPParamGroup``)."""

    def __init__(self, ledger: Ledger, world: int, parameters: Sequence[Tensor], shared: _Communication) -> None:
        self.ledger, self.world, self.shared = ledger, world, shared
        self.shards = []
        for p in parameters:
            rows = ceiling(p.shape[0], world)  # of each rank, also of those that have fewer or none
            self.shards.append(_Shard(p, ledger.shard(p, (rows, *p.shape[1:])), rows * world))
        self.unsharded = self.pending = False
        self.gathered: Tensor | None = None
        """The output of an all-gather that has not been copied out."""
        self.in_backward = self.reduced = False
        self._indices: list[int] = []

    def unshard(self) -> None:
        """Begin the all-gather of all parameters at once. One rank gathers nothing."""
        if self.pending or self.unsharded:
            return
        self.pending = True
        if self.world > 1:
            nbytes = sum((shard.padded(ITEMSIZE[shard.whole.dtype]) for shard in self.shards), 0)
            self.gathered = self.ledger.empty((nbytes,), "uint8")

    def wait_for_unshard(self, forward: bool) -> None:
        """Copy each parameter out of the all-gather's output."""
        if not self.pending:
            return
        previous = self.shared.gathered if forward else None  # which a local name holds to the end of the original
        for shard in self.shards:
            shard.whole.storage.resize(shard.padded(ITEMSIZE[shard.whole.dtype]))
        if forward:  # freed by the next group, so that its all-gather overlaps with this copy
            self.shared.gathered = self.gathered
        del previous
        self.gathered, self.pending, self.unsharded = None, False, True

    def reshard(self) -> None:
        """Free the parameters. What was saved of them for backward has their data again once they are gathered."""
        if self.unsharded:
            for shard in self.shards:
                shard.whole.storage.resize(0)
        self.unsharded = False

    def pre_forward(self) -> None:
        """``FSDPParamGroup.pre_forward``."""
        self.unshard()
        self.wait_for_unshard(forward=True)

    def post_forward(self, reshards: bool) -> None:
        """``FSDPParamGroup.post_forward``. The root's parameters stay, as backward begins with them."""
        if reshards:
            self.reshard()
        self._indices.append(len(self.shared.post_forward_order))
        self.shared.post_forward_order.append(self)

    def pre_backward(self) -> None:
        """Gather, and begin to gather the group before this one."""
        if self.in_backward:
            return
        self.in_backward = True
        self.unshard()
        self.wait_for_unshard(forward=False)
        index = self._indices.pop()
        if index:
            self.shared.post_forward_order[index - 1].unshard()

    def post_backward(self) -> None:
        """Free the parameters, then reduce the gradients, which are views of one tensor in the end."""
        self.reduced = True
        having = [shard for shard in self.shards if shard.whole.grad is not None]
        grads: list[Any] = [shard.whole.grad for shard in having]
        for shard in having:
            shard.whole.grad = None
        self.reshard()
        self.shared.reduced = None
        if not having:
            return
        ledger, dtype = self.ledger, grads[0].dtype
        nbytes = sum((shard.padded(ITEMSIZE[dtype]) for shard in having), 0)
        reduced = ledger.empty((nbytes // ITEMSIZE[dtype],), dtype)
        if not ledger.device.has_own_memory:  # a CPU copies what has to be padded (`_chunk_cat`)
            ledger.transient(*(s.padded(ITEMSIZE[dtype]) for s in having if s.rows != s.whole.shape[0]))
        last = grads.pop() if self.world > 1 else None  # which a loop's variable still names (`foreach_reduce`)
        grads.clear()
        output = ledger.empty((nbytes // ITEMSIZE[dtype] // self.world,), dtype)
        for shard in having:
            if shard.local.grad is None:  # it is added in place otherwise
                shard.local.grad = Tensor(output.storage, shard.local.shape, dtype)
        del last
        self.shared.reduced = reduced

    def end(self) -> None:
        """``_root_post_backward_final_callback``: reduce what no input's gradient told to."""
        if not self.reduced:
            self.post_backward()
        self.in_backward = self.reduced = False
        self._indices.clear()


class Fsdp2:
    """The hooks of a model and of its layers."""

    def __init__(self, ledger: Ledger, world: int, parameters: Sequence[Sequence[Tensor]]) -> None:
        self.shared = _Communication()
        self.root, *self.layers = [_Group(ledger, world, own, self.shared) for own in parameters]
        ledger.after_backward = self._after_backward

    def before_forward(self) -> None:
        """Before the model is called."""
        self.root.pre_forward()

    def after_forward(self, outputs: Sequence[Any]) -> None:
        """After the model has returned its outputs."""
        self.root.post_forward(reshards=False)
        _before_backward(outputs, self.root)
        self.shared.gathered = None

    def before_layer(self, number: int, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Before the layer of a number, of those that are run. Its inputs' gradients are its last, and reduce."""
        group = self.layers[number]
        group.pre_forward()
        return _with_post_backward(inputs, group)

    def after_layer(self, number: int, outputs: Sequence[Tensor]) -> None:
        """After the layer has returned its outputs, before whose gradients are used it is gathered."""
        group = self.layers[number]
        group.post_forward(reshards=True)
        _before_backward(outputs, group)

    def _after_backward(self) -> None:
        for group in (self.root, *self.layers):
            group.end()
        self.shared.post_forward_order.clear()
        self.shared.reduced = None


def _before_backward(outputs: Sequence[Any], group: _Group) -> None:
    for x in outputs:
        if isinstance(x, Tensor) and x.node is not None:
            x.node.hooks = (*x.node.hooks, group.pre_backward)


def _with_post_backward(inputs: Sequence[Tensor], group: _Group) -> list[Tensor]:
    """The inputs, those with a gradient behind one node, which runs last (``RegisterPostBackwardFunction``)."""
    trained = [i for i, x in enumerate(inputs) if x.requires_grad]
    out = list(inputs)
    if not trained or not group.ledger.grad_enabled:
        return out
    given = [inputs[i] for i in trained]
    rule = partial(_post_backward, group)
    node = record("RegisterPostBackwardFunctionBackward", given[0].alias, given, (), rule).node
    assert node is not None
    node.outputs = [Output(x.shape, x.dtype) for x in given]
    for number, i in enumerate(trained):
        out[i] = inputs[i].alias()
        out[i].requires_grad, out[i].node, out[i].number = True, node, number
    return out


def _post_backward(group: _Group, call: Call) -> tuple[Tensor | None, ...]:
    group.post_backward()
    return tuple(call.grads)
