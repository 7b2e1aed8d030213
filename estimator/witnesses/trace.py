"""The second witness: the real Hugging Face module on the meta device.

It runs the plan's forward pass with PEFT but without data, and notes the storages that autograd saves. It uses none of
the estimator's rules. Saved bytes are a polynomial of known degree in batch and sequence, so a few traced points
determine it exactly.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from fractions import Fraction
from itertools import product
from typing import Any, NamedTuple
from unittest import mock

from ..errors import InputError
from ..plans.plan import Plan
from ..plans.refusals import check_question
from ..plans.resolve import Resolved
from .reference.libraries import torch
from .reference.model import build_model, storage_bytes
from .reference.savings import watch_products
from .reference.sharding import gathered, local, shard

Polynomial = dict[tuple[int, int], Fraction]
"""Coefficients by the exponents of batch and sequence."""


class TracedTensor(NamedTuple):
    """One storage that is saved for backward, with its bytes."""

    module: str
    """The path of the module that was entered last, without PEFT's own parts."""
    operator: str
    """The PyTorch function that saved it; empty where none was running, as in a custom autograd function."""
    shape: tuple[int, ...]
    dtype: str
    nbytes: int


def build(resolved: Resolved) -> Any:
    """The plan's model on the meta device. Raises ``InputError`` where it cannot be traced."""
    check_question("a trace", resolved.plan)
    if resolved.spec.head != "causal-lm":
        raise InputError(f"head: {resolved.spec.head} has no rule with a trace; ask `estimator measure`, which runs it")
    from ..programs.libraries import quiet

    with quiet():
        model = build_model(resolved, "meta")
    return model if resolved.step.sharding is None else _sharded(model, resolved)


def _sharded(model: Any, resolved: Resolved) -> Any:
    """The model as the first rank has it. Its tensors are fake ones of a CPU, since FSDP takes none of the meta device.

    Called within ``as_rank``, in which it is traced, too.
    """
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode():
        made = {b: torch.empty(b.shape, dtype=b.dtype) for b in model.buffers()}
        for p in model.parameters():
            made[p] = torch.nn.Parameter(torch.empty(p.shape, dtype=p.dtype), p.requires_grad)
    for module in model.modules():
        for own in (module._parameters, module._buffers):
            own.update({name: made[tensor] for name, tensor in own.items() if tensor is not None})
    return shard(model, resolved)


def counts(model: Any) -> dict[str, int]:
    """The bytes of parameters, buffers and gradients, each storage once, and the numbers of parameters."""
    wholes = list(model.parameters())
    parameters = [local(p) for p in wholes]
    trained = [local(p) for p in wholes if p.requires_grad]
    return {
        "parameters": storage_bytes(parameters),
        "buffers": storage_bytes(list(model.buffers())),
        "gradients": sum(p.nbytes for p in trained),
        "total_parameters": sum(p.numel() for p in wholes),
        "trainable_parameters": sum(p.numel() for p in wholes if p.requires_grad),
    }


