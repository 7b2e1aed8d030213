"""What differs between a CPU and a CUDA device: rules ask the ledger's ``device`` for it and never which one it is.

What is saved and the backward formulas do not depend on the device. Sources are named where a rule asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ..ledger import ITEMSIZE, Size, Tensor, product
from .cuda.cublas import workspace_bytes
from .cuda.reductions import reduction_workspace
from .layout import strides_of

THREADS = 2
"""Intra-op threads of the reference step; some of a CPU's kernels take workspace for each."""
REDUCED = ("float16", "bfloat16")


class Device:
    """The kernels that run. Flags are true of one kind of device and false of the other."""

    has_own_memory: ClassVar[bool]
    """Python scalars, step counts and what a module keeps on the host take nothing of the device's memory."""
    converts_on_load: ClassVar[bool]
    """Elementwise kernels read and write any dtype; otherwise ``TensorIterator`` copies what has another one than the
    common dtype first."""
    autocasts_to_float32: ClassVar[bool]
    """Autocast runs powers, norms, exponentials and losses in float32 (``AT_FORALL_FP32`` in
    ``aten/src/ATen/autocast_mode.h``; a CPU's list has none of them)."""
    fuses_dropout: ClassVar[bool]
    """``native_dropout`` with a mask of one byte per element, not a product with noise."""
    uses_cublas: ClassVar[bool]
    """Matrix products are cuBLAS', not MKL's and oneDNN's."""
    float32_statistics: ClassVar[bool]
    """LayerNorm keeps means and deviations in float32, not in the weight's dtype."""
    splits_by_thread: ClassVar[bool]
    """Each of ``THREADS`` sums a share of a norm's gradients in memory of its own."""
    sorts_ids: ClassVar[bool]
    """The gradient of an embedding of many ids sorts them."""
    flattens_indices: ClassVar[bool]
    """A sparse tensor is added by indices that are scaled and flattened first."""
    multiplies_for_softmax: ClassVar[bool]
    """The gradient of a softmax is multiplied by its result first (``softmax_backward_cuda_out``)."""
    copies_by_blocks: ClassVar[bool]
    """A transposed matrix is copied through a small block."""
    foreach: ClassVar[bool]
    """Optimizers and clipping take lists of tensors by default (``_default_to_fused_or_foreach``)."""
    compiled_bitsandbytes: ClassVar[bool]
    """bitsandbytes runs kernels of its own: products by packed weights, updates in place; otherwise PyTorch's
    operators, one after the other."""
    tiles_on_chip: ClassVar[bool]
    """Tiles of a fused loss stay in registers and shared memory."""
    selects_attention: ClassVar[bool]
    """Which kernel of scaled dot-product attention runs depends on the call; otherwise there is one."""

    @property
    def cublas_workspace(self) -> int:
        """Bytes that each handle of cuBLAS takes, in PyTorch 2.13."""
        raise NotImplementedError

    @property
    def takes_grouped_heads(self) -> bool:
        """Whether attention may be given fewer heads of keys and values than of queries."""
        raise NotImplementedError

    @property
    def adds_products_in_place(self) -> bool:
        """Whether a 16-bit product is added to a matrix as it is computed (``torch.addmm`` with ``out``)."""
        raise NotImplementedError

    @property
    def runs_flash_attn(self) -> bool:
        """Whether the package flash-attn has a kernel for it; on a CPU a stand-in for that kernel is measured."""
        raise NotImplementedError

    def workspace_of_sum(self, x: Tensor, reduced: Sequence[bool]) -> Sequence[Size]:
        """Bytes of each tensor that a sum or a norm over the ``reduced`` dimensions takes beside its result."""
        raise NotImplementedError

    def workspace_of_mean(self, x: Tensor, reduced: Sequence[bool]) -> Sequence[Size]:
        """Bytes of each tensor that a mean over the ``reduced`` dimensions takes beside its result."""
        raise NotImplementedError


class Cpu(Device):
    """The reference: whatever processor it is, with ``THREADS`` threads."""

    has_own_memory = converts_on_load = autocasts_to_float32 = fuses_dropout = uses_cublas = False
    float32_statistics = sorts_ids = flattens_indices = multiplies_for_softmax = foreach = compiled_bitsandbytes = False
    tiles_on_chip = selects_attention = False
    splits_by_thread = copies_by_blocks = True
    cublas_workspace = 0
    takes_grouped_heads = adds_products_in_place = runs_flash_attn = True

    def workspace_of_sum(self, x: Tensor, reduced: Sequence[bool]) -> Sequence[Size]:
        """16-bit numbers are summed over dimensions that are not neighbours in float32, of a copy."""
        if x.dtype not in REDUCED:
            return ()
        within = [gone for gone, size in zip(reduced, x.shape, strict=True) if size != 1]
        groups = sum(now and not before for before, now in zip([False, *within], within, strict=False))
        return self.workspace_of_mean(x, reduced) if groups > 1 else ()

    def workspace_of_mean(self, x: Tensor, reduced: Sequence[bool]) -> Sequence[Size]:
        """16-bit means are float32 sums, of a copy (``mean_kernel_impl``)."""
        if x.dtype not in REDUCED:
            return ()
        kept = product(size for size, gone in zip(x.shape, reduced, strict=True) if not gone)
        return kept * ITEMSIZE["float32"], x.numel * ITEMSIZE["float32"]


CPU = Cpu()


@dataclass(frozen=True)
class Cuda(Device):
    """An NVIDIA GPU, by default an A100."""

    capability: tuple[int, int] = (8, 0)
    """Compute capability: which attention kernels there are."""
    sdpa_kernel: str | None = None
    """The one attention kernel that the program allows (``torch.nn.attention.sdpa_kernel``)."""
    multiprocessors: int = 108
    """Streaming multiprocessors: how far reductions are spread."""

    has_own_memory = converts_on_load = autocasts_to_float32 = fuses_dropout = uses_cublas = True
    float32_statistics = sorts_ids = flattens_indices = multiplies_for_softmax = foreach = compiled_bitsandbytes = True
    tiles_on_chip = selects_attention = True
    splits_by_thread = copies_by_blocks = False

    @property
    def cublas_workspace(self) -> int:
        return workspace_bytes(self.capability)

    @property
    def takes_grouped_heads(self) -> bool:
        return self.sdpa_kernel != "efficient"

    @property
    def adds_products_in_place(self) -> bool:
        return self.capability >= (8, 0)

    @property
    def runs_flash_attn(self) -> bool:
        return self.capability >= (8, 0)

    def workspace_of_sum(self, x: Tensor, reduced: Sequence[bool]) -> Sequence[Size]:
        """Partial results of a reduction that is spread over thread blocks; left out where a size is a symbol."""
        strides = strides_of(x)
        if not all(isinstance(size, int) for size in (*x.shape, *strides)):
            return ()
        shape: Any = x.shape
        return reduction_workspace(shape, strides, reduced, self.capability, self.multiprocessors) or ()  # type: ignore[arg-type]

    workspace_of_mean = workspace_of_sum
