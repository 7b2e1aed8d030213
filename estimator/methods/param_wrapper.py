"""LoRA around a parameter of a module: ``ParamWrapper`` of ``peft/tuners/lora/layer.py``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from .. import operators as ops
from ..ledger import Size, Tensor
from ..programs import Builder, Module
from ..programs.event_loop import EventLoop
from ..programs.replaced_modules import RecordedModule


class Given:
    """What takes the place of a parameter: a tensor that its first use makes (``parametrize.cached``)."""

    def __init__(self, make: Callable[[], Tensor]) -> None:
        self._make = make
        self._made: Tensor | None = None

    def weight(self) -> Tensor:
        """The tensor."""
        if self._made is None:
            self._made = self._make()
        return self._made

    def bias(self, bias: Tensor) -> Tensor:
        """The experts' ``bias``. Their modules look the weight up before it (``transformers/integrations/moe.py``)."""
        self.weight()
        return bias


class ParamWrapper(Module):
    """A module with a LoRA on one of its parameters, [experts, n_out, n_in] or [n_out, n_in].

    lora_A is [rank x experts, n_in] and lora_B [n_out, rank x experts]. Transposed parameters are [experts, n_in,
    n_out]. ``path`` is that of the adapter; ``scales`` says whether what it adds is scaled.
    """

    def __init__(
        self,
        build: Builder,
        inner: RecordedModule | ParamWrapper,
        name: str,
        path: str,
        rank: Size,
        scales: bool,
        dtype: str,
        transposed: bool,
        frozen: str,
    ) -> None:
        self.path, self.ledger, self.base_layer, self.name = inner.path, inner.ledger, inner, name
        self.recorded: EventLoop = inner.recorded
        self.own: Mapping[str, Tensor] = inner.own
        self.weight = self.own[name]
        shape = self.weight.shape
        self.experts: Size = shape[0] if len(shape) == 3 else 1
        self.transposed = len(shape) == 3 and transposed
        n_out, n_in = shape[:-3:-1] if self.transposed else shape[-2:]
        self.rank, self.scales = rank, scales
        rows = self.experts * rank
        self.lora_A = build.adapter_linear(f"{path}lora_A", n_in, rows, False, dtype, trained=frozen != "lora_A")
        self.lora_B = build.adapter_linear(f"{path}lora_B", rows, n_out, False, dtype, trained=frozen != "lora_B")

    def forward(self, *args: Tensor) -> Tensor:
        """``_activate_lora``: registering a parametrization calls it once, to compare what it gives."""
        make = self._fold() if self.experts != 1 else partial(ops.add, self.weight, self._delta())
        make()
        given = Given(make)
        taken = {self.name: given.weight}
        if (bias := self.own.get(f"{self.name}_bias")) is not None:
            taken[f"{self.name}_bias"] = partial(given.bias, bias)
        self.recorded.parametrized |= taken
        try:
            out: Tensor = self.base_layer(*args)
        finally:  # a checkpoint's second run stops at the last tensor that is saved
            for name in taken:
                del self.recorded.parametrized[name]
        return out

    def _fold(self) -> Callable[[], Tensor]:
        """``get_delta_factors`` and ``_LoraFactorsProxy``, which autocast leaves alone."""
        a, b = self.lora_A.weight, self.lora_B.weight
        a = ops.reshape(a, (self.experts, self.rank, a.shape[1]))
        b = ops.permute(ops.reshape(b, (b.shape[0], self.rank, self.experts)), (2, 0, 1))
        lhs, rhs = (ops.transpose(a, -2, -1), ops.transpose(b, -2, -1)) if self.transposed else (b, a)
        return partial(self._folded, ops.to(lhs, self.weight.dtype), ops.to(rhs, self.weight.dtype))

    def _folded(self, lhs: Tensor, rhs: Tensor) -> Tensor:
        outer, self.ledger.autocast = self.ledger.autocast, None
        out = ops.baddbmm(self.weight, lhs, rhs, alpha=self.scales)
        self.ledger.autocast = outer
        return out

    def _delta(self) -> Tensor:
        """``get_delta_weight``. A CPU multiplies factors of 16 bits in float32."""
        a, b = self.lora_A.weight, self.lora_B.weight
        dtype = a.dtype
        if not self.ledger.device.has_own_memory and dtype != "float32":
            a, b = ops.to(a, "float32"), ops.to(b, "float32")
        delta = ops.mul(ops.matmul(b, a), ops.SCALAR)
        delta = ops.to(delta, dtype)
        return ops.to(delta, self.weight.dtype)
