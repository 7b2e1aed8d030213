"""What is alive while MLX evaluates a graph: its order, the buffers that are handed on, and who frees what when.

After ``mlx/transforms.cpp: eval_impl``, the primitives' ``eval_cpu``, ``backend/cpu/encoder.h`` and ``scheduler.h``.
The thread that evaluates allocates, and another one computes and frees. The first waits as soon as more than ten tasks
of ten dispatches each are open. So some hundred dispatches' inputs live on after their last use, which is counted.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from .arrays import SIZES, Array
from .compiler import BINARY

WIDTH = 20
"""``env::bfs_max_width``."""
DISPATCHES_PER_TASK, MAX_ACTIVE_TASKS = 10, 10
DONATION_EXTRA = 16384


class Data:
    """A buffer, and how many arrays and open tasks hold it."""

    __slots__ = ("holders", "nbytes")

    def __init__(self, nbytes: int) -> None:
        self.nbytes, self.holders = nbytes, 1


class Allocator:
    """``backend/no_gpu/allocator.cpp``: freed buffers are kept and given again, with all their bytes, up to a limit."""

    page, limit = 4096, 32 << 20

    def __init__(self) -> None:
        self.active = self.peak = self.cached = 0
        self._free: list[int] = []

    def rounded(self, nbytes: int) -> int:
        """The bytes of a new buffer."""
        return nbytes

    def malloc(self, nbytes: int) -> Data:
        nbytes = self.rounded(nbytes)
        at = bisect_left(self._free, nbytes)
        if at < len(self._free) and self._free[at] < min(2 * nbytes, nbytes + 2 * self.page):
            nbytes = self._free.pop(at)
            self.cached -= nbytes
        self.active += nbytes
        self.peak = max(self.peak, self.active)
        return Data(nbytes)

    def free(self, nbytes: int) -> None:
        self.active -= nbytes
        if nbytes and self.cached + nbytes <= self.limit:
            insort(self._free, nbytes)
            self.cached += nbytes

    def clear(self) -> None:
        """``mx.clear_cache``."""
        self._free, self.cached = [], 0

    def release(self, data: Data) -> None:
        data.holders -= 1
        if not data.holders:
            self.free(data.nbytes)


class Stream:
    """The thread that computes, as slow as can be: it does a task only when it is waited for."""

    def __init__(self, allocator: Allocator) -> None:
        self.allocator = allocator
        self.queue: deque[tuple[list[Data], bool]] = deque()
        self._dispatches = self.tasks = 0

    def dispatch(self, held: Sequence[Data] = (), used: int = 0) -> None:
        """Give the thread something to do. ``held`` is released when it is done; ``used`` is said once a primitive is
        dispatched: the elements that it reads and writes.
        """
        self._dispatches = (self._dispatches + 1) % DISPATCHES_PER_TASK
        ends = self._dispatches == 0
        self.tasks += ends
        self.queue.append((list(held), ends))

    def wait(self) -> None:
        """Wait for one task if too many are open."""
        if self.tasks <= MAX_ACTIVE_TASKS:
            return
        while self.queue:
            held, ends = self.queue.popleft()
            for data in held:
                self.allocator.release(data)
            if ends:
                self.tasks -= 1
                return

    def synchronize(self) -> None:
        while self.queue:
            for data in self.queue.popleft()[0]:
                self.allocator.release(data)
        self.tasks = 0


def contiguity(shape: Sequence[int], strides: Sequence[int]) -> tuple[int, bool, bool]:
    """The elements that no broadcast repeats, and whether rows, or columns, are contiguous."""
    count = forward = backward = 1
    row = column = True
    for i in range(len(shape)):
        j = len(shape) - 1 - i
        column = column and (strides[i] == forward or shape[i] == 1)
        row = row and (strides[j] == backward or shape[j] == 1)
        forward *= shape[i]
        backward *= shape[j]
        if strides[i] > 0:
            count *= shape[i]
    return count, row, column


def row_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """The strides of an array that is written row by row."""
    strides, size = [], 1
    for length in reversed(shape):
        strides.append(size)
        size *= length
    return tuple(reversed(strides))


class Evaluator:
    """Evaluates graphs, and counts."""

    def __init__(self, allocator: Allocator, stream: Stream) -> None:
        self.allocator, self.stream = allocator, stream
        self._temporaries: list[Data] = []

    # Arrays that are there.

    def hold(self, a: Array) -> None:
        """An array that has its data."""
        self.fresh(a)

    def drop(self, a: Array) -> None:
        """Nobody names the array any more."""
        a.refs -= 1
        if not a.refs and a.data is not None:
            self.allocator.release(a.data)

    # Evaluation.

    def evaluate(self, outputs: Sequence[Array]) -> None:
        """Evaluate arrays. Their ``refs`` are those of the graph, and of whoever names them."""
        for a in tape_of(outputs):
            self._run(a)
            self.stream.wait()
        self.stream.synchronize()

    def _run(self, a: Array) -> None:
        assert a.primitive is not None
        KERNELS.get(a.name, _unary)(self, a)
        held: dict[int, Data] = {}
        for x in a.inputs:
            held[id(x.data)] = x.data
        for out in a.outputs:
            if out is not a:
                held[id(out.data)] = out.data
        held.pop(id(a.data), None)
        for data in held.values():
            data.holders += 1
        used = sum(x.data_size for x in (*a.inputs, *a.outputs))
        self.stream.dispatch([*held.values(), *self._temporaries], used)
        self._temporaries = []
        outputs = a.outputs
        for out in outputs:
            taken, out.inputs, out.primitive = out.inputs, [], None
            out.outputs = (out,)
            for x in taken:
                self.drop(x)
        for out in outputs:
            out.refs -= len(outputs) - 1
            if not out.refs:
                self.allocator.release(out.data)

    # What kernels do.

    def _set(self, a: Array, data: Data, strides: tuple[int, ...], flags: tuple[bool, bool, bool], size: int) -> None:
        a.data, a.strides, a.contiguous, a.data_size = data, strides, flags, size

    def fresh(self, a: Array) -> None:
        """A buffer for the array, row by row."""
        size = a.size
        column = size <= 1 or size == max(a.shape, default=1)
        self._set(a, self.allocator.malloc(size * SIZES[a.dtype]), row_strides(a.shape), (True, True, column), size)

    def like(self, a: Array, x: Array) -> None:
        """A buffer for the array, laid out as another one."""
        self._set(a, self.allocator.malloc(x.data_size * SIZES[a.dtype]), x.strides, x.contiguous, x.data_size)

    def share(self, a: Array, x: Array, strides: tuple[int, ...], flags: tuple[bool, bool, bool], size: int) -> None:
        x.data.holders += 1
        self._set(a, x.data, strides, flags, size)

    def view(self, a: Array, x: Array) -> None:
        self.share(a, x, x.strides, x.contiguous, x.data_size)

    def _donated(self, x: Array, a: Array) -> bool:
        return self.only(x) and SIZES[x.dtype] == SIZES[a.dtype] and x.data.nbytes <= a.nbytes + DONATION_EXTRA

    def only(self, x: Array) -> bool:
        """Whether nobody else has the array or its buffer."""
        held: bool = x.refs == 1 and x.data.holders == 1
        return held

    def temporary(self, nbytes: int) -> None:
        """A buffer that lives until the primitive's last task, and what fills it."""
        self._temporaries.append(self.allocator.malloc(nbytes))
        self.stream.dispatch()


