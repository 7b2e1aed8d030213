"""What is known of the data of a recording's tensors, which are on the meta device.

Some data follow from the plan: sizes, constants, masks of a batch with or without padding, ordinary token ids. Beside
each such tensor is one with its data on the CPU, and a function whose operands' data are known runs on them, too. What
a model reads (``bool()``, ``item()``, ``nonzero``) is answered from there. What it chooses by unknown numbers (``topk``
of a router's logits) is decided by a policy. All else is unknown, and a model that reads it cannot be recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import torch

Routing = Literal["balanced", "worst"]
"""How tokens choose experts: evenly, or all tokens the same ones."""

LARGEST = 2**24
"""The most elements of a tensor whose data are kept."""
LARGEST_FLOATING = 2**20
"""As ``LARGEST``, for floating numbers, which hardly anything reads."""
_LARGEST_UNIFORM = 2**27
"""As ``LARGEST``, where all elements are one number."""

_OF_SHAPE = {
    "zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones", "new_empty", "new_full",
    "new_tensor",
}  # fmt: skip
"""Functions whose result depends on an operand's shape and not on its data."""
_RANDOM = {
    "dropout", "rand", "randn", "randint", "randperm", "rand_like", "randn_like", "randint_like", "bernoulli",
    "bernoulli_", "multinomial", "normal", "normal_", "uniform_", "exponential_", "random_", "rrelu",
}  # fmt: skip


class _Storage:
    """What views of the same data share."""

    __slots__ = ("chosen", "known")

    def __init__(self, chosen: bool = False) -> None:
        self.known, self.chosen = True, chosen
        """``chosen``: they follow from a choice by unknown numbers."""


class Known(NamedTuple):
    """A tensor's data on the CPU."""

    tensor: torch.Tensor
    storage: _Storage


class Data:
    """Finds the data of tensors. ``get`` and ``put`` look up and note what is known of a tensor on the meta device."""

    def __init__(
        self, routing: Routing, get: Callable[[torch.Tensor], Known | None], put: Callable[[torch.Tensor, Known], None]
    ) -> None:
        self.routing, self._get, self._put = routing, get, put
        self.routed = False
        """Whether something was read that depends on ``routing``."""

    def of(self, x: torch.Tensor) -> torch.Tensor | None:
        """A tensor's data, or None."""
        known = self._known(x)
        self.routed = self.routed or (known is not None and known.storage.chosen)
        return None if known is None else known.tensor

    def _known(self, x: torch.Tensor) -> Known | None:
        if x.is_sparse:
            return None
        if not x.is_meta:
            return Known(x, _Storage())
        known = self._get(x)
        return known if known is not None and known.storage.known else None

    def set(self, x: torch.Tensor, data: torch.Tensor) -> None:
        """Note a tensor's data."""
        self._put(x, Known(data, _Storage()))

    def read(self, function: Callable[..., Any], args: Any) -> Any:
        """What a function of known data answers. Raises ``LookupError`` where they are not known."""
        return function(*_substituted(args, self._replace))

    def follow(self, name: str, function: Callable[..., Any], args: Any, kwargs: Mapping[str, Any], out: Any) -> None:
        """Note the data of a function's result, if they are known. ``out`` is the result on the meta device."""
        results = list(tensors_in(out))
        if not any(x.is_meta for x in results):
            return
        written = args[0] if writes(name) and args and isinstance(args[0], torch.Tensor) else None
        data: list[Known | None] = [None] * len(results)
        if name == "rand" and not results[0].dim():  # it is compared with the rate at which a layer is left out
            data = [Known(torch.ones(()), _Storage())]
        elif name not in _RANDOM and not any(x.is_sparse for x in results):
            if all(_is_small(x) for x in results):
                data = self._run(name, function, args, kwargs) or self._chosen(name, args, kwargs, results)
            elif self._are_uniform(args) and all(x.numel() <= _LARGEST_UNIFORM for x in results):
                data = [one and _as_one(one) for one in self._run(name, function, args, kwargs) or data]
        if written is not None:
            if not data or data[0] is None:
                self._forget(written)
            return
        for x, known in zip(results, data, strict=True):
            if known is not None:
                self._put(x, known)

    def _are_uniform(self, args: Any) -> bool:
        """Whether all operands have one number for all elements, as pixels have."""
        known = [self._known(x) for x in tensors_in(args)]
        return bool(known) and all(one is not None and _is_uniform(one.tensor) for one in known)

    def _replace(self, x: torch.Tensor) -> torch.Tensor:
        data = self.of(x)
        if data is None:
            raise LookupError
        return data

    def _forget(self, x: torch.Tensor) -> None:
        known = self._get(x) if x.is_meta else None
        if known is not None:
            known.storage.known = False

    def _run(
        self, name: str, function: Callable[..., Any], args: Any, kwargs: Mapping[str, Any]
    ) -> list[Known | None] | None:
        """Run a function on its operands' data. None if some are unknown."""
        storages: dict[int, _Storage] = {}

        def replace(x: torch.Tensor) -> torch.Tensor:
            known = self._known(x)
            if known is None:
                if name in _OF_SHAPE:
                    return torch.zeros((), dtype=x.dtype, device="cpu").expand(x.shape)
                raise LookupError
            storages[known.tensor.untyped_storage()._cdata] = known.storage
            return known.tensor

        try:
            given, named = _substituted(args, replace), _substituted(kwargs, replace)
            if "device" in named:
                named["device"] = "cpu"
            out = function(*given, **named)
        except (LookupError, RuntimeError, TypeError, ValueError):
            return None
        if name == "setitem_":
            out = given[0]
        chosen = any(storage.chosen for storage in storages.values())
        return [Known(x, storages.get(x.untyped_storage()._cdata) or _Storage(chosen)) for x in tensors_in(out)]

    def _chosen(
        self, name: str, args: Any, kwargs: Mapping[str, Any], results: list[torch.Tensor]
    ) -> list[Known | None]:
        """The indices that a function chooses by unknown numbers: of experts, as ``routing`` says."""
        data: list[Known | None] = [None] * len(results)
        if name in ("topk", "sort", "argsort", "max", "argmax") and results and not results[-1].is_floating_point():
            x, indices = args[0], results[-1]
            named = list(args[1:]) + [kwargs[key] for key in ("k", "dim") if key in kwargs]
            position = 1 if name == "topk" else 0
            dim = named[position] if len(named) > position else kwargs.get("dim", -1)
            if isinstance(dim, int) and x.dim():
                data[-1] = Known(chosen(x, indices, dim, self.routing), _Storage(chosen=True))
        return data


