"""MLX on Apple silicon: buffers of whole pages, and command buffers that hold what they use until they are done.

After ``backend/metal/allocator.cpp``, ``device.cpp`` and ``eval.cpp``. The order of the graph is that of a CPU.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..devices import Device
from .arrays import Array
from .evaluation import KERNELS, Allocator, Data, Evaluator, Stream, computed


def limits_of(device: Device | None) -> tuple[int, int]:
    """Operations of a command buffer, and millions of elements (2^20) that it reads or writes.

    Without a device they are those of Macs, the chips Max and Ultra excepted.
    """
    if device is None:
        return 40, 40
    if device.is_phone:
        return 20, 40
    return (50, 50) if re.search("Max|Ultra", device.label) else (40, 40)


class MetalAllocator(Allocator):
    """Sizes above a page are rounded up to pages. All that is freed is kept."""

    page = 16384
    limit = 1 << 62

    def rounded(self, nbytes: int) -> int:
        return nbytes if nbytes <= self.page else -(-nbytes // self.page) * self.page


class MetalStream(Stream):
    """A GPU's queue: a task is a command buffer, which ends once it has enough operations or elements."""

    def __init__(self, allocator: Allocator, device: Device | None) -> None:
        super().__init__(allocator)
        self._limits = limits_of(device)
        self._operations = self._elements = 0
        self._ran = False

    def dispatch(self, held: Sequence[Data] = (), used: int = 0) -> None:
        if not used:
            self._operations += 1
            self._ran = True
            return
        self._elements += used if self._ran else 0  # a view runs nothing
        self._ran = False
        ends = self._operations > self._limits[0] or self._elements >> 20 > self._limits[1]
        if ends:
            self._operations = self._elements = 0
            self.tasks += 1
        self.queue.append((list(held), ends))


def _rms_norm(e: Evaluator, a: Array) -> None:
    x = a.inputs[0]
    if not (x.contiguous[0] and x.strides[-1] == 1):
        e.fresh(a)
        e.stream.dispatch()
    elif e.only(x):
        e.view(a, x)
    else:
        e.like(a, x)
    e.stream.dispatch()


def _rms_norm_vjp(e: Evaluator, a: Array) -> None:
    x = a.inputs[0]
    rows = x.size // x.shape[-1]
    groups = -(-rows // -(-rows // 512))
    e.temporary(groups * x.shape[-1] * x.itemsize)
    for out in a.outputs:
        e.fresh(out)
    e.stream.dispatch()


def _rope(e: Evaluator, a: Array) -> None:
    x = a.inputs[0]
    if x.contiguous[1] and e.only(x):
        e.view(a, x)
    else:
        e.fresh(a)
    e.stream.dispatch()


KERNELS.update(
    RMSNorm=_rms_norm,
    RMSNormVJP=_rms_norm_vjp,
    RoPE=_rope,
    ScaledDotProductAttention=computed,
    CrossEntropy=computed,
    CrossEntropyVJP=computed,
    Dequantize=computed,
)
