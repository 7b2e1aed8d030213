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
from ..io.fields import parse_size
from ..ledger import ITEMSIZE
from .checkpoint import split
from .moment import Moment
from .options import RunOptions, processes_of_host
from .weights import Weights, loaded_dtype, weights_of

if TYPE_CHECKING:
    from ..engines.engine import Job

MERGED = (
    *("afmoe", "axk1", "axk2", "bailing_hybrid", "beam", "cohere2_moe", "deepseek_v2", "deepseek_v3"),
    *("deepseek_v32", "deepseek_v4", "dots1", "ernie4_5_moe", "exaone_moe", "flex_olmo", "flint", "glm4_moe"),
    *("glm4_moe_lite", "glm_moe_dsa", "hunyuan_v1_moe", "hy_v3", "jamba", "kimi_linear", "kolibri1", "laguna"),
    *("lfm2_moe", "longcat_flash", "mellum", "mimo_v2_flash", "minimax", "minimax_m2", "mixtral", "nemotron_h"),
    *("olmoe", "phimoe", "qwen2_moe", "qwen3_5_moe_text", "qwen3_moe", "qwen3_next", "qwen4_exp_text"),
    *("sarvam_mla", "sarvam_moe", "solar_open"),
)
"""Model types whose files have the experts one by one (``conversion_mapping.py``, with ``MergeModulelist``)."""
GLOBAL_WORKERS = 4
"""Threads that read weights, on a machine of four processors and more."""


def unknown(job: Job, weights: Weights) -> str:
    """Why there is no rule for the loading of a plan's model; empty where there is one."""
    dtype = job.plan.dtype
    if job.step.base is not None and dtype not in BITSANDBYTES:
        return f"dtype: {dtype}, whose files are not known here"
    family = job.spec.config.family
    if weights.experts and (job.step.base is not None or _model_type(job) not in MERGED):
        return f"the experts of {family}" + (f" and dtype: {dtype}" if job.step.base is not None else "")
    return ""


def loaded_on_host(job: Job, options: RunOptions) -> tuple[int, list[str]]:
    """Bytes of a host's memory that its processes hold while they load, and a sentence where no rule says how many."""
    weights = weights_of(job)
    if why := unknown(job, weights):
        return 0, [f"loading has no rule with {why}, so host_memory is without it"]
    return max((one.held for one in loading(job, options, weights) if one.where == "host"), default=0), []


def loading(job: Job, options: RunOptions, weights: Weights) -> list[Moment]:
    """The moments of loading, of a plan with a rule for it (``unknown``).

    Of a model that processes share, the last is that of all processes of a host. They map the same pages of the files.
    With ``cpu_ram_efficient_loading`` all but the first have a model without data (``modeling_utils.py:
    _move_missing_keys_from_meta_to_device``). What a device has of a sharded model while it loads has no rule.
    """
    moments = _of_process(job, options, weights)
    sharding = job.step.sharding
    if sharding is None:
        return moments
    if sharding.name != "ddp":
        moments = [one for one in moments if one.where == "host"]
    there = processes_of_host(sharding.world_size, options)
    readers = 1 if options.cpu_ram_efficient_loading else there
    first = moments[0]
    why = f"{there} processes on a host, of which {'one reads' if readers == 1 else 'each reads'} the weights"
    return [*moments, Moment("loading", "host", first.droppable + readers * first.held, why, first.droppable, True)]


