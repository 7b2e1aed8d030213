"""The third witness: a real step, measured.

It runs the plan's step. On a CPU it reads PyTorch's profiler, which reports every allocation and every free, so live
bytes are exact and reproducible. On a GPU it reads the statistics of ``torch.cuda``. ``measured`` runs the step in a
fresh process, ``python -m estimator.witnesses.measure``.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from typing import Any
from unittest import mock

from ..errors import InputError
from ..io import fresh
from ..methods.adalora import AdaLoraMethod
from ..operators import THREADS
from ..plans.plan import Plan, parse_plan
from ..plans.resolve import Resolved, resolve
from ..programs.heads import HEADS, places_of
from ..programs.libraries import without_collector
from ..recorder.model_classes import takes_cache
from ..steps.loss import labelled
from ..steps.sharding.fsdp1 import Fsdp1
from ..steps.sharding.zero import Zero
from ..steps.sharding.zero3 import Zero3
from ..steps.step import run
from .machine import peak_rss, reset_peak_rss, versions

_LIBRARIES = ("torch", "transformers", "peft", "llm-memory-estimator")
MMAP_THRESHOLD_BYTES = 128 * 1024
"""glibc's documented initial ``M_MMAP_THRESHOLD``. Where it is set, glibc does not raise it as blocks are freed. So
freed tensors return to the system, and the resident set follows the live bytes."""


def measured(plan: Plan, default_malloc: bool = False, timeout: float = 3600) -> dict[str, Any]:
    """Measure a plan in a fresh process: sizes in bytes, the versions of the libraries, and the machine.

    The process runs with glibc's mmap threshold fixed at ``MMAP_THRESHOLD_BYTES``, which has no effect with other C
    libraries. With ``default_malloc`` glibc's heap keeps freed blocks, and the resident set also depends on the history
    of the process. Raises ``InputError`` where the plan is wrong or the step fails, for example for lack of memory.
    """
    environment = {}
    if plan.expandable_segments:
        environment["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"
    if not default_malloc:
        environment["MALLOC_MMAP_THRESHOLD_"] = str(MMAP_THRESHOLD_BYTES)
    process = fresh.run("witnesses.measure", plan.model_dump(exclude_unset=True), environment, timeout)
    if process.returncode == 2:
        raise InputError(fresh.reason(process).removeprefix("estimator: "))
    if process.returncode:
        raise InputError(f"the measured step did not finish: {fresh.reason(process)}; is there enough memory for it?")
    found: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return found


def run_cuda_step(resolved: Resolved) -> dict[str, Any]:
    """Build the plan's model, move it to the GPU and run its step. Returns what ``torch.cuda`` and the driver show.

    ``allocated_peak`` and ``reserved_peak`` are of the process with two steps. One more step gives the allocated peak
    of each part. ``context`` is the process's memory on the device outside the allocator (``cudaMemGetInfo``); other
    processes must not use the device meanwhile. Raises ``InputError`` where there is no GPU.
    """
    import torch

    from .reference.model import build_model

    if not torch.cuda.is_available():
        raise InputError(
            f"runtime torch-cuda needs a CUDA GPU, and PyTorch {torch.__version__} finds none "
            "(no driver, or a CPU build); estimate needs neither, measure runs where there is one"
        )
    plan = resolved.plan
    idle = _used_by_others()
    model = build_model(resolved).to("cuda")
    step = _step(resolved, model, "cuda")
    after_load = torch.cuda.memory_allocated()
    step.micro_steps = plan.gradient_accumulation_steps
    step.run()
    step.run()
    torch.cuda.synchronize()
    free, total = torch.cuda.mem_get_info()
    reserved = torch.cuda.memory_reserved()
    result: dict[str, Any] = {
        "allocated_after_load": after_load,
        "allocated_after_step": torch.cuda.memory_allocated(),
        "allocated_peak": torch.cuda.max_memory_allocated(),
        "reserved_peak": torch.cuda.max_memory_reserved(),
        "context": total - free - reserved - idle,
    }
    result["process"] = result["reserved_peak"] + result["context"]
    result["allocated_peaks"] = step.peaks_of_parts()
    device = torch.cuda.get_device_properties(0)
    result["versions"] = {
        **versions(*_LIBRARIES),
        "cuda": torch.version.cuda,
    }
    result["machine"] = {
        "device": device.name,
        "capability": [device.major, device.minor],
        "total_bytes": device.total_memory,
        "system": platform.platform(),
        "allocator": os.environ.get("PYTORCH_CUDA_ALLOC_CONF", ""),
    }
    return result


def _used_by_others() -> int:
    """Bytes of the GPU that are taken before this process has a CUDA context."""
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
    with contextlib.suppress(OSError, ValueError, subprocess.SubprocessError):
        return int(subprocess.run(command, capture_output=True, text=True, timeout=30).stdout) * 2**20
    return 0


def _step(resolved: Resolved, model: Any, device: str = "cpu", vocab: int | None = None) -> Step:
    """The step that a plan asks for, with token ids below ``vocab``."""
    from .reference.model import build_optimizer

    vocab = vocab or resolved.spec.config.vocab_size
    if resolved.plan.generate is not None:
        return _Generate(resolved, vocab, model.eval(), None, device)
    if resolved.plan.task == "infer":
        return _Prefill(resolved, vocab, model.eval(), None, device)
    optimizer = build_optimizer(resolved, model)
    if isinstance(resolved.step.sharding, (Zero, Zero3)):
        from .reference.zero import Engine

        optimizer = Engine(resolved, model, optimizer)
        model = optimizer.model
    return Step(resolved, vocab, model, optimizer, device)


def run_step(
    resolved: Resolved,
    vocab: int | None = None,
    make_step: Callable[[Resolved, Any], Step] | None = None,
    rank: int | None = None,
) -> dict[str, Any]:
    """Build the plan's model in this process and run its step four times. Returns the measurements.

    Of a sharded model they are those of the rank that the ledger finds largest, the first by default, or of ``rank``.
    Token ids are below ``vocab``, by default the model's.
    ``make_step`` makes another step of the model than the plan's own loop, such as a trainer's.

    Two plain steps set the process's peak. The third counts saved storages, which it keeps. The last is profiled. In
    inference the bytes of the KV cache are counted, too.
    """
    from .reference.sharding import as_rank

    sharding, plan = resolved.step.sharding, resolved.plan
    if isinstance(sharding, (Zero, Fsdp1)) and rank is None:
        rank = run(resolved.step, resolved.sizes(), resolved.method, plan.batch, plan.seq).rank
    with as_rank(sharding, rank or 0):
        return _run_step(resolved, vocab, make_step)


def _run_step(
    resolved: Resolved, vocab: int | None, make_step: Callable[[Resolved, Any], Step] | None
) -> dict[str, Any]:
    import torch

    from .reference import offloading
    from .reference.model import build_model, storage_bytes
    from .reference.quantised import resident_tensors
    from .reference.savings import watch_products
    from .reference.sharding import communication, gathered, local, reshard, shard, shards

    plan = resolved.plan
    torch.set_num_threads(THREADS)
    baseline = peak_rss()  # of the interpreter and the libraries
    model = build_model(resolved)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad and plan.task == "train")
    if resolved.step.sharding is not None:
        model = shard(model, resolved)
    step = _step(resolved, model, vocab=vocab) if make_step is None else make_step(resolved, model)

    saved: dict[int, Any] = {}

    def note(tensor: Any) -> None:
        if hasattr(tensor, "ds_id"):  # a parameter that DeepSpeed gathers
            return
        tensor = local(tensor)
        for part in (tensor._indices(), tensor._values()) if tensor.is_sparse else (tensor,):
            storage = part.untyped_storage()
            if storage._cdata not in step.resident:
                saved[storage._cdata] = storage

    step.micro_steps = plan.gradient_accumulation_steps
    reset_peak_rss()  # building the model takes more memory than the model
    step.run()
    step.run()
    largest = peak_rss()
    reshard(model)
    held, buffers = resident_tensors(model)
    held += [*shards(model), *getattr(step.optimizer, "parts", [])]
    # Again, since libraries replace the data of parameters in the first forward, and the old addresses are used again.
    # Some do so in each forward (CPT), so the storages are held.
    there = {t.untyped_storage()._cdata: t.untyped_storage() for t in (*held, *buffers, *gathered(model))}
    step.resident = set(there)
    step.note_saved = note
    step.micro_steps = plan.gradient_accumulation_steps if isinstance(resolved.step.sharding, (Zero, Zero3)) else 1
    with watch_products(note):
        step.run(keep_gradients=True)
    saved_bytes = sum(s.nbytes() for s in saved.values()) // step.micro_steps
    saved.clear()
    there.clear()
    step.note_saved = None
    gradients = getattr(step.optimizer, "gradient_bytes", None)
    if gradients is None:
        gradients = sum(local(p.grad).nbytes for p in model.parameters() if p.grad is not None)
    states = storage_bytes(map(local, step.end()))
    parameters = list(model.parameters())
    result = {
        "parameters": storage_bytes(held),
        "buffers": storage_bytes(buffers),
        "gradients": gradients,
        "optimizer": states,
        "saved": saved_bytes,
        "trainable_parameters": trained,
        "peak_rss": largest,
        "malloc_mmap_threshold": os.environ.get("MALLOC_MMAP_THRESHOLD_"),
        "baseline_rss": baseline,
    }
    if kept := communication(model) + storage_bytes(getattr(step.optimizer, "communication", [])):
        result["communication"] = kept
    step.micro_steps = plan.gradient_accumulation_steps
    step.previous = None
    if isinstance(step, _Prefill):
        result["kv_cache"] = step.cache_bytes()
    replaced = storage_bytes(step.importances())
    before = {p.untyped_storage()._cdata: p.untyped_storage() for p in map(local, parameters)}
    twice = plan.holds_previous_output or replaced or getattr(step.optimizer, "gathers", False)
    events = allocator_events(step.run_twice if twice else step.run)
    left = {local(p).untyped_storage()._cdata for p in parameters}
    replaced += sum(storage.nbytes() for key, storage in before.items() if key not in left)
    events.insert(0, (-replaced, ""))  # the profiler does not see the free of tensors that existed before
    result["peak_above_resident"], result["peak_at"] = peak_of(events)
    result["peak_without_convolution_scratch"], _ = peak_of(without_matmul_scratch(events, products=()))
    result["peak_without_matmul_scratch"], _ = peak_of(without_matmul_scratch(events))
    if plan.pins_memory:
        result["host_pinned"] = offloading.pinned.nbytes
    result["versions"] = versions(*_LIBRARIES)
    result["machine"] = {"processor": _processor(), "system": platform.platform(), "threads": THREADS}
    return result


class Step:
    """A step of training."""

    def __init__(self, resolved: Resolved, vocab: int, model: Any, optimizer: Any, device: str = "cpu") -> None:
        self.plan, self.vocab, self.model, self.optimizer, self.device = resolved.plan, vocab, model, optimizer, device
        plan, self.step = resolved.plan, resolved.step
        self.resident = {t.untyped_storage()._cdata for t in (*model.parameters(), *model.buffers())}
        self.backward: Callable[[Any], None] = getattr(optimizer, "backward", lambda loss: loss.backward())
        self.note_saved: Any = None
        """A function that is called with every tensor that is held for backward."""
        self.micro_steps = 1
        self.previous: Any = None
        """The output of the previous step, where the plan's loop keeps it."""
        method = plan.method
        allocates = isinstance(method, AdaLoraMethod) and method.allocates(device.startswith("cuda"))
        self.importance = getattr(model, "module", model).base_model if allocates else None
        """AdaLoRA's model, where the loop updates the importance of its adapters."""
        self.note_part: Callable[[str], None] = lambda part: None
        """A function that is called at the end of each part of the step, with its name."""
        takes = takes_cache(self.step.head, getattr(model, "get_base_model", lambda: model)())
        self._cache = {"use_cache": plan.use_cache} if takes else {}

    def run_twice(self) -> None:
        self.run()
        self.run()

    def run(self, keep_gradients: bool = False) -> None:
        if self.plan.method.procedure == "backpropagation":
            held = self._backpropagate()
            if self.plan.gradient_clipping and not hasattr(self.optimizer, "gathers"):  # DeepSpeed's engine clips
                import torch

                torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            if self.importance is not None:
                self.importance.update_and_allocate(1)  # a step before tinit, where nothing is pruned
            self.note_part("update")
            if self.plan.holds_previous_output:
                self.previous = held[1]
            del held
        else:
            self._without_backward(self._batch())
        if not keep_gradients:
            self.optimizer.zero_grad(set_to_none=True)

    def end(self) -> list[Any]:
        """Free the gradients. Returns the optimizer's states."""
        import torch

        self.optimizer.zero_grad(set_to_none=True)
        states = [v for state in self.optimizer.state.values() for v in state.values() if isinstance(v, torch.Tensor)]
        return states + self.importances()

    def importances(self) -> list[Any]:
        """AdaLoRA's tensors with the importance of its adapters, which each step makes anew."""
        if self.importance is None:
            return []
        kept = self.importance.rankallocator
        return [v for one in (kept.ipt, kept.exp_avg_ipt, kept.exp_avg_unc) for v in one.values()]

    def peaks_of_parts(self) -> dict[str, int]:
        """On a GPU: the largest allocated bytes of each part of a step (forward, backward, update)."""
        import torch

        peaks: dict[str, int] = {}

        def note(part: str) -> None:
            torch.cuda.synchronize()
            peaks[part] = torch.cuda.max_memory_allocated()
            torch.cuda.reset_peak_memory_stats()

        torch.cuda.reset_peak_memory_stats()
        self.note_part = note
        self.run()
        self.note_part = lambda part: None
        return peaks

    def _without_backward(self, batch: dict[str, Any]) -> None:
        from .reference import forward_ad, mezo

        if self.plan.method.procedure == "forward-mode":
            forward_ad.step(self.model, {**batch, **self._cache}, self.optimizer)
        else:
            trained = [p for p in self.model.parameters() if p.requires_grad]
            mezo.step(lambda: self._forward(batch).loss, self.model, trained)

    def _backpropagate(self) -> Any:
        """Forward and backward. Returns the tensors that the training loop keeps."""
        from .reference.sharding import sync

        for number in range(self.micro_steps):
            sync(self.model, self.step.sharding, last=number + 1 == self.micro_steps)
            batch = self._batch()
            out = self._forward(batch)
            self.previous = None
            self.note_part("forward")
            if not self.plan.keep_logits:
                out = out.loss
            self.backward(out.loss if self.plan.keep_logits else out)
            if self.plan.drop_output_before_step:
                out = None
            self.note_part("backward")
        return batch, out

    def _batch(self) -> dict[str, Any]:
        """The model's arguments, by their names."""
        import torch

        plan = self.plan
        if plan.packing:
            return self._packed()
        largest = {
            "input_ids": self.vocab,
            "decoder_input_ids": self.vocab,
            "labels": self.step.num_labels or self.vocab,
        }
        arguments: dict[str, Any] = {}
        for one in self.step.inputs():
            shape = one.sized(self.step.sizes(plan.batch, plan.seq))
            if one.same_as:
                made = arguments[one.same_as]
            elif one.name == "attention_mask":
                made = torch.ones(shape, dtype=torch.int64, device=self.device)
                made[0, -1] = int(not plan.attention_mask)
            elif one.name == "labels" and plan.data_collator and not self.step.num_labels:
                made = self._labels(arguments["input_ids"])
            elif one.dtype != "int64":
                made = torch.randn(shape, dtype=getattr(torch, one.dtype), device=self.device)
            elif one.values:
                made = torch.tensor(one.values * plan.batch, device=self.device).reshape(shape)
            elif one.name.endswith("token_type_ids"):
                made = torch.zeros(shape, dtype=torch.int64, device=self.device)
            else:
                made = torch.randint(largest.get(one.name, plan.seq), shape, device=self.device)
            if one.special is not None:
                made[made == one.special] = one.special + 1 if one.special + 1 < self.vocab else 0
                if one.ends:
                    made[:, -1] = one.special
            number, counts = one.placeholders
            if counts:
                made[made == number] = int(number == 0)
                for place in places_of(one.placeholders, plan.seq):
                    made[:, place] = number
            arguments[one.name] = made
        return arguments

    def _packed(self) -> dict[str, Any]:
        """One row of all sequences, as ``DataCollatorWithFlattening`` makes it."""
        import torch

        plan, tokens = self.plan, self.plan.row
        ids = torch.randint(self.vocab, (1, tokens), device=self.device)
        arguments = {"input_ids": ids, "labels": self._labels(ids)}
        longest = min(plan.seq, tokens - 1)  # two sequences at least
        arguments["position_ids"] = (torch.arange(tokens, device=self.device) % longest)[None]
        if plan.return_seq_idx:
            numbers = torch.arange(plan.batch, dtype=torch.int32, device=self.device)
            arguments["seq_idx"] = numbers.repeat_interleave(plan.seq)[None]
        return arguments

    def _labels(self, ids: Any) -> Any:
        """Labels of their own, of which the first have none where the plan's share is below 1."""
        import torch

        rows = ids[:, 1:].clone()
        rows.view(-1)[: rows.numel() - labelled(rows.numel(), self.plan.label_share)] = -100
        labels = torch.empty_like(ids)
        labels[:, :1], labels[:, 1:] = ids[:, :1], rows
        return labels

    def _forward(self, batch: dict[str, Any]) -> Any:
        with self._hooks(), self._autocast():
            out = self.model(**batch, **self._cache)
        if self.plan.convert_outputs_to_fp32:
            from accelerate.utils import convert_to_fp32

            out = convert_to_fp32(out)
        return out

    def _autocast(self) -> Any:
        """The context of the plan's forward passes."""
        import torch

        dtype = self.plan.autocast
        return torch.autocast(self.device, dtype=getattr(torch, dtype)) if dtype else contextlib.nullcontext()

    def _hooks(self) -> Any:
        """The hooks by which a forward pass keeps tensors for backward."""
        import torch

        from .reference import activations, offloading

        plan, note = self.plan, self.note_saved
        hooks = torch.autograd.graph.saved_tensors_hooks
        if plan.saved_activations == "as-is":
            return contextlib.nullcontext() if note is None else hooks(lambda x: (note(x), x)[1], lambda x: x)
        if plan.saved_activations == "on-host":
            return offloading.saved_on_host(self.device)
        store = activations.Store(activations.BITS[plan.saved_activations], plan.activation_group_size, self.resident)

        def pack(tensor: Any) -> Any:
            held = store.pack(tensor)
            if note is not None:
                for part in activations.held_tensors(held):
                    note(part)
            return held

        return hooks(pack, store.unpack)