def tape_of(outputs: Sequence[Array]) -> list[Array]:
    """The arrays to evaluate, in MLX's order: breadth first from the end, up to a width, and then reversed."""
    root = Array((), "bool", None, outputs)
    degree: dict[int, int] = {}
    stack: list[list[Any]] = [[root, 0]]
    while stack:
        top = stack[-1]
        node, index = top
        if index == len(node.inputs):
            stack.pop()
            continue
        top[1] += 1
        x = node.inputs[index]
        if id(x) not in degree:
            stack.append([x, 0])
            for out in x.outputs:
                degree[id(out)] = 1
        else:
            for out in x.outputs:
                degree[id(out)] += 1
    tape = [root]
    pending: list[tuple[Array, int]] = []
    i = 0
    while degree and (i < len(tape) or pending):
        if i >= len(tape):
            node, j = pending.pop()
        else:
            node, j = tape[i], 0
            i += 1
        while j < len(node.inputs):
            x = node.inputs[j]
            if x.data is not None:
                j += 1
                continue
            if len(tape) - i >= WIDTH:
                pending.append((node, j))
                break
            for out in x.outputs:
                degree[id(out)] -= 1
            if not degree[id(x)]:
                for out in x.outputs:
                    del degree[id(out)]
                tape.append(x)
            j += 1
    return tape[:0:-1]