def chosen(x: torch.Tensor, out: torch.Tensor, dim: int, routing: Routing) -> torch.Tensor:
    """For each row of ``x``, which of the ``n`` entries along ``dim`` it chooses."""
    n = x.shape[dim]
    kept = out.dim() == x.dim()
    shape = list(out.movedim(dim, -1).shape) if kept else [*out.shape, 1]
    k = shape[-1]
    rows = torch.arange(max(1, out.numel() // max(1, k)))[:, None]
    slots = torch.arange(k)[None]
    first = 0 if routing == "worst" else rows * (k if k < n else 1)
    chosen = ((first + slots) % n).expand(len(rows), k).reshape(shape)
    return chosen.movedim(-1, dim).contiguous() if kept else chosen[..., 0].contiguous()


def writes(name: str) -> bool:
    """Whether a function writes into its first operand."""
    return name.endswith("_") and not name.startswith("__")


def _is_small(x: torch.Tensor) -> bool:
    return bool(x.numel() <= (LARGEST_FLOATING if x.is_floating_point() or x.is_complex() else LARGEST))


def _is_uniform(x: torch.Tensor) -> bool:
    return bool(x.untyped_storage().nbytes() <= x.element_size())


def _as_one(known: Known) -> Known | None:
    """The same as one number for all elements, if it is one."""
    x = known.tensor
    if _is_uniform(x):
        return known
    one = x.reshape(-1)[:1]
    return known._replace(tensor=one.clone()[0].expand(x.shape)) if bool((x == one).all()) else None


def _substituted(tree: Any, replace: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """A tree of arguments with other tensors."""
    if isinstance(tree, torch.Tensor):
        return replace(tree)
    if isinstance(tree, torch.device):
        return torch.device("cpu")
    if isinstance(tree, Mapping):
        return {key: _substituted(x, replace) for key, x in tree.items()}
    if isinstance(tree, slice):
        return slice(*(_substituted(x, replace) for x in (tree.start, tree.stop, tree.step)))
    if type(tree) in (tuple, list):
        return type(tree)(_substituted(x, replace) for x in tree)
    return tree


def tensors_in(tree: Any) -> Iterator[torch.Tensor]:
    """The tensors of a function's arguments or results."""
    if isinstance(tree, torch.Tensor):
        yield tree
    elif isinstance(tree, Mapping):
        for x in tree.values():
            yield from tensors_in(x)
    elif isinstance(tree, (tuple, list)):
        for x in tree:
            yield from tensors_in(x)


def data_of_input(name: str, x: torch.Tensor, config: Any, packed: bool, padded: bool) -> torch.Tensor | None:
    """The data of an input: ordinary tokens. A mask that is ``padded`` has one token of padding.

    Positions that are ``packed`` are those of two sequences.
    """
    if x.dtype.is_floating_point or x.dtype.is_complex or x.numel() > LARGEST:
        return None
    if name.endswith("mask"):
        mask = torch.ones(x.shape, dtype=x.dtype, device="cpu")
        mask[0, -1:] = int(not padded)
        return mask
    if name == "position_ids":
        positions = torch.arange(x.shape[-1], dtype=x.dtype, device="cpu").expand(x.shape).contiguous()
        return positions % (x.shape[-1] // 2 + 1) if packed else positions
    if name in ("input_ids", "labels", "decoder_input_ids"):
        return ordinary_ids(config, x.numel()).to(x.dtype).reshape(x.shape)
    return None


def ordinary_ids(config: Any, count: int) -> torch.Tensor:
    """Token ids in turn, without those that a config gives a meaning: padding, images, the end of a text."""
    values = config.to_dict() if hasattr(config, "to_dict") else {}
    special = set(_special_ids(values))
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    vocab = getattr(text, "vocab_size", None) or len(special) + 1
    ids = torch.arange(vocab, device="cpu")
    if special:
        ids = ids[~torch.isin(ids, torch.tensor(sorted(special), device="cpu"))]
    return ids[torch.arange(count, device="cpu") % len(ids)]


def _special_ids(values: Mapping[str, Any]) -> Iterator[int]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _special_ids(value)
        elif isinstance(key, str) and key.endswith(("token_id", "token_ids", "token_index")):
            yield from (x for x in (value if isinstance(value, (list, tuple)) else (value,)) if isinstance(x, int))