class _Prefill(Step):
    """A forward pass of ``task: infer``, with the model in eval mode."""

    def run(self, keep_gradients: bool = False) -> None:
        import torch

        with torch.inference_mode():
            batch = self._batch()
            out = self._forward(batch)
            self.note_part("forward")
            self.previous = out if self.plan.holds_previous_output else None

    def end(self) -> list[Any]:
        return []

    def cache_bytes(self) -> int:
        """Bytes of the KV cache that a forward pass returns; 0 without one."""
        import torch

        if not self._cache:
            return 0
        with torch.inference_mode():
            return _cache_bytes(self._forward(self._batch()).past_key_values)


def _cache_bytes(cache: Any) -> int:
    """Bytes of the storages of a cache's keys, values and states. Single numbers are left out."""
    import torch

    from .reference.model import storage_bytes

    parts = [getattr(cache, f"{name}_attention_cache", None) for name in ("self", "cross")]  # of a decoder with both
    held = [part for part in (parts if any(parts) else [cache]) if part is not None]
    layers = [vars(layer) for part in held for layer in part.layers]
    return storage_bytes(
        [x for x in torch.utils._pytree.tree_leaves(layers) if isinstance(x, torch.Tensor) and x.dim()]
    )


class _Generate(_Prefill):
    """A call of ``generate`` that makes all new tokens: no token ends it early."""

    def run(self, keep_gradients: bool = False) -> None:
        self._generate()

    def _generate(self, **keys: Any) -> Any:
        import torch

        options = self.plan.generate
        assert options is not None
        ids = [f"{token}_token_id" for token in ("bos", "eos", "pad", "forced_bos", "forced_eos")]
        for key in (*ids, "suppress_tokens", "begin_suppress_tokens"):
            setattr(self.model.generation_config, key, None)
        if options.cache_implementation == "quantized":
            keys["cache_config"] = {"backend": "fp8"}
        with torch.inference_mode(), self._autocast():
            batch = self._batch()
            if "decoder_input_ids" in batch:  # a prompt that starts with another token is given this one, too
                batch["decoder_input_ids"][:, 0] = self.model.generation_config.decoder_start_token_id
            return self.model.generate(**batch, **options.model_dump(), do_sample=False, **keys)

    def cache_bytes(self) -> int:
        if not HEADS[self.step.head].has_target:
            return _cache_bytes(self._generate(return_dict_in_generate=True).past_key_values)
        held: list[Any] = []  # Whisper returns parts of it
        base = getattr(self.model, "get_base_model", lambda: self.model)()
        prepare = base._prepare_cache_for_generation

        def noted(options: Any, arguments: dict[str, Any], *others: Any) -> None:
            prepare(options, arguments, *others)
            held.append(arguments["cache"])

        with mock.patch.object(base, "_prepare_cache_for_generation", noted):
            self._generate()
        return _cache_bytes(held[-1])


