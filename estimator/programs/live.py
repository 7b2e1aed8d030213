"""Programs of a Hugging Face model, recorded from the installed transformers when they are asked for. Needs PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import transformers

from .program import Program
from .recorder import Wrapped, record
from .step import Inputs, Step


class Live:
    """The programs of a config.json's model."""

    def __init__(self, raw: Mapping[str, Any], where: str) -> None:
        self.raw, self.where = raw, where
        self._models: dict[Any, Any] = {}
        self._programs: dict[Any, Program] = {}

    def model(self, step: Step) -> Any:
        """The model on the meta device, in the step's dtype and with its attention."""
        key = step.dtype, step.attention
        if key not in self._models:
            self._models[key] = self.build(step)
        return self._models[key]

    def build(self, step: Step) -> Any:
        """Build the model."""
        raw = {k: v for k, v in self.raw.items() if k not in ("torch_dtype", "dtype", "architectures")}
        config = transformers.AutoConfig.for_model(**raw)
        implementation = "flash_attention_2" if step.attention == "flash" else step.attention
        with torch.device("meta"):
            return transformers.AutoModelForCausalLM.from_config(
                config, dtype=getattr(torch, step.dtype), attn_implementation=implementation
            )

    def at(self, inputs: Inputs) -> Program:
        step = inputs.step
        batch, seq = inputs.batch, inputs.seq
        assert isinstance(batch, int)
        assert isinstance(seq, int)
        infers = step.procedure == "inference"
        device = "cuda" if step.device.has_own_memory else "cpu"
        key = (step.dtype, step.attention, step.autocast, infers, step.attention_mask, device, batch, seq)
        if key not in self._programs:
            model = self.model(step)
            model.train(not infers)
            ids = torch.empty((batch, seq), dtype=torch.int64, device="meta")
            given = {"input_ids": ids}
            arguments = {"input_ids": ids} if infers else {"input_ids": ids, "labels": ids}

            def call() -> Mapping[str, Any]:
                return dict(model(**arguments, use_cache=False))

            autocast = None if step.autocast is None else getattr(torch, step.autocast)
            with self.running():
                self._programs[key] = record(model, given, call, device, autocast, self.wrapped(model))
        return self._programs[key]

    def wrapped(self, model: Any) -> Wrapped | None:
        """What a library has wrapped."""
        return None

    def running(self) -> AbstractContextManager[Any]:
        """The context in which the model runs."""
        return nullcontext()
