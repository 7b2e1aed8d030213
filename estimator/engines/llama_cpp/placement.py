"""Where a model's layers, weights and caches are, if several devices share them.

Sources: ``load_tensors`` and ``make_gpu_buft_list`` (``src/llama-model.cpp``), ``create_tensor``
(``src/llama-model-loader.cpp``), the constructors of ``llama_context`` and of the caches.
"""

from __future__ import annotations

import re
import struct
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

from .ggml import TYPES, UNQUANTISED, pad, row_bytes

INPUTS = ("token_embd.weight", "per_layer_token_embd.weight")
"""Tables of which rows are looked up, not multiplied. They stay on the host."""
HOST = "cpu"
"""The name of the host, whose memory is beside that of all devices."""


@dataclass(frozen=True)
class Backend:
    """What runs a device, as far as memory depends on it. Sizes are bytes."""

    kind: str
    """Its name in a plan."""
    prefix: str
    """The engine's names of its devices, without their number."""
    alignment: int = 32
    """Tensors start at multiples of it (``get_alignment`` of the buffer's type)."""
    row_padding: int = 1
    """Quantised rows have room for a multiple of so many elements (``MATRIX_ROW_PADDING``)."""
    offload_tokens: int | None = None
    """A product with so many tokens or more runs on the device though the weight is on the host (``offload_op``)."""
    pins_host: bool = False
    """It has a type of buffer in the host's memory, which the host then uses in place of its own."""
    maps: bool = False
    """Its buffers can be pages of the model's file (``buffer_from_host_ptr``)."""


BACKENDS = {
    one.kind: one
    for one in (
        Backend("cuda", "CUDA", 128, 512, 32, pins_host=True),
        Backend("vulkan", "Vulkan", 32, 1, 32, pins_host=True),
        Backend("metal", "MTL", 32, 1, 32, maps=True),
        Backend("rpc", "dev"),
    )
}
"""Backends of devices that are not the host. ``rpc`` is a worker on a CPU."""
EXPERTS = r"\.ffn_(up|down|gate|gate_up)_(ch|)exps"
"""The names of experts' weights (``LLM_FFN_EXPS_REGEX``, ``common/common.h``)."""
ROW_ROUNDING = 128
"""Rows of a matrix are split at multiples of it (``get_row_rounding``)."""
COPIES = 4
"""Batches under way at once (``GGML_SCHED_MAX_COPIES``)."""


@dataclass(frozen=True)
class Device:
    """A device that holds a part of a model."""

    name: str
    """The engine's name: CUDA0."""
    backend: Backend
    free: int = 0
    """Bytes by which layers are shared out, where no shares are given."""


@dataclass(frozen=True)
class Layout:
    """Who holds what. A place is a number: of a device, or, behind all devices, of the host."""

    devices: tuple[Device, ...]
    layers: tuple[int, ...]
    """The place of each layer, and at the end that of the output."""
    kv_on_host: bool = False
    overrides: tuple[tuple[str, int], ...] = ()
    """Patterns of weights' names, and their places."""
    pipelines: bool = False
    rows: tuple[float, ...] = ()
    """The shares of the rows of each matrix that devices hold, if they share rows and not layers."""
    copies: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "copies", COPIES if self.pipelines else 1)

    @property
    def host(self) -> int:
        """The host's place."""
        return len(self.devices)

    @property
    def full(self) -> bool:
        """Whether devices hold all layers and the output."""
        return self.host not in self.layers

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all places."""
        return (*(device.name for device in self.devices), HOST)

    def layer_of(self, layer: int) -> int:
        """The place of a layer's cache and states."""
        return self.host if self.kv_on_host else self.layers[layer]

    def of(self, name: str) -> int:
        """The place of a weight, or of a cache's tensor, by its name."""
        if not self.devices:
            return 0
        if name.startswith("cache_"):
            return self.layer_of(int(name.rpartition("l")[2]))
        file_name = "token_embd.weight" if name == TIED else name.partition("#")[0]
        for pattern, place in self.overrides:
            if re.search(pattern, file_name):
                return place
        if name in INPUTS:
            return self.host
        number = name.partition("#")[2] or (name.split(".")[1] if name.startswith("blk.") else "")
        return self.layers[int(number)] if number else self.layers[-1]

    def all_of(self, name: str) -> tuple[int, ...]:
        """The places of a weight of the file: of frequencies, all with layers."""
        if name not in FREQUENCIES or not self.devices:
            return (self.of(name),)
        return tuple(sorted(set(self.layers[:-1])))

    def rows_of(self, name: str, kind: str, shape: Sequence[int]) -> list[int]:
        """Bytes of a weight's rows on each device, where devices share rows; empty for one that is whole.

        ``ggml_backend_cuda_split_buffer_type_get_alloc_size`` (``ggml/src/ggml-cuda/ggml-cuda.cu``) of builds of 2025.
        """
        is_matrix = len(shape) == 2 and name.endswith(".weight") and "norm" not in name and name not in FREQUENCIES
        if not self.rows or not is_matrix or self.of(name) == self.host:
            return []
        starts = [0.0, *accumulate(self.rows)]
        edges = [int(shape[1] * start / starts[-1]) // ROW_ROUNDING * ROW_ROUNDING for start in starts[:-1]]
        edges.append(shape[1])
        row = row_bytes(kind, shape[0])
        padding = self.devices[0].backend.row_padding
        more = row_bytes(kind, padding - shape[0] % padding) if shape[0] % padding else 0
        return [(end - start) * row + more if end > start else 0 for start, end in pairwise(edges)]

    def size(self, place: int, kind: str, shape: Sequence[int], nbytes: int) -> int:
        """The bytes that a tensor takes at a place (``get_alloc_size``, rounded up to the alignment)."""
        if place == self.host:
            return pad(nbytes, 32)
        backend = self.devices[place].backend
        if backend.row_padding > 1 and kind not in UNQUANTISED and shape[0] % backend.row_padding:
            more = pad(shape[0], backend.row_padding) - shape[0]
            nbytes += row_bytes(kind, pad(more, TYPES[kind][0]))
        return pad(nbytes, backend.alignment)


TIED = "output.weight (token_embd.weight)"
"""The name of an output that is the embedding. Its device gets a copy."""
FREQUENCIES = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
"""Weights that each device with layers has a copy of."""


ON_HOST = Layout((), ())
"""All of it on the host."""


def _float(value: float) -> float:
    """A number as C's ``float`` keeps it."""
    result: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return result


def share_out(layers: int, n_gpu_layers: int, shares: Sequence[float], output_first: bool = True) -> tuple[int, ...]:
    """The place of each layer, and at the end that of the output: the last ``n_gpu_layers`` of them are shared out.

    ``shares`` are of any unit. The sums and quotients are C's, since a layer on a boundary depends on their rounding.
    Where the output is not the first, it is on a device only behind all layers.
    """
    sums = list(accumulate((_float(share) for share in shares), lambda a, b: _float(a + b)))
    points = [_float(value / sums[-1]) for value in sums]
    first, count = max(layers + output_first - n_gpu_layers, 0), min(n_gpu_layers, layers + 1)
    return tuple(
        bisect_right(points, _float(_float(i - first) / count)) if first <= i < first + count else len(shares)
        for i in range(layers + 1)
    )