def allocator_events(function: Any) -> list[tuple[int, str]]:
    """The allocations (+bytes) and frees (-bytes) of a call, in order, each with the operators that were running.

    Frees of tensors that existed before are left out: the profiler reports them only by chance. Raises whatever the
    call raises.
    """
    with without_collector():  # or tensors in cycles of an earlier call would be counted in this
        profile = Profile()
        profile.start()
        try:
            function()
        finally:
            profile.stop()
    return profile.events()


class Profile:
    """What PyTorch's CPU allocator does from ``start`` to ``stop``."""

    def start(self) -> None:
        import torch

        activities = [torch.profiler.ProfilerActivity.CPU]
        self._profile = torch.profiler.profile(activities=activities, profile_memory=True)
        self._profile.start()

    def stop(self) -> None:
        self._profile.stop()

    def events(self) -> list[tuple[int, str]]:
        """The allocations and frees, as ``allocator_events`` has them."""
        return _events_of(self._profile)


def _events_of(profile: Any) -> list[tuple[int, str]]:
    from torch._C._profiler import _EventType

    found: list[tuple[int, int, int, str]] = []

    def walk(event: Any, above: tuple[str, ...] = ()) -> None:
        stack = (*above, event.name.removeprefix("autograd::engine::evaluate_function: ").removeprefix("aten::"))
        if event.typed[0] == _EventType.Allocation:
            found.append((event.start_time_ns, event.typed[1].alloc_size, event.typed[1].ptr, "/".join(stack)))
        for child in event.children:
            walk(child, stack)

    for root in profile.profiler.kineto_results.experimental_event_tree():
        walk(root)
    found.sort(key=lambda row: row[0])
    events: list[tuple[int, str]] = []
    live: set[int] = set()
    for _, nbytes, address, where in found:
        if nbytes < 0 and address not in live:
            continue
        (live.add if nbytes > 0 else live.remove)(address)
        events.append((nbytes, where))
    return events


