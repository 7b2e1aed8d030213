"""Loading: ``from_pretrained`` of safetensors files, of transformers 5.24 (``core_model_loading.py``), on Linux.

``safe_open`` maps each file into memory (safetensors 0.8), and all of them stay open to the end
(``modeling_utils.py: _load_pretrained_model``). ``_materialize_copy`` then takes a view of a file for each weight and
calls ``to(device, dtype)``. On a CPU, with the dtype of the file, that view is the weight: its pages are read when
something touches them. A cast makes a copy of its own and touches the pages of the file, which stay in the resident set
until the file is closed. They hold nothing that is not in the file, so the kernel drops them where memory is short.

Several files take what one does. Weights that are quantised as they are read come one after the other; others in
``GLOBAL_WORKERS`` threads. PyTorch casts on the host before it copies to a GPU (``aten/src/ATen/native/cuda/Copy.cu:
copy_requires_temporaries``).
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

from ..bases.formats import BITSANDBYTES, FOUR_BIT
from ..ledger import ITEMSIZE
from .moment import Moment
from .weights import Weights, loaded_dtype

if TYPE_CHECKING:
    from ..plans.resolve import Resolved
    from .options import RunOptions

GLOBAL_WORKERS = 4
"""Threads that read weights, on a machine of four processors and more."""


def unknown(resolved: Resolved, weights: Weights) -> str:
    """Why there is no rule for the loading of a plan's model; empty where there is one."""
    dtype = resolved.plan.dtype
    if resolved.step.base is not None and dtype not in BITSANDBYTES:
        return f"dtype: {dtype}, whose files are not known here"
    if weights.merges_experts:
        return f"{resolved.spec.config.family}, whose files may hold the experts one by one"
    return ""


def loading(resolved: Resolved, options: RunOptions, weights: Weights) -> list[Moment]:
    """The moments of loading, of a plan with a rule for it (``unknown``)."""
    step, base = resolved.step, resolved.step.base
    in_file, wanted = file_dtype(resolved, options), loaded_dtype(resolved)
    size = ITEMSIZE[wanted]
    casts = [w.numel * size for w in weights.parameters if in_file != wanted]
    packed = [w.numel for w in weights.parameters if w.packed]
    work = _packing(resolved, max(packed, default=0), wanted)
    why = _why(in_file, wanted, resolved)
    if not step.device.has_own_memory:
        made = [w for w in weights.parameters if w.packed or in_file != wanted]
        if not made:
            why = "weights are views of the files, whose pages are read when a step touches them"
        read = sum(w.numel for w in made) * ITEMSIZE[in_file]
        cast = max(packed, default=0) * size if casts else 0
        held = sum(w.nbytes for w in made) + weights.constants + cast + work
        return [Moment("loading", "host", read + held, why, droppable=read)]
    if base is not None:
        # Bnb8bitQuantize takes each weight back to the host.
        held = max(packed) * size if resolved.plan.dtype == "int8" else max(casts, default=0)
    elif options.device_map == "none":
        held = sum(casts)
        why += ", before the model moves to the GPU"
    else:
        held = sum(heapq.nlargest(GLOBAL_WORKERS, casts))
        why += f", {GLOBAL_WORKERS} at a time" if casts else ""
    read = sum(w.numel for w in weights.parameters) * ITEMSIZE[in_file]
    on_device = "the model" if base is None else "the model, and the largest weight while it is quantised"
    return [
        Moment("loading", "host", read + held, why, droppable=read),
        Moment("loading", "device", weights.nbytes + work, on_device),
    ]


def file_dtype(resolved: Resolved, options: RunOptions) -> str:
    """The dtype of the weights in the files: the plan's, the model's config's, or the one that is loaded."""
    raw = resolved.spec.raw
    named = str(options.checkpoint_dtype or raw.get("dtype") or raw.get("torch_dtype") or "").removeprefix("torch.")
    return named if named in ("float32", "bfloat16", "float16") else loaded_dtype(resolved)


def _why(in_file: str, wanted: str, resolved: Resolved) -> str:
    """What happens to the weights on their way."""
    if resolved.step.base is not None:
        cast = "" if in_file == wanted else f"cast to {wanted} and "
        return f"weights are read in {in_file}, {cast}quantised to {resolved.plan.dtype} one after the other"
    if in_file != wanted:
        return f"weights are cast from the files' {in_file} to {wanted}"
    return "weights are copied from the mapped files"


def _packing(resolved: Resolved, numel: int, wanted: str) -> int:
    """Bytes beside the packed ones while bitsandbytes 0.50 quantises a weight of ``numel`` elements.

    On a GPU the weight itself in the dtype ``wanted``, and of LLM.int8 a float16 copy. On a CPU, beside the weight,
    what ``backends/default/ops.py`` makes: ``quantize_4bit`` scaled weights in float32, codes in int32 and in int8,
    and a float32 copy of 16-bit weights; ``int8_vectorwise_quant`` two float32 matrices.
    """
    four_bit = resolved.plan.dtype in FOUR_BIT
    if resolved.step.device.has_own_memory:
        return numel * (ITEMSIZE[wanted] + (0 if four_bit else 2))
    if four_bit:
        return numel * (9 + (0 if wanted == "float32" else 4))
    return numel * 8