def count_references(outputs: Sequence[Array]) -> None:
    """Set what the graph holds: each array by those that take it, and by its siblings."""
    seen: set[int] = set()
    stack = list(outputs)
    found = []
    while stack:
        a = stack.pop()
        if id(a) in seen:
            continue
        for out in a.outputs:
            seen.add(id(out))
            found.append(out)
            stack.extend(out.inputs)
    for a in found:
        if a.primitive is not None:
            a.refs += len(a.outputs) - 1
        for x in a.inputs:
            x.refs += 1


def constants_of(outputs: Sequence[Array]) -> list[Array]:
    """Arrays of the graph that nobody computes and that have no data yet."""
    found, seen, stack = [], set(), list(outputs)
    while stack:
        a = stack.pop()
        if id(a) in seen:
            continue
        seen.add(id(a))
        if a.primitive is None and a.data is None:
            found.append(a)
        stack.extend(a.inputs)
    return found


Kernel = Callable[[Evaluator, Array], None]


def _unary(e: Evaluator, a: Array) -> None:
    (x,) = a.inputs
    if not x.contiguous[0]:
        e.fresh(a)
    elif e._donated(x, a):
        e.view(a, x)
    else:
        e.like(a, x)
    e.stream.dispatch()


def _astype(e: Evaluator, a: Array) -> None:
    _copy(e, a, a.inputs[0], a.inputs[0].contiguous[0])


def _copy(e: Evaluator, a: Array, x: Array, vector: bool) -> None:
    """``copy_cpu``: a vector's buffer may be handed on."""
    if vector and e._donated(x, a):
        e.view(a, x)
        if x.dtype == a.dtype:
            return
    elif vector:
        e.like(a, x)
    else:
        e.fresh(a)
    e.stream.dispatch()


def _binary(e: Evaluator, a: Array) -> None:
    x, y = a.inputs
    can_x, can_y = e._donated(x, a), e._donated(y, a)
    if x.data_size == 1 and y.data_size == 1:
        e._set(a, e.allocator.malloc(SIZES[a.dtype]), x.strides, x.contiguous, 1)
    elif x.data_size == 1 and y.contiguous[0]:
        e.view(a, y) if can_y else e.like(a, y)
    elif y.data_size == 1 and x.contiguous[0]:
        e.view(a, x) if can_x else e.like(a, x)
    elif (x.contiguous[1] and y.contiguous[1]) or (x.contiguous[2] and y.contiguous[2]):
        e.view(a, x) if can_x else e.view(a, y) if can_y else e.like(a, x)
    elif can_x and x.contiguous[1] and x.shape == a.shape:
        e.view(a, x)
    elif can_y and y.contiguous[1] and y.shape == a.shape:
        e.view(a, y)
    else:
        e.fresh(a)
    e.stream.dispatch()


def _select(e: Evaluator, a: Array) -> None:
    c, x, y = a.inputs
    if all(z.data_size == 1 for z in a.inputs):
        e._set(a, e.allocator.malloc(SIZES[a.dtype]), x.strides, x.contiguous, 1)
    elif all(z.contiguous[1] for z in a.inputs) or all(z.contiguous[2] for z in a.inputs):
        donor = next((z for z in (c, x, y) if e._donated(z, a)), None)
        e.view(a, donor) if donor is not None else e.like(a, x)
    else:
        donor = next((z for z in (c, x, y) if z.contiguous[1] and e._donated(z, a)), None)
        e.view(a, donor) if donor is not None else e.fresh(a)
    e.stream.dispatch()


