"""What PyTorch's two engines share: a step on the ledger, and the rows of its figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from .engine import Engine

LIBRARIES_BYTES = 385 * 1024 * 1024
"""The resident set of a process after two steps of a tiny model, less the step's own bytes.

Measured: 368 to 388 MiB over four settings, 383 to 400 MiB beside large models (``estimator measure``; torch 2.13
CPU build, transformers 5.24, peft 0.21, Python 3.11, x86-64 Linux). The imported libraries are 248 MiB of it, and
55 to 90 MiB more with the ``quantised`` extra, which PEFT imports where it is installed. SciPy, which transformers
imports where it is installed, takes 35 MiB more, and is not counted: a tiny model's process is 9 % larger with it. The
rest comes with the first step: the thread pool, buffers of oneDNN and MKL, modules that are imported late."""


class Torch(Engine):
    """PyTorch, on whatever device."""

    title = "PyTorch"
    place: ClassVar[str]
    """Where, in words."""
    runs_steps = True
    rows = (
        ("parameters", "parameters"),
        ("adapters", "  of them adapters"),
        ("buffers", "buffers"),
        ("optimizer", "optimizer states"),
        ("communication", "communication"),
        ("reference", "frozen second models"),
        ("resident", "resident"),
        ("saved", "saved activations"),
        ("gradients", "gradients"),
        ("kv_cache", "KV cache"),
        ("peak_above_resident", "peak above resident"),
        ("peak", "peak"),
        ("allocated_peak", "allocated by PyTorch"),
        ("reserved_peak", "reserved by PyTorch"),
        ("vllm", "vLLM's share of the card"),
        ("vllm_needed", "  with which it starts"),
        ("process", "process"),
        ("run", "process, at the run's largest moment"),
        ("host_parameters", "parameters on the host"),
        ("host_gradients", "gradients on the host"),
        ("host_optimizer", "optimizer states on the host"),
        ("host_pinned", "pinned on the host"),
        ("host_peak", "peak on the host"),
        ("host_all", "peak of all processes of a host"),
        ("host_loading", "loading of all processes of a host"),
        ("host", "the host's memory, with libraries"),
    )
    """Saved activations and gradients need not be live at the same time, nor all at the peak."""

    def asked(self, plan: Any) -> str:
        if plan.task == "train":
            what = "a training step"
        else:
            what = "inference (one forward pass)" if plan.generate is None else "inference (a call of generate)"
        program = "PyTorch" if plan.implementation == "transformers" else f"PyTorch with {plan.implementation}"
        sharding = plan.sharding
        one = "" if sharding is None else f", {sharding.which} of {sharding.world_size:,} processes of {sharding.label}"
        return f"{what} in {program} on {self.place}{one}"

    def release(self, plan: Any) -> str:
        return ""

    def parts(self, sizes: Mapping[str, int], peak_at: str, gradients_alive: bool = False) -> dict[str, int]:
        """In the loss's backward all saved activations are live except the labels, so they are a part that is exact to
        8 bytes per token. In the blocks' backward, activations are freed as gradients are made, so both are one part.
        With ``gradients_alive``, gradients exist from the start (gradient accumulation).
        """
        parts = {"parameters": sizes["parameters"] + sizes["buffers"], "optimizer states": sizes["optimizer"]}
        parts |= {name: sizes[name] for name in ("communication", "reference") if name in sizes}
        rest = sizes["peak_above_resident"]
        if "communication" in sizes:  # which gradients may be views of
            return {**parts, "activations, gradients and temporaries": rest}
        if gradients_alive or peak_at == "optimizer step":
            parts["gradients"] = sizes["gradients"]
            rest -= sizes["gradients"]
        if peak_at == "loss backward":
            parts["saved activations"] = sizes["saved"]
            parts["temporaries and logits"] = rest - sizes["saved"]
        elif peak_at == "optimizer step":
            parts["temporaries and logits"] = rest
        else:
            parts["activations, gradients and temporaries"] = rest
        return parts
