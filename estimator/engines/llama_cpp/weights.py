"""Weights in memory: mapped from the file, repacked beside it, or read into a buffer.

Sources: ``create_tensor``, ``get_mapping_range`` (``src/llama-model-loader.cpp``), ``load_tensors``
(``src/llama-model.cpp``), ``ggml_repack_get_optimal_repack_type`` (``ggml/src/ggml-cpu/repack.cpp``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from operator import add

from .ggml import pad
from .header import Header, TensorInfo
from .placement import INPUTS, ON_HOST, TIED, Layout

ALIGNMENT = 32
"""A tensor's offset in a file and in a CPU buffer is a multiple of so many bytes."""

REPACKED: Mapping[str, Mapping[str, int]] = {
    "cpu": {"q4_0": 8, "q4_k": 8, "iq4_nl": 8, "mxfp4": 8},
    "cpu-avx512": {"q4_0": 8, "q4_k": 8, "iq4_nl": 8, "mxfp4": 8, "q2_k": 8},
    "cpu-arm": {"q4_0": 4, "q4_k": 8, "q5_k": 8, "q6_k": 8, "iq4_nl": 4, "mxfp4": 4, "q8_0": 4},
}
"""By backend, the types whose products use repacked weights; the number of rows must be a multiple of the value.
x86-64 needs AVX2 for it, ARM the dot-product instructions (ARMv8.2: Cortex-A76, Apple A11 and later)."""

_OUTPUT_FIRST = ("gemma3n",)
"""Architectures that create the output before the embedding that it is tied to, so that both get memory."""


@dataclass(frozen=True)
class Weights:
    """Bytes of a model's weights."""

    total: int
    """All weights, with the second copy of a tied embedding where one gets memory."""
    mapped: int
    """The mapped part of the file: clean pages, which the operating system may drop and read again."""
    idle: int
    """The part of ``mapped`` that decoding does not read again: tensors that are used in their repacked form, and
    embeddings, of which only the tokens' rows are read."""
    repacked: int
    """Weights in the form that the CPU's kernels multiply with: dirty memory."""
    read: int
    """Weights that were read into a buffer: dirty memory."""
    device: int
    """Weights in devices' own memory."""
    places: tuple[int, ...]
    """The buffers of each device, and at the end those of the host."""


def repacked_rows(cpu: str, layout: Layout, repack: bool) -> Mapping[str, int]:
    """By type, the number of rows of which weights that the host repacks have a multiple.

    Beside a device that pins memory of the host, no weights are repacked: they are in that memory, or mapped.
    """
    pinned = any(device.backend.pins_host for device in layout.devices)
    return REPACKED.get(cpu, {}) if repack and not pinned else {}


def repacked_names(header: Header, rows: Mapping[str, int]) -> frozenset[str]:
    """The weights that the host would repack."""
    found = {name for name, tensor in header.tensors.items() if _is_repacked(name, tensor, rows)}
    return frozenset(found | ({TIED} if _multiplied(header.tensors["token_embd.weight"], rows) else set()))


def weights(
    header: Header, cpu: str = "cpu", layout: Layout = ON_HOST, *, use_mmap: bool = True, repack: bool = True
) -> Weights:
    """The bytes of a model's weights, by where they are; ``cpu`` is the host's processor."""
    host, rows = layout.host, repacked_rows(cpu, layout, repack)
    maps = [use_mmap and device.backend.maps for device in layout.devices] + [False]
    places = [0] * (host + 1)
    runs: list[list[int]] = []
    """Ranges of the file that are mapped: one with gaps, or beside devices each of the host's tensors."""
    idle: list[tuple[int, int]] = []
    at = repacked = kept = of_devices = 0
    embedding = header.tensors["token_embd.weight"]
    tied = layout.of(TIED) if "output.weight" not in header.tensors else None
    in_place = tied is not None and (maps[tied] or (tied == host and not _multiplied(embedding, rows)))
    for name, tensor in header.tensors.items():
        end = at + tensor.nbytes
        if name in INPUTS and not (in_place and tensor is embedding):
            idle.append((at, end))
        if shared := layout.rows_of(name, tensor.kind, tensor.shape):
            places = [*map(add, places, (*shared, 0))]
        for place in layout.all_of(name) if not shared else ():
            size = layout.size(place, tensor.kind, tensor.shape, tensor.nbytes)
            if place < host:
                places[place] += size
            elif _is_repacked(name, tensor, rows):
                idle.append((at, end))
                repacked += size
                continue
            else:
                kept += size
            if place == host or maps[place]:  # what the host reads is mapped, too, where anything is
                if layout.devices or not runs:
                    runs.append([at, end])
                runs[-1][1] = end
                of_devices += (end - at) * (place < host)
        at = pad(end, ALIGNMENT)
    if tied == host and _multiplied(embedding, rows):
        repacked += pad(embedding.nbytes, ALIGNMENT)
    elif tied == host and header.architecture in _OUTPUT_FIRST and not use_mmap:  # both would be the same pages
        kept += pad(embedding.nbytes, ALIGNMENT)
    elif tied is not None and tied < host and not maps[tied]:
        places[tied] += layout.size(tied, embedding.kind, embedding.shape, embedding.nbytes)
    mapped = sum(end - start for start, end in runs) if use_mmap else 0
    on_devices = sum(size for size, is_mapped in zip(places, maps, strict=True) if not is_mapped)
    return Weights(
        total=kept + repacked + sum(places),
        mapped=mapped,
        idle=sum(max(min(end, last) - max(start, first), 0) for start, end in idle for first, last in runs if use_mmap),
        repacked=repacked,
        read=0 if use_mmap else kept,
        device=on_devices,
        places=(*places[:-1], (mapped - of_devices if use_mmap else kept) + repacked),
    )


def _is_repacked(name: str, tensor: TensorInfo, rows: Mapping[str, int]) -> bool:
    return name.endswith(".weight") and name not in INPUTS and _multiplied(tensor, rows, "_exps." in name)


def _multiplied(tensor: TensorInfo, rows: Mapping[str, int], experts: bool = False) -> bool:
    """Whether products with a tensor run on a repacked copy."""
    of = rows.get(tensor.kind)
    return of is not None and len(tensor.shape) == (3 if experts else 2) and tensor.shape[1] % of == 0