def _compiled(e: Evaluator, a: Array) -> None:
    """``backend/common/compiled.cpp``."""
    constants = a.attributes[0]
    several = [x for x in a.inputs if x.shape]
    shape = a.outputs[0].shape
    layouts = [all(x.contiguous[i] and x.shape == shape for x in several) for i in range(3)]
    contiguous = (layouts[1] or layouts[2]) if len(several) > 1 else layouts[0] if several else not shape
    outputs = list(a.outputs)
    layout: Array | None = None
    for i, x in enumerate(a.inputs):
        if not outputs:
            break
        out = outputs[0]
        fits = e.only(x) and SIZES[x.dtype] == SIZES[out.dtype] and i not in constants
        if contiguous:
            if fits and x.shape:
                e.view(outputs.pop(0), x)
            if layout is None and x.size == a.outputs[0].size:
                layout = x
        elif fits and x.contiguous[1] and x.size == out.size:
            out = outputs.pop(0)
            e.share(out, x, row_strides(out.shape), x.contiguous, x.data_size)
    for out in outputs:
        e.fresh(out) if not contiguous or layout is None else e.like(out, layout)
    e.stream.dispatch()


def computed(e: Evaluator, a: Array) -> None:
    """A kernel whose outputs have buffers of their own."""
    for out in a.outputs:
        e.fresh(out)
    e.stream.dispatch()


def _broadcast(e: Evaluator, a: Array) -> None:
    (x,) = a.inputs
    more = len(a.shape) - len(x.shape)
    strides = [0] * more + [
        0 if x.shape[i] == 1 and a.shape[more + i] != 1 else x.strides[i] for i in range(len(x.shape))
    ]
    flags = x.contiguous
    if a.size > x.size:
        flags = (flags[0], False, False)
    e.share(a, x, tuple(strides), flags, x.data_size)


def _transpose(e: Evaluator, a: Array) -> None:
    (x,) = a.inputs
    strides = tuple(x.strides[axis] for axis in a.attributes[0])
    flags = x.contiguous
    if flags[0] and x.data_size == x.size:
        flags = (True, *contiguity(a.shape, strides)[1:])
    e.share(a, x, strides, flags, x.data_size)


def _expand_dims(e: Evaluator, a: Array) -> None:
    (x,) = a.inputs
    strides = list(x.strides)
    for axis in a.attributes[0]:
        strides.insert(axis, 1)
    e.share(a, x, tuple(strides), x.contiguous, x.data_size)


def _pairs(e: Evaluator, a: Array) -> None:
    """``AsStrided``: starts and ends of segments, which overlap."""
    e.share(a, a.inputs[0], (1, 1), (False, False, False), a.inputs[0].data_size)


def _squeeze(e: Evaluator, a: Array) -> None:
    (x,) = a.inputs
    gone = a.attributes[0]
    e.share(a, x, tuple(s for i, s in enumerate(x.strides) if i not in gone), x.contiguous, x.data_size)


def _slice(e: Evaluator, a: Array) -> None:
    (x,) = a.inputs
    size = 1
    for stride, length in zip(x.strides, a.shape, strict=True):
        size += stride * (length - 1)
    count, row, column = contiguity(a.shape, x.strides)
    e.share(a, x, x.strides, (count == size, row, column), size)


def _split(e: Evaluator, a: Array) -> None:
    (x,) = a.inputs
    for out in a.outputs:
        size, row, column = contiguity(out.shape, x.strides)
        if size == 1:
            flag = True
        elif size == x.data_size:
            flag = x.contiguous[0]
        else:
            flag = x.contiguous[0] and (row or column)
        e.share(out, x, x.strides, (flag, row, column), size)


def _shared(e: Evaluator, a: Array) -> None:
    """``CustomTransforms`` gives its last inputs, ``Depends`` its first."""
    name, count = a.name, len(a.outputs)
    inputs = a.inputs[-count:] if name == "CustomTransforms" else a.inputs[:count]
    for out, x in zip(a.outputs, inputs, strict=True):
        e.view(out, x)


def _reshape(e: Evaluator, a: Array) -> None:
    (x,) = a.inputs
    strides = reshaped(x, a.shape)
    if strides is None:
        e.fresh(a)
        e.stream.dispatch()
        return
    flags = x.contiguous
    if flags[1]:
        flags = (flags[0], True, a.size <= 1 or a.size == max(a.shape, default=1))
    e.share(a, x, strides, flags, x.data_size)


