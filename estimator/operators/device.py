"""What differs between a CPU and a CUDA device. A rule asks the ledger's ``device`` for a property, never for its kind.

What is saved and the backward formulas do not depend on the device. Sources are named where a rule asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar

from ..ledger import ITEMSIZE, Size, Tensor, product
from ..ledger.sizes import evaluated, is_so
from .cuda.cublas import workspace_bytes
from .cuda.reductions import reduction_workspace
from .layout import strides_of

THREADS = 2
"""Intra-op threads of the CPU step. Some CPU kernels allocate workspace for each thread."""
REDUCED = ("float16", "bfloat16")


T = TypeVar("T")
Answers = dict[tuple[Callable[..., Any], tuple[Any, ...]], Any]
"""What rules have asked of a GPU, by the function of its properties and the other arguments, with what it gave."""
_answers: Answers | None = None


@contextmanager
def noting(answers: Answers) -> Iterator[Answers]:
    """Within it, what rules ask of a GPU is added to ``answers``."""
    global _answers
    outer, _answers = _answers, answers
    try:
        yield answers
    finally:
        _answers = outer


class Device:
    """The properties of a device's kernels that change memory."""

    type: ClassVar[str]
    """``torch.device.type``."""
    has_own_memory: ClassVar[bool]
    """Python scalars, step counts and what a module keeps on the host take none of the device's memory."""
    converts_on_load: ClassVar[bool]
    """Elementwise kernels convert dtypes. If not, ``TensorIterator`` copies operands without the common dtype first."""
    autocasts_to_float32: ClassVar[bool]
    """Autocast runs powers, norms, exponentials and losses in float32 (``autocast_mode.h: AT_FORALL_FP32``)."""
    fuses_dropout: ClassVar[bool]
    """Dropout is ``native_dropout`` with a mask of one byte per element. If not, it multiplies by a noise tensor."""
    uses_cublas: ClassVar[bool]
    """cuBLAS runs matrix products. If not, MKL and oneDNN do."""
    float32_statistics: ClassVar[bool]
    """LayerNorm saves means and deviations in float32. If not, in the weight's dtype."""
    splits_by_thread: ClassVar[bool]
    """Each of ``THREADS`` threads sums its share of a norm's gradients in a buffer of its own."""
    sorts_ids: ClassVar[bool]
    """The backward of an embedding sorts the ids if there are many."""
    flattens_indices: ClassVar[bool]
    """Adding a sparse tensor first makes flat indices of its indices."""
    multiplies_for_softmax: ClassVar[bool]
    """The backward of softmax first multiplies the gradient by the result (``softmax_backward_cuda_out``)."""
    copies_by_blocks: ClassVar[bool]
    """A transposed matrix is copied through a small block of memory."""
    buffers_scatters: ClassVar[bool]
    """Gathers and scatters of 16-bit numbers go through a float32 buffer of their result's size."""
    copies_strided_index: ClassVar[bool]
    """``index_select`` first makes its index contiguous (``index_select_out_cpu_``; CUDA's kernels take strides)."""
    copies_to_select_columns: ClassVar[bool]
    """``index_select`` along the second dimension reads a contiguous tensor (``index_select_out_cpu_dim1_``)."""
    fuses_rms_norm: ClassVar[bool]
    """RMS norm is one kernel. If not, it is several operators."""
    foreach: ClassVar[bool]
    """Optimizers and clipping take lists of tensors by default (``_default_to_fused_or_foreach``)."""
    lapack: ClassVar[bool]
    """LAPACK factors matrices, whose results it fills column by column."""
    compiled_bitsandbytes: ClassVar[bool]
    """bitsandbytes has kernels of its own. If not, it calls PyTorch's operators one after the other."""
    tiles_on_chip: ClassVar[bool]
    """Tiles of a fused loss stay in registers and shared memory."""
    onednn_bfloat16: bool
    """oneDNN multiplies and convolves in bfloat16. If not, as on processors without AVX512, PyTorch does."""
    selects_attention: ClassVar[bool]
    """There are several kernels of scaled dot-product attention. If not, there is one."""

    @property
    def cublas_workspace(self) -> int:
        """Bytes of the workspace of each cuBLAS handle, in PyTorch 2.13."""
        raise NotImplementedError

    @property
    def takes_grouped_heads(self) -> bool:
        """Whether attention takes fewer heads of keys and values than of queries."""
        raise NotImplementedError

    @property
    def adds_products_in_place(self) -> bool:
        """Whether one kernel multiplies in 16 bits and adds to a matrix in place (``torch.addmm`` with ``out``)."""
        raise NotImplementedError

    @property
    def runs_flash_attn(self) -> bool:
        """Whether the package flash-attn runs on the device. On a CPU, tests run a replacement of its kernel."""
        raise NotImplementedError

    def is_alike(self, other: Device, answers: Answers) -> bool:
        """Whether it would have answered what was asked of ``other`` as that did (``noting``)."""
        return self == other

    def workspace_of_sum(self, x: Tensor, reduced: Sequence[bool]) -> Sequence[Size]:
        """Bytes of each temporary of a sum or a norm over the ``reduced`` dimensions, its result left out."""
        raise NotImplementedError

    def workspace_of_mean(self, x: Tensor, reduced: Sequence[bool]) -> Sequence[Size]:
        """Bytes of each temporary of a mean over the ``reduced`` dimensions, its result left out."""
        raise NotImplementedError


