"""Merging: ``merge_and_unload`` of a LoRA of PEFT 0.21 into its base, and the save of the merged model.

``tuners/lora/layer.py``: ``get_delta_weight`` multiplies B and A, and then by the scaling, which makes a second matrix
of the weight's shape. With 16-bit adapters it does so in float32 on a CPU. The sum is in place. Where base and delta
have different dtypes, a CPU casts the weight to the wider one and makes the sum beside it. ``safe_merge`` adds to a
copy and looks for values that are not finite. Each layer's adapter is freed once it is merged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..ledger import ITEMSIZE, whole
from ..methods.lora import LoraOptions
from .checkpoint import OTHER_FILES, model_files, split
from .moment import Moment
from .weights import Weights

if TYPE_CHECKING:
    from ..engines.engine import Job
    from .options import RunOptions


def unknown(job: Job, weights: Weights) -> str:
    """Why there is no rule for merging a plan's adapter; empty where there is one."""
    plan, method = job.plan, job.plan.method.inner
    if not isinstance(method, LoraOptions) or method.use_dora:
        return f"method: {method.name}" + (" with use_dora: true" if isinstance(method, LoraOptions) else "")
    if plan.base is not None:
        return f"dtype: {plan.dtype}"
    if weights.experts:
        return f"experts of {job.spec.config.family}"
    return "" if _adapted(weights) else "adapters on embeddings alone, or on this model's experts"


def merging(job: Job, options: RunOptions, weights: Weights) -> list[Moment]:
    """The moments of merging, after training: without optimizer states. Of a plan with a rule for it (``unknown``)."""
    has_gpu = job.step.device.has_own_memory
    base = weights.nbytes
    adapters, work = 0, 0
    for n_out, n_in, rank, dtype in _adapted(weights):
        adapters += rank * (n_out + n_in) * ITEMSIZE[dtype]
        work = max(work, _work(n_out, n_in, rank, ITEMSIZE[dtype], job, options.safe_merge))
    why = "the model, its adapters and the delta of the largest adapted weight, twice"
    files = model_files(weights.parameters)
    found = [Moment("merging", "device" if has_gpu else "host", base + adapters + work, why)]
    if has_gpu:
        copies = max(sum(weight.nbytes for weight in part) for part in split(weights.parameters))
        found.append(Moment("merging", "host", copies, "a copy of all tensors of a file of the merged model"))
    found.append(Moment("merging", "disk", sum(files.values()) + OTHER_FILES, "the merged model"))
    return found


def _work(n_out: int, n_in: int, rank: int, adapter: int, job: Job, safe: bool) -> int:
    """The largest bytes of temporaries while a weight [n_out, n_in] is merged. ``adapter``: bytes of its elements."""
    weight = ITEMSIZE[job.step.dtype]
    on_cpu = not job.step.device.has_own_memory
    casts = 4 * rank * (n_out + n_in) if on_cpu and adapter == 2 else 0
    product = 4 if on_cpu else adapter
    delta = n_out * n_in * 2 * product + casts
    if safe:  # the copy is there throughout; isfinite makes absolute values and three masks
        copy = n_out * n_in * weight
        return copy + max(delta, n_out * n_in * (adapter + weight + 3))
    summed = adapter + 2 * max(adapter, weight) if on_cpu and adapter != weight else adapter
    return max(delta, n_out * n_in * summed)


def _adapted(weights: Weights) -> list[tuple[int, int, int, str]]:
    """Outputs, inputs, rank and dtype of each linear layer with a LoRA."""
    found: dict[str, dict[str, tuple[tuple[int, ...], str]]] = {}
    for p in weights.trained.parameters:
        path, _, part = p.name.rpartition(".lora_")
        if part in ("A.weight", "B.weight"):
            found.setdefault(path, {})[part[0]] = tuple(map(whole, p.shape)), p.dtype
    return [(pair["B"][0][0], pair["A"][0][1], pair["A"][0][0], pair["B"][1]) for pair in found.values()]