def trace(
    model: Any, plan: Plan, batch: int, seq: int, within: AbstractContextManager[None] | None = None
) -> list[TracedTensor]:
    """The storages that one forward pass over [batch, seq] tokens saves, in order, without parameters and buffers.

    The pass runs ``within`` this context, by default ``without_data()``. Raises ``InputError`` where the model reads
    its data.
    """
    first = local(next(iter(model.parameters())))
    mode = getattr(first, "fake_mode", contextlib.nullcontext())
    resident = {local(t).untyped_storage()._cdata for t in (*model.parameters(), *model.buffers())}
    storages: dict[int, Any] = {}  # kept, so that no address is used twice
    rows: list[TracedTensor] = []
    position = _Position(model)

    def pack(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage._cdata not in resident and storage._cdata not in storages:
            storages[storage._cdata] = storage
            dtype = str(tensor.dtype).removeprefix("torch.")
            rows.append(TracedTensor(position.module, position.operator, tuple(tensor.shape), dtype, storage.nbytes()))
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with within or without_data(), position, hooks, watch_products(pack), mode:
        forward(model, plan, batch, seq)
    of_parameters = {t.untyped_storage()._cdata for t in gathered(model)}
    return [row for row, storage in zip(rows, storages, strict=True) if storage not in of_parameters]


def forward(model: Any, plan: Plan, batch: int, seq: int) -> Any:
    """The model's output for [batch, seq] tokens without data."""
    ids = torch.empty((batch, seq), dtype=torch.int64, device=next(iter(model.parameters())).device)
    arguments = {"attention_mask": torch.empty_like(ids)} if plan.attention_mask else {}
    return model(input_ids=ids, labels=ids, use_cache=plan.use_cache, **arguments)


def added(model: Any) -> set[str]:
    """The names of the parameters that PEFT added: the base model has none with their paths."""
    prefix = _prefix(model)
    names = [name for name, _ in model.named_parameters() if "base_layer" not in name]
    return {name for name in names if not name.startswith(prefix) or _PEFT_PARTS.search(name)}


_PEFT_PARTS = re.compile(r"\.(base_layer|modules_to_save|default)(?=\.|$)")


def _prefix(model: Any) -> str:
    """The prefix of the base model's paths: ``base_model.model.`` for adapters, ``base_model.`` for prompt learning."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return next(f"{name}." if name else "" for name, module in model.named_modules() if module is base)


def saved_polynomial(
    model: Any, plan: Plan, batches: Sequence[int], lengths: Sequence[int], traced: Callable[[], None] = lambda: None
) -> Polynomial:
    """The saved bytes as a polynomial in batch and sequence, from a trace of each pair of ``batches`` and ``lengths``.

    The degree in each is one less than the number of values. ``traced`` is called after each trace.
    """
    from sympy import Matrix

    exponents = [(i, j) for i in range(len(batches)) for j in range(len(lengths))]
    points, saved = list(product(batches, lengths)), []
    for batch, seq in points:
        saved.append(sum(row.nbytes for row in trace(model, plan, batch, seq)))
        traced()
    found = Matrix([[batch**i * seq**j for i, j in exponents] for batch, seq in points]).LUsolve(Matrix(saved))
    return {key: Fraction(int(value.p), int(value.q)) for key, value in zip(exponents, found, strict=True) if value}


class _Position(torch.overrides.TorchFunctionMode):  # type: ignore[misc]
    """Follows a forward pass: the module that was entered last, and the function that is running.

    A module without parameters (activation, dropout) counts as a part of the module before it.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.module = self.operator = ""
        prefix, named = _prefix(model), model.named_modules()
        self._paths = {id(m): _plain_path(prefix, name) for name, m in named if any(True for _ in m.parameters())}

    def _enter_module(self, module: Any, _: Any) -> None:
        self.module = self._paths.get(id(module), self.module)

    def __enter__(self) -> Any:
        self._handle = torch.nn.modules.module.register_module_forward_pre_hook(self._enter_module)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        self._handle.remove()
        super().__exit__(*error)

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operator = getattr(function, "__name__", str(function))
        result = function(*args, **(kwargs or {}))
        self.operator = ""
        return result


def _plain_path(prefix: str, name: str) -> str:
    """A module's path in the base model: ``lm_head`` for ``base_model.model.lm_head.base_layer``."""
    return _PEFT_PARTS.sub("", f"{name}.".removeprefix(prefix).removesuffix("."))


@contextmanager
def without_data(attention: Callable[..., Any] | None = None) -> Iterator[None]:
    """Replace the three functions of libraries that look at values or at the device.

    Raises ``InputError`` where the model itself looks at values.

    Packed sequences would be recognised by the values of position ids: there are none here. A padding mask would be
    left out if its values were all true: here it never is. On the meta device PyTorch's attention would run plain
    matrix products: here it is ``attention``, by default the kernel of a CPU.
    """
    from transformers import masking_utils

    from ..programs.libraries import quiet

    ignore_causal_mask = masking_utils._ignore_causal_mask_sdpa

    def ignore(padding_mask: Any, *args: Any, **kwargs: Any) -> bool:
        return padding_mask is None and ignore_causal_mask(None, *args, **kwargs)

    with (
        quiet(),
        mock.patch.object(masking_utils, "find_packed_sequence_indices", return_value=None),
        mock.patch.object(masking_utils, "_ignore_causal_mask_sdpa", ignore),
        mock.patch.object(
            torch.nn.functional, "scaled_dot_product_attention", attention or scaled_dot_product_attention
        ),
    ):
        try:
            yield
        except (RuntimeError, NotImplementedError) as error:
            if "meta" not in str(error):
                raise
            raise InputError(
                f"this model's step reads its data, of which a trace has none ({str(error).splitlines()[0]}); "
                "`estimator measure` runs it"
            ) from None


def scaled_dot_product_attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """``F.scaled_dot_product_attention`` as on a CPU: the flash kernel, with a boolean mask made additive.

    Query, key and value are [B, heads, S, D]. The kernel accepts fewer key/value heads than query heads.
    """
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        zero = torch.zeros((), dtype=query.dtype, device=query.device)
        attn_mask = torch.where(attn_mask, zero, float("-inf"))
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return kernel(query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)[0]
