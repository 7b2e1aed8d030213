"""The second witness: the real Hugging Face module on the meta device.

Runs the plan's forward pass, PEFT included, without data and notes which storages autograd saves.
It knows none of the estimator's rules. Saved bytes are a polynomial in batch and sequence of known
degree, so a few traced points determine it exactly.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from fractions import Fraction
from typing import Any, NamedTuple
from unittest import mock

from ..errors import InputError
from ..plans.plan import Plan
from ..plans.resolve import Resolved
from .reference.libraries import torch
from .reference.model import build_model, storage_bytes
from .reference.savings import watch_products

Polynomial = dict[tuple[int, int], Fraction]
"""Coefficients by the exponents of batch and sequence."""


class TracedTensor(NamedTuple):
    """One storage saved for backward. ``nbytes`` are the storage's."""

    module: str
    """Path of the module entered last, PEFT's own parts of it left out."""
    operator: str
    """The PyTorch function that saved it; empty where none was running (a custom autograd function)."""
    shape: tuple[int, ...]
    dtype: str
    nbytes: int


def build(resolved: Resolved) -> Any:
    """The plan's model on the meta device. Raises ``InputError`` where it cannot be traced."""
    if resolved.plan.task == "infer":
        raise InputError(
            "task infer saves nothing for backward, so there is nothing to trace; `estimator measure` runs it"
        )
    if resolved.plan.method.procedure != "backpropagation":
        raise InputError(
            f"{resolved.plan.method.title} saves nothing for backward, so there is nothing to trace; "
            "`estimator measure` runs it"
        )
    if resolved.plan.saved_activations != "as-is" or resolved.plan.pins_memory:
        instead = "checkpointing: layer" if resolved.plan.saved_activations == "as-is" else "saved_activations: as-is"
        raise InputError(
            f"a trace sees what autograd saves, not how it is held; set {instead} "
            "(`estimator measure` runs the plan as it is)"
        )
    if resolved.plan.autocast:
        raise InputError(
            "autocast does not act on a model without data, so a plan with autocast cannot be traced; "
            "`estimator measure` runs it"
        )
    with _quiet():
        return build_model(resolved, "meta")


def counts(model: Any) -> dict[str, int]:
    """Bytes of parameters, buffers and gradients, and numbers of parameters, storages counted once."""
    parameters = list(model.parameters())
    trained = [p for p in parameters if p.requires_grad]
    return {
        "parameters": storage_bytes(parameters),
        "buffers": storage_bytes(list(model.buffers())),
        "gradients": sum(p.nbytes for p in trained),
        "total_parameters": sum(p.numel() for p in parameters),
        "trainable_parameters": sum(p.numel() for p in trained),
    }


def trace(
    model: Any, plan: Plan, batch: int, seq: int, within: AbstractContextManager[None] | None = None
) -> list[TracedTensor]:
    """What one forward pass over [batch, seq] tokens saves, in the order of saving.

    Parameters and buffers are left out. ``within`` stands in for ``without_data()``. Raises ``InputError``
    where the model reads its data.
    """
    resident = {t.untyped_storage()._cdata for t in (*model.parameters(), *model.buffers())}
    storages: dict[int, Any] = {}  # held, so that no address is used twice
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
    with within or without_data(), position, hooks, watch_products(pack):
        _forward(model, plan, batch, seq)
    return rows


def _forward(model: Any, plan: Plan, batch: int, seq: int) -> Any:
    ids = torch.empty((batch, seq), dtype=torch.int64, device="meta")
    arguments = {"attention_mask": torch.empty_like(ids)} if plan.attention_mask else {}
    return model(input_ids=ids, labels=ids, use_cache=plan.use_cache, **arguments)


def added(name: str) -> bool:
    """Whether PEFT made a parameter: the base model has none of its path."""
    return "base_layer" not in name and _plain_path(name) != re.sub(r"^base_model(\.model)?\.", "", name)


def saved_polynomial(
    model: Any,
    plan: Plan,
    batches: Sequence[int],
    lengths: Sequence[int],
    traced: Callable[[], None] = lambda: None,
) -> Polynomial:
    """Saved bytes as a polynomial in batch and sequence, from a trace at every pair of the given sizes.

    Its degrees are one less than the numbers of sizes. ``traced`` is called after each trace.
    """
    exponents = [(i, j) for i in range(len(batches)) for j in range(len(lengths))]
    equations: list[list[Fraction]] = []
    for batch in batches:
        for seq in lengths:
            saved = sum(row.nbytes for row in trace(model, plan, batch, seq))
            traced()
            equations.append([*(Fraction(batch**i * seq**j) for i, j in exponents), Fraction(saved)])
    return {key: value for key, value in zip(exponents, _solve(equations), strict=True) if value}


def _solve(rows: list[list[Fraction]]) -> list[Fraction]:
    """The solution of regular linear equations, each given as its coefficients and its right side."""
    for i in range(len(rows)):
        pivot = next(k for k in range(i, len(rows)) if rows[k][i])
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [value / rows[i][i] for value in rows[i]]
        for k in range(len(rows)):
            if k != i and rows[k][i]:
                rows[k] = [a - rows[k][i] * b for a, b in zip(rows[k], rows[i], strict=True)]
    return [row[-1] for row in rows]


class _Position(torch.overrides.TorchFunctionMode):  # type: ignore[misc]
    """Follows a forward pass: the module entered last and the function that is running.

    Modules without parameters (activations, dropout) count as part of what came before them.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.module = self.operator = ""
        named = model.named_modules()
        self._paths = {id(m): _plain_path(name) for name, m in named if any(True for _ in m.parameters())}

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


def _plain_path(name: str) -> str:
    """A module's path in the base model: ``base_model.model.lm_head.base_layer`` is ``lm_head``.

    PEFT's tuners hold the model as ``base_model.model``, prompt learning as ``base_model``.
    """
    name = re.sub(r"^base_model(\.model(?=\.model(?:\.|$)|\.lm_head|$))?(\.|$)", "", name)
    return re.sub(r"\.(base_layer|modules_to_save|default)(?=\.|$)", "", name)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries' advice about training to themselves: nothing is trained here."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)


@contextmanager
def without_data(attention: Callable[..., Any] | None = None) -> Iterator[None]:
    """Stand in for the three places that look at values, or at the device, on the way to the same result.

    Packed sequences are recognised by their position ids: there are none here. A padding mask is
    one with padding in it, so it can never be left out. On the meta device PyTorch's attention
    falls back to plain matrix products: call ``attention``, or the kernel that it calls on a CPU.
    """
    from transformers import masking_utils

    ignore_causal_mask = masking_utils._ignore_causal_mask_sdpa

    def ignore(padding_mask: Any, *args: Any, **kwargs: Any) -> bool:
        return padding_mask is None and ignore_causal_mask(None, *args, **kwargs)

    with (
        _quiet(),
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
    """``F.scaled_dot_product_attention`` as a CPU runs it: the flash kernel, a boolean mask made additive.

    Query, key and value are [B, heads, S, D]; the kernel takes grouped key/value heads as they are.
    """
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        zero = torch.zeros((), dtype=query.dtype, device=query.device)
        attn_mask = torch.where(attn_mask, zero, float("-inf"))
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return kernel(query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)[0]