def _of_process(job: Job, options: RunOptions, weights: Weights) -> list[Moment]:
    """The moments of one process that loads the model."""
    step, base = job.step, job.step.base
    in_file, wanted = file_dtype(job, options), loaded_dtype(job)
    size = ITEMSIZE[wanted]
    casts = [w.numel * size for w in weights.parameters if in_file != wanted]
    experts = {w.name for w in weights.experts}
    packed = [w.numel for w in weights.parameters if w.packed]
    work = _packing(job, max(packed, default=0), wanted)
    # Gates and ups of all experts are stacked, and then joined: the largest of them is there twice.
    work += max((w.nbytes for w in weights.experts if w.name.endswith("gate_up_proj")), default=0)
    why = _why(in_file, wanted, job)
    if not step.device.has_own_memory:
        made = [w for w in weights.parameters if w.packed or in_file != wanted or w.name in experts]
        if not made:
            why = "weights are views of the files, whose pages are read when a step touches them"
        read = sum(w.numel for w in made) * ITEMSIZE[in_file]
        cast = max(packed, default=0) * size if casts else 0
        held = sum(w.nbytes for w in made) + weights.constants + cast + work
        return [_on_host(read, held, why, in_file, options, weights)]
    if base is not None:
        # Bnb8bitQuantize takes each weight back to the host.
        held = max(packed) * size if job.plan.dtype == "int8" else max(casts, default=0)
    elif options.device_map == "none":
        held = sum(casts) if casts else sum(w.nbytes for w in weights.experts)
        held, work = held + work, 0
        why += ", before the model moves to the GPU"
    else:
        one_by_one = (w.numel // (w.shape[0] if w.name in experts else 1) * size for w in weights.parameters)
        held = sum(heapq.nlargest(GLOBAL_WORKERS, one_by_one)) if casts else 0
        why += f", {GLOBAL_WORKERS} at a time" if casts else ""
    read = sum(w.numel for w in weights.parameters) * ITEMSIZE[in_file]
    on_device = "the model"
    if work:
        while_it = "its experts are joined" if base is None else "it is quantised"
        on_device += f", and the largest weight while {while_it}"
    return [
        _on_host(read, held, why, in_file, options, weights),
        Moment("loading", "device", weights.nbytes + work, on_device),
    ]


def _on_host(read: int, held: int, why: str, in_file: str, options: RunOptions, weights: Weights) -> Moment:
    """The host's moment, of ``read`` bytes of mapped files and ``held`` beside them.

    Files that are read, not mapped, are there whole, one after the other, beside the tensors that are made of them and
    of those before (``safetensors.torch.load``). All tensors stay until the last weight is in the model.
    """
    if not options.disable_mmap:
        return Moment("loading", "host", read + held, why, droppable=read)
    tensors = [w._replace(nbytes=w.numel * ITEMSIZE[in_file]) for w in weights.parameters]
    done = most = 0
    for part in split(tensors, parse_size(options.max_shard_size)):
        nbytes = sum(w.nbytes for w in part)
        done += nbytes
        most = max(most, done + nbytes)
    if most > done + held:
        return Moment("loading", "host", most, "a file that was read, and its tensors")
    return Moment("loading", "host", done + held, f"all tensors of files that were read; {why}")


def file_dtype(job: Job, options: RunOptions) -> str:
    """The dtype of the weights in the files: the plan's, the model's config's, or the one that is loaded."""
    raw = job.spec.raw
    named = str(options.checkpoint_dtype or raw.get("dtype") or raw.get("torch_dtype") or "").removeprefix("torch.")
    return named if named in ("float32", "bfloat16", "float16") else loaded_dtype(job)


def _model_type(job: Job) -> str:
    return str(job.spec.raw.get("model_type", ""))


def _why(in_file: str, wanted: str, job: Job) -> str:
    """What happens to the weights on their way."""
    merged = ", experts joined" if _model_type(job) in MERGED else ""
    if job.step.base is not None:
        cast = "" if in_file == wanted else f"cast to {wanted} and "
        return f"weights are read in {in_file}, {cast}quantised to {job.plan.dtype} one after the other"
    if in_file != wanted:
        return f"weights are cast from the files' {in_file} to {wanted}{merged}"
    return f"weights are copied from the mapped files{merged}"


def _packing(job: Job, numel: int, wanted: str) -> int:
    """Bytes beside the packed ones while bitsandbytes 0.50 quantises a weight of ``numel`` elements.

    On a GPU the weight itself in the dtype ``wanted``, and of LLM.int8 a float16 copy. On a CPU, beside the weight,
    what ``backends/default/ops.py`` makes: ``quantize_4bit`` scaled weights in float32, codes in int32 and in int8,
    and a float32 copy of 16-bit weights; ``int8_vectorwise_quant`` two float32 matrices.
    """
    four_bit = job.plan.dtype in FOUR_BIT
    if job.step.device.has_own_memory:
        return numel * (ITEMSIZE[wanted] + (0 if four_bit else 2))
    if four_bit:
        return numel * (9 + (0 if wanted == "float32" else 4))
    return numel * 8