def peak_of(events: list[tuple[int, str]]) -> tuple[int, str]:
    """The largest running total of events, in bytes, and the operators in which it was reached."""
    live = peak = 0
    at = ""
    for nbytes, where in events:
        live += nbytes
        if live > peak:
            peak, at = live, where
    return peak, at


_PRODUCTS = ("mm", "bmm", "addmm", "baddbmm")
"""``mkldnn_matmul`` serves these, in place (``addmm_``) or not."""
_FLASH = ("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention_for_cpu_backward")


def without_matmul_scratch(
    events: list[tuple[int, str]], products: tuple[str, ...] = (*_PRODUCTS, *_FLASH)
) -> list[tuple[int, str]]:
    """The events without oneDNN's scratch memory for 16-bit ``products`` and for convolutions.

    It is allocated and freed within ``mm`` and the like. All that convolutions take themselves is scratch: ``empty``
    makes results.

    Its size depends on the blocking that oneDNN chooses for a shape and an instruction set (``dnnl::memory::desc`` of
    the scratchpad), not on the model alone; see ``docs/accuracy.md``.
    """
    kept: list[tuple[int, str]] = []
    scratch: list[tuple[int, str]] = []
    for event in events:
        operator = event[1].removesuffix("/[memory]").rpartition("/")[2]
        if operator in _CONVOLUTIONS and event[0] > 0:
            scratch.append(event)
        elif operator in _CONVOLUTIONS and (-event[0], event[1]) in scratch:
            scratch.remove((-event[0], event[1]))
        elif kept and event[0] < 0 and kept[-1] == (-event[0], event[1]) and operator.rstrip("_") in products:
            kept.pop()
        else:
            kept.append(event)
    return kept


_CONVOLUTIONS = ("mkldnn_convolution", "_convolution", "convolution_backward")
"""``_convolution`` takes oneDNN's scratch of a transposed convolution; all else that it runs has a name of its own."""


def _processor() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _main() -> int:
    try:
        resolved = resolve(parse_plan(json.load(sys.stdin)))
        result = (run_cuda_step if resolved.step.device.has_own_memory else run_step)(resolved)
    except InputError as error:
        print(f"estimator: {error}", file=sys.stderr)
        return 2
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(_main())