@dataclass(frozen=True)
class Cpu(Device):
    """A CPU with ``THREADS`` threads, by default one with AVX512."""

    onednn_bfloat16: bool = True

    type = "cpu"
    has_own_memory = converts_on_load = autocasts_to_float32 = fuses_dropout = uses_cublas = False
    float32_statistics = sorts_ids = flattens_indices = multiplies_for_softmax = foreach = compiled_bitsandbytes = False
    tiles_on_chip = selects_attention = fuses_rms_norm = False
    splits_by_thread = copies_by_blocks = buffers_scatters = copies_to_select_columns = lapack = True
    copies_strided_index = True
    cublas_workspace = 0
    takes_grouped_heads = adds_products_in_place = runs_flash_attn = True

    def workspace_of_sum(self, x: Tensor, reduced: Sequence[bool]) -> Sequence[Size]:
        """16-bit numbers are summed from a float32 copy, if the reduced dimensions are not neighbours."""
        if x.dtype not in REDUCED:
            return ()
        within = [gone for gone, size in zip(reduced, x.shape, strict=True) if size != 1]
        groups = sum(now and not before for before, now in zip([False, *within], within, strict=False))
        return self.workspace_of_mean(x, reduced) if groups > 1 else ()

    def workspace_of_mean(self, x: Tensor, reduced: Sequence[bool]) -> Sequence[Size]:
        """16-bit means are float32 sums of a float32 copy (``mean_kernel_impl``)."""
        if x.dtype not in REDUCED:
            return ()
        kept = product(size for size, gone in zip(x.shape, reduced, strict=True) if not gone)
        return kept * ITEMSIZE["float32"], x.numel * ITEMSIZE["float32"]


CPU = Cpu()


@dataclass(frozen=True)
class Cuda(Device):
    """An NVIDIA GPU, by default an A100."""

    capability: tuple[int, int] = (8, 0)
    """Compute capability. It decides which attention kernels there are."""
    sdpa_kernel: str | None = None
    """The only attention kernel that PyTorch may choose, if one is set (``torch.nn.attention.sdpa_kernel``)."""
    multiprocessors: int = 108
    """Streaming multiprocessors. They decide how many thread blocks a reduction is spread over."""

    type = "cuda"
    has_own_memory = converts_on_load = autocasts_to_float32 = fuses_dropout = uses_cublas = True
    float32_statistics = sorts_ids = flattens_indices = multiplies_for_softmax = foreach = compiled_bitsandbytes = True
    tiles_on_chip = selects_attention = fuses_rms_norm = True
    onednn_bfloat16: bool = False
    splits_by_thread = copies_by_blocks = buffers_scatters = copies_to_select_columns = lapack = False
    copies_strided_index = False

    @property
    def cublas_workspace(self) -> int:
        return workspace_bytes(self.capability)

    def ask(self, function: Callable[..., T], *given: Any) -> T:
        """What a function gives of the capability and other arguments. Rules ask about the capability by this alone."""
        answer = function(self.capability, *given)
        if _answers is not None:
            _answers[function, given] = answer
        return answer

    def is_alike(self, other: Device, answers: Answers) -> bool:
        if not isinstance(other, Cuda) or self != replace(other, capability=self.capability):
            return False
        return all(function(self.capability, *given) == found for (function, given), found in answers.items())

    @property
    def takes_grouped_heads(self) -> bool:
        return self.sdpa_kernel != "efficient"

    @property
    def adds_products_in_place(self) -> bool:
        return self.ask(_is_ampere)

    @property
    def runs_flash_attn(self) -> bool:
        return self.ask(_is_ampere)

    def workspace_of_sum(self, x: Tensor, reduced: Sequence[bool]) -> Sequence[Size]:
        """Partial results of a reduction over several thread blocks. Of symbols there are none, but in a log that is to
        be evaluated what gives them.
        """
        sizes = (*x.shape, *strides_of(x))
        if all(isinstance(size, int) for size in sizes):
            return self._workspace(tuple(reduced), *sizes)
        if x.ledger.events is not None and x.ledger.events.outlines_loops:
            own: Any = [_Workspace(self, tuple(reduced), sizes, number) for number in range(2)]
            return list(own)
        is_so(lambda *sizes: bool(self._workspace(tuple(reduced), *sizes)), *sizes, ruled=False)
        return ()

    def _workspace(self, reduced: tuple[bool, ...], *sizes: Any) -> Sequence[int]:
        rank = len(reduced)
        return self.ask(reduction_workspace, sizes[:rank], sizes[rank:], reduced, self.multiprocessors) or ()

    workspace_of_mean = workspace_of_sum


@dataclass(frozen=True)
class _Workspace:
    """In a log with symbols, one of the two tensors of ``reduction_workspace``; of no bytes where there are none."""

    device: Cuda
    reduced: tuple[bool, ...]
    sizes: tuple[Size, ...]
    """The operand's shape, then its strides."""
    number: int

    def evaluate(self, values: Mapping[str, int]) -> int:
        found = self.device._workspace(self.reduced, *(evaluated(size, values) for size in self.sizes))
        return found[self.number] if found else 0


def _is_ampere(capability: tuple[int, int]) -> bool:
    """Whether it is Ampere or newer."""
    return capability >= (8, 0)


DEVICES: dict[str, Device] = {device.type: device for device in (CPU, Cuda())}
"""A device of each type."""