def reshaped(x: Array, shape: Sequence[int]) -> tuple[int, ...] | None:
    """The strides of a reshaped view, or ``None`` where the data must be copied (``prepare_reshape``)."""
    if not x.size or x.contiguous[1]:
        return row_strides(shape)
    if not x.shape:
        return (0,) * len(shape)
    lengths, steps = [x.shape[0]], [x.strides[0]]
    for length, stride in zip(x.shape[1:], x.strides[1:], strict=True):
        if length == 1:
            continue
        if stride * length != steps[-1] or lengths[-1] * length > 2**31 - 1:
            lengths.append(length)
            steps.append(stride)
        else:
            lengths[-1] *= length
            steps[-1] = stride
    found: list[int] = []
    j = 0
    for length in shape:
        if j < len(lengths) and lengths[j] % length == 0:
            lengths[j] //= length
            found.append(lengths[j] * steps[j])
            j += lengths[j] == 1
        elif length == 1:
            found.append(found[-1])
        else:
            return None
    return tuple(found)


def _softmax(e: Evaluator, a: Array) -> None:
    (x,) = a.inputs
    if x.contiguous[0] and x.strides[-1] == 1:
        if e.only(x):
            e.view(a, x)
        else:
            e.like(a, x)
    else:
        e.fresh(a)
        e.stream.dispatch()
    e.stream.dispatch()


def _logsumexp(e: Evaluator, a: Array) -> None:
    (x,) = a.inputs
    if not (x.contiguous[0] and x.strides[-1] == 1):
        e.temporary(x.nbytes)
    e.fresh(a)
    e.stream.dispatch()


def _is_matrix(x: Array) -> bool:
    """Its last two axes can be given to a product as they are, or transposed."""
    rows, columns = x.strides[-2:]
    return (rows == x.shape[-1] and columns == 1) or (rows == 1 and columns == x.shape[-2])


def _product(e: Evaluator, a: Array) -> None:
    if a.name == "AddMM":
        c = a.inputs[2]
        _copy(e, a, c, c.data_size != 1 and c.contiguous[1])
    else:
        e.fresh(a)
    for x in a.inputs[:2]:
        if not _is_matrix(x):
            e.temporary(x.nbytes)
    e.stream.dispatch()


def _quantize(e: Evaluator, a: Array) -> None:
    if not a.inputs[0].contiguous[1]:
        e.temporary(a.inputs[0].nbytes)
    computed(e, a)


def _quantised_product(e: Evaluator, a: Array) -> None:
    gathered = a.name == "GatherQMM"
    for i, x in enumerate(a.inputs[:4]):
        if i == 3:
            e.fresh(a)
        fits = (x.strides[-2:] == (x.shape[-1], 1)) if gathered else x.contiguous[1]
        if not fits:
            e.temporary(x.nbytes)
    e.stream.dispatch()


def _updated(e: Evaluator, a: Array) -> None:
    """Scatters and slice updates: the source is copied, or handed on."""
    x = a.inputs[0]
    if a.name == "SliceUpdate":
        vector = x.data_size != 1 and x.contiguous[0] and x.size == x.data_size
    else:
        vector = x.contiguous[1]
    _copy(e, a, x, vector)
    e.stream.dispatch()


def _full(e: Evaluator, a: Array) -> None:
    (x,) = a.inputs
    _copy(e, a, x, x.data_size != 1 and x.contiguous[0])


def _concatenate(e: Evaluator, a: Array) -> None:
    e.fresh(a)
    for _ in a.inputs:
        e.stream.dispatch()


KERNELS: dict[str, Kernel] = {
    **dict.fromkeys(BINARY, _binary),
    **dict.fromkeys(
        ("ArgPartition", "ArgReduce", "ArgSort", "Arange", "CumSum", "Gather", "GatherAxis", "Max", "Sum"), computed
    ),
    **dict.fromkeys(("Scatter", "ScatterAxis", "SliceUpdate"), _updated),
    **dict.fromkeys(("Reshape", "Flatten", "Unflatten"), _reshape),
    **dict.fromkeys(("CustomTransforms", "Depends"), _shared),
    **dict.fromkeys(("Matmul", "AddMM", "GatherMM", "SegmentedMM"), _product),
    **dict.fromkeys(("QuantizedMatmul", "GatherQMM"), _quantised_product),
    "AsStrided": _pairs,
    "AsType": _astype,
    "Broadcast": _broadcast,
    "Compiled": _compiled,
    "Concatenate": _concatenate,
    "ExpandDims": _expand_dims,
    "Full": _full,
    "LogSumExp": _logsumexp,
    "Quantize": _quantize,
    "Select": _select,
    "Slice": _slice,
    "Softmax": _softmax,
    "Split": _split,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
}
