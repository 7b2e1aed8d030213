"""LLaMA-Adapter as PEFT runs it (``peft/tuners/adaption_prompt``; arXiv 2303.16199)."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, ClassVar, Literal

from pydantic import Field

from .. import operators as ops
from ..errors import InputError
from ..io.fields import Rank
from ..ledger import Size, Tensor
from ..programs import Builder, Config, Method, Module
from ..programs.module_table import ModuleTable
from .default_targets import TARGET_MODULES
from .options import MethodOptions, Names


class AdaptionPromptMethod(MethodOptions):
    """LLaMA-Adapter (peft.AdaptionPromptConfig)."""

    title: ClassVar[str] = "LLaMA-Adapter"
    acts_on_interfaces: ClassVar[bool] = True
    name: Literal["adaption_prompt"] = "adaption_prompt"
    target_modules: Names | None = Field(None, description="modules to adapt: names, a regular expression, all-linear")
    adapter_len: Rank | None = Field(None, description="prompt tokens in each adapted layer")
    adapter_layers: Rank | None = Field(None, description="how many of the last layers are adapted")

    def build(self, config: Config, dtype: str, rank: Size | None = None) -> Method:
        families = TARGET_MODULES[self.name]
        attention = families.get(config.family)
        if attention is None:
            raise InputError(f"adaption_prompt is for {', '.join(families)} only (PEFT's rule)")
        if self.target_modules not in (None, attention, *attention):
            raise InputError(f"adaption_prompt adapts {attention[0]} only; leave target_modules out")
        if self.adapter_len is None or self.adapter_layers is None:
            raise InputError("adaption_prompt needs adapter_len and adapter_layers, such as 10 and 30")
        if self.adapter_layers > config.num_hidden_layers:
            raise InputError(f"adapter_layers {self.adapter_layers}: the model has {config.num_hidden_layers} layers")
        factor = config.hidden_size // (config.num_key_value_heads * config.head_dim)
        if factor * config.num_key_value_heads != config.num_attention_heads:
            raise InputError(
                "adaption_prompt needs num_attention_heads * head_dim to be the hidden size; PEFT infers the key heads "
                "from it"
            )
        return AdaptionPrompt(config.modules, self.adapter_len, config.num_hidden_layers - self.adapter_layers)

    def peft_options(self) -> dict[str, object]:
        return {"adapter_len": self.adapter_len, "adapter_layers": self.adapter_layers}


class AdaptionPrompt(Method):
    """A frozen base model. In the layers from ``first`` on, attention also attends to a trained prompt."""

    by_layer = True

    def __init__(self, modules: ModuleTable, adapter_len: int, first: int) -> None:
        self.modules, self.adapter_len, self.first = modules, adapter_len, first

    def trains(self, path: str) -> bool:
        return False

    def signature(self, path: str) -> Hashable:
        return self._adapted(path)

    def wrap_attention(self, build: Builder, base: Module) -> Module:
        return AdaptedAttention(build, base, self.adapter_len) if self._adapted(base.path) else base

    def _adapted(self, path: str) -> bool:
        layer = self.modules[path].layer
        return layer is not None and layer >= self.first


class AdaptedAttention(Module):
    """Attention plus a gate times the same queries' attention to a trained prompt.

    adaption_prompt [1, adapter_len, H] and adaption_gate [1] have the base's dtype.
    """

    def __init__(self, build: Builder, base: Any, adapter_len: int) -> None:
        self.path, self.ledger, self.model = base.path, base.ledger, base
        shape = (1, adapter_len, base.c.hidden)
        self.adaption_prompt = build.adapter(f"{base.path}.adaption_prompt", shape, build.dtype)
        self.adaption_gate = build.adapter(f"{base.path}.adaption_gate", (1,), build.dtype)

    def forward(self, hidden_states: Tensor, *others: Tensor | None) -> tuple[Tensor | None, ...]:
        """``AdaptedAttention.forward``. ``others`` are the mask, if there is one, position ids, cosines and sines."""
        found = self.model(hidden_states, *others)
        output, *weights = (found,) if isinstance(found, Tensor) else found
        del found
        cos, sin = [x for x in others if x is not None and len(x.shape) == 3][-2:]
        key = self.model.inner("k_proj")(self.adaption_prompt)
        value = self.model.inner("v_proj")(self.adaption_prompt)
        adapter_k = self.heads(key, hidden_states.shape[0])
        adapter_v = self.heads(value, hidden_states.shape[0])
        groups = self.model.c.groups
        adapter_k = ops.repeat_interleave(adapter_k, groups, 1)
        adapter_v = ops.repeat_interleave(adapter_v, groups, 1)
        query_states = self.query_states(hidden_states, cos, sin)
        previous_dtype = query_states.dtype
        scores = ops.div(ops.matmul(query_states, ops.to(ops.transpose(adapter_k, 2, 3), previous_dtype)), ops.SCALAR)
        scores = ops.mul(self.adaption_gate, ops.to(ops.softmax(scores, "float32"), previous_dtype))
        adapter_output = ops.reshape(
            ops.transpose(ops.matmul(scores, adapter_v), 1, 2),
            (*hidden_states.shape[:-1], self.model.c.heads * self.model.c.head_dim),
        )
        adapter_output = self.model.inner("o_proj")(adapter_output)
        output = ops.add(output, adapter_output)
        output = ops.to(output, previous_dtype)
        return output, *weights

    def heads(self, x: Tensor, batch: Size) -> Tensor:
        """[1, adapter_len, kv_heads * D] -> [B, kv_heads, adapter_len, D]."""
        c = self.model.c
        return ops.transpose(ops.repeat(ops.view(x, (*x.shape[:-1], c.kv_heads, c.head_dim)), batch, 1, 1, 1), 1, 2)

    def query_states(self, hidden_states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """``llama_compute_query_states`` computes the queries a second time, and values that nothing uses."""
        c, shape = self.model.c, hidden_states.shape[:-1]
        query = self.model.inner("q_proj")(hidden_states)
        query_states = ops.transpose(ops.view(query, (*shape, c.heads, c.head_dim)), 1, 2)
        del query
        value = self.model.inner("v_proj")(hidden_states)
        value_states = ops.transpose(ops.view(value, (*shape, c.kv_heads, c.head_dim)), 1, 2)  # noqa: F841
        del value
        cos = ops.unsqueeze(cos, 1)
        sin = ops.unsqueeze(sin, 1)
        return ops.add(ops.mul(query_states, cos), ops.mul(rotate_half(query_states), sin))


def rotate_half(x: Tensor) -> Tensor:
    """[..., D] -> [..., D]: the halves are swapped, and one is negated."""
    x1 = ops.narrow(x, -1, x.shape[-1] // 2)
    x2 = ops.narrow(x, -1, x.shape[-1] // 2)
    return ops.cat((ops.neg(x2), x1), x.shape)
