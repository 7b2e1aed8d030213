"""Weights in memory: mapped from the file, repacked beside it, or read into a buffer.

Sources: ``create_tensor``, ``get_mapping_range`` (``src/llama-model-loader.cpp``), ``load_tensors``
(``src/llama-model.cpp``), ``ggml_repack_get_optimal_repack_type`` (``ggml/src/ggml-cpu/repack.cpp``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .ggml import pad
from .header import Header, TensorInfo
from .recipes import EMBEDDINGS

ALIGNMENT = 32
"""A tensor's offset in a file and in a CPU buffer is a multiple of so many bytes."""

REPACKED: Mapping[str, Mapping[str, int]] = {
    "cpu": {"q4_0": 8, "q4_k": 8, "iq4_nl": 8, "mxfp4": 8},
    "cpu-avx512": {"q4_0": 8, "q4_k": 8, "iq4_nl": 8, "mxfp4": 8, "q2_k": 8},
    "cpu-arm": {"q4_0": 4, "q4_k": 8, "q5_k": 8, "q6_k": 8, "iq4_nl": 4, "mxfp4": 4, "q8_0": 4},
}
"""By backend, the types whose products use repacked weights; the number of rows must be a multiple of the value.
x86-64 needs AVX2 for it, ARM the dot-product instructions (ARMv8.2: Cortex-A76, Apple A11 and later)."""

GPUS = {"metal": 32, "vulkan": 32, "cuda": 128}
"""Backends that run everything but the lookup of embedding rows, and the alignment in bytes of tensors in their buffers
(``get_alignment`` of each backend's buffer type)."""
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
    """Weights on a GPU."""


def weights(header: Header, backend: str = "cpu", *, use_mmap: bool = True, repack: bool = True) -> Weights:
    """The bytes of a model's weights, by where they are."""
    if backend in GPUS:
        return _on_gpu(header, backend, use_mmap)
    rows = REPACKED.get(backend, {}) if repack else {}
    place = 0
    first, last = None, 0
    repacked = kept = 0
    idle: list[tuple[int, int]] = []
    embedding = header.tensors["token_embd.weight"]
    tied = "output.weight" not in header.tensors and not _multiplied(embedding, rows)
    for name, tensor in header.tensors.items():
        size = tensor.nbytes
        if name in EMBEDDINGS and not (tied and tensor is embedding):
            idle.append((place, place + size))
        if _is_repacked(name, tensor, rows):
            idle.append((place, place + size))
            repacked += pad(size, ALIGNMENT)
        else:
            kept += pad(size, ALIGNMENT)
            first = place if first is None else first
            last = place + size
        place += pad(size, ALIGNMENT)
    if "output.weight" not in header.tensors:
        if _multiplied(embedding, rows):
            repacked += pad(embedding.nbytes, ALIGNMENT)
        elif header.architecture in _OUTPUT_FIRST and not use_mmap:  # both would be the same pages of the file
            kept += pad(embedding.nbytes, ALIGNMENT)
    span = last - (first or 0)
    return Weights(
        total=kept + repacked,
        mapped=span if use_mmap else 0,
        idle=sum(max(min(end, last) - max(start, first or 0), 0) for start, end in idle) if use_mmap else 0,
        repacked=repacked,
        read=0 if use_mmap else kept,
        device=0,
    )


def _on_gpu(header: Header, backend: str, use_mmap: bool) -> Weights:
    """All weights are on the device but the embedding, whose rows the host looks up. A tied output is a second copy.

    Metal maps the file, so a tied output shares the embedding's pages.
    """
    gathered = sum(pad(header.tensors[name].nbytes, ALIGNMENT) for name in EMBEDDINGS if name in header.tensors)
    whole = sum(pad(tensor.nbytes, ALIGNMENT) for tensor in header.tensors.values())
    tied = 0 if "output.weight" in header.tensors else header.tensors["token_embd.weight"].nbytes
    idle = gathered if use_mmap else 0
    if backend == "metal" and use_mmap:
        return Weights(whole, whole, idle - pad(tied, ALIGNMENT), 0, 0, 0)
    device = whole - gathered + tied
    return Weights(whole + tied, idle, idle, 0, 0 if use_mmap else gathered, device)


def _is_repacked(name: str, tensor: TensorInfo, rows: Mapping[str, int]) -> bool:
    return name.endswith(".weight") and name not in EMBEDDINGS and _multiplied(tensor, rows, "_exps." in name)


def _multiplied(tensor: TensorInfo, rows: Mapping[str, int], experts: bool = False) -> bool:
    """Whether products with a tensor run on a repacked copy."""
    of = rows.get(tensor.kind)
    return of is not None and len(tensor.shape) == (3 if experts else 2) and tensor.shape[1] % of == 0
