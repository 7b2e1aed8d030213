"""vLLM in the process of a trainer that generates with it (``trl/generation/vllm_generation.py`` of TRL 1.16).

It starts beside the trainer's model, whose bytes are not part of its share: ``vllm/v1/worker/gpu_worker.py:
init_device`` takes its first snapshot then. Its weights, CUDA graphs and cache stay. What steps take comes from
PyTorch's allocator, which the trainer has, too. Asleep at level 2 it has given weights and cache back.
"""

from __future__ import annotations

from ...bases.formats import FOUR_BIT
from ...ledger import whole
from ...text import human
from ..engine import Job
from ..replay import Beside, Usage
from ..served.checkpoint import Checkpoint
from ..served.engine import Start
from .engine import ENGINE

TOKENS = 4096
"""``max_num_batched_tokens``, which TRL gives."""


def started(job: Job) -> Start:
    """What vLLM says when the trainer starts it. Raises ``InputError`` in its words."""
    plan, gpu = job.plan, job.plan.engine.device_of(job.plan)
    ranks, per = plan.vllm_tensor_parallel_size, plan.steps_per_generation or plan.gradient_accumulation_steps
    packs = plan.dtype in FOUR_BIT  # while it loads, of which 0.33 has no rule
    given = {
        "release": "0.11" if packs else "0.33",
        "max_model_len": plan.vllm_max_model_length,
        "tensor_parallel_size": ranks,
        "gpu_memory_utilization": plan.vllm_gpu_memory_utilization,
        "max_num_batched_tokens": TOKENS,
        "max_num_seqs": plan.batch * ranks * per,
        "quantization": "bitsandbytes" if packs else None,
    }
    options = ENGINE.resolved(ENGINE.options.model_validate(given), job.spec, gpu)
    ENGINE.check(options, gpu)
    quantization = None if packs else getattr(job.spec, "quantization", None)
    return ENGINE.start(Checkpoint(job.spec, quantization, job.spec.warnings), options, gpu)


def held_in_a_step(job: Job, found: Start) -> int:
    """Bytes that vLLM has outside PyTorch's allocator while the trainer's step runs."""
    sizes = found.bytes
    if job.plan.vllm_enable_sleep_mode:
        return sizes["non_torch"] + sizes["cudagraph"]
    return sizes["requested"] - sizes["activation"]


def beside(job: Job, found: Start, used: Usage) -> Beside:
    """What vLLM adds to a replayed process, where that is largest."""
    sizes, plan = found.bytes, job.plan
    left = next(phase.allocated for phase in used.phases if phase.name == "after step")
    awake, asleep = sizes["requested"], held_in_a_step(job, found)
    step = used.reserved_peak + asleep
    generation = left + awake if plan.vllm_enable_sleep_mode else max(step, left + awake)
    share, own = human(awake), human(left)
    if generation > step:
        said = (
            f"the process is largest while vLLM generates: {own} of the trainer's models and optimizer, and vLLM's "
            f"share of {share}; a smaller vllm_gpu_memory_utilization takes less"
        )
    else:
        sleeps = "which sleeps" if plan.vllm_enable_sleep_mode else "which stays; vllm_enable_sleep_mode: true frees it"
        said = f"the process is largest in the trainer's step, beside {human(asleep)} of vLLM, {sleeps}"
    options = found.options
    needed = sum(sizes[name] for name in ("weights", "activation", "non_torch", "cudagraph"))
    needed += sizes["block"] * (1 - options.is_old + whole(found.cache.needed(options.max_model_len, options)))
    remedy = f"raise vllm_gpu_memory_utilization, or set vllm_max_model_length: {plan.seq}, a prompt and its completion"
    refusal = "" if found.refusal is None else f"vLLM stops: {found.refusal}; {remedy}"
    name, least = ENGINE.block, f"{ENGINE.block}_needed"
    held = max(generation, step) - used.reserved_peak
    return Beside({name: awake, least: needed}, held, (least, needed, awake, 0, refusal), said)
