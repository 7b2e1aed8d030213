"""Modules, what makes them, and what they are asked of: a quantised base and a fine-tuning method.

``Module.__call__`` holds its arguments for as long as ``torch.nn.Module._call_impl`` does, so temporaries live as long.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from .. import operators as ops
from ..ledger import ITEMSIZE, Ledger, Shape, Size, Tensor
from .module_table import Kind


class Module:
    """A named part of a model. Subclasses define ``forward``."""

    path: str = ""
    ledger: Ledger

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        ledger = self.ledger
        outer, ledger.within = ledger.within, self.path
        ledger.module = self.path
        hooks = ledger.module_hooks.get(self.path)
        if hooks is not None:
            hooks.before_module(self.path, args)
        out = self.forward(*args, **kwargs)
        if hooks is not None:
            hooks.after_module(self.path, [out])
        ledger.within = outer
        return out

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module computes."""
        raise NotImplementedError


class Base(Protocol):
    """What a program asks of a quantised base: how its linear layers are stored."""

    @property
    def dtype(self) -> str:
        """The dtype of the weights before they were quantised."""

    @property
    def quantises_head(self) -> bool:
        """Whether the output embedding is quantised, too."""

    @property
    def kept(self) -> tuple[str, ...]:
        """Names of linear layers that are left as they are."""

    def linear(self, build: Builder, path: str, n_in: Size, n_out: Size, bias: bool) -> Linear:
        """The quantised layer that replaces ``nn.Linear`` at ``path``."""

    def expert(self, build: Builder, path: str, shape: Shape) -> Tensor:
        """A parameter at ``path`` that holds a weight of all experts of a layer."""


class Method:
    """Full fine-tuning; the base of every other method."""

    by_layer = False
    """Whether the method may treat layers of a model differently."""
    virtual_tokens = 0
    """Tokens that the method puts before each sequence."""

    open_rank: bool = False
    """Whether its rank is the symbol r."""

    untrained: tuple[str, ...] = ()
    """Paths of what does not train, whatever the method says."""

    def trains(self, path: str) -> bool:
        """Whether the base parameter at ``path`` (``model.norm.weight``) is trained by the method."""
        return True

    def updates(self, path: str) -> bool:
        """Whether the base parameter at ``path`` is trained."""
        return self.trains(path) and not any(path == part or path.startswith(f"{part}.") for part in self.untrained)

    def wrap(self, build: Builder, base: Module, copy: Callable[[], Module]) -> Module:
        """The module that replaces ``base``. ``copy`` makes a trainable copy of ``base``."""
        return base

    def add_to_loss(self, loss: Tensor) -> Tensor:
        """The loss to run backward from, given the model's. Called while autocast is on."""
        return loss

    def state_sizes(self, p: Tensor) -> list[Size]:
        """Bytes of each tensor that the method keeps for a trained parameter, the optimizer's states left out."""
        return []

    def after_update(self, ledger: Ledger, trained: Sequence[Tensor]) -> None:
        """What the loop does for the method after the optimizer's step, while gradients are still live."""

    def parameters_of(self, path: str) -> Sequence[str]:
        """The names of a module's own parameters that get an adapter themselves."""
        return ()

    def wrap_parameters(self, build: Builder, base: Any) -> Any:
        """The module that replaces ``base``, an ``replaced_modules.RecordedModule`` of which it adapts parameters."""
        return base

    def wrap_attention(self, build: Builder, base: Module) -> Module:
        """The module that replaces a layer's attention."""
        return base

    def wrap_model(self, build: Builder, model: Any) -> Any:
        """What replaces the model, called as it is: with ``(input_ids, labels, inputs)``; inference has no labels."""
        return model

    def adapts(self, path: str) -> bool:
        """Whether the module at ``path`` gets an adapter."""
        return False

    def signature(self, path: str) -> Hashable:
        """What the method does to the module at ``path``. Layers whose modules all have equal values form a run."""
        return None


class Frozen(Method):
    """A model as it is, of which nothing trains."""

    def trains(self, path: str) -> bool:
        return False


class Builder:
    """Makes parameters and modules for a method, a dtype and, if linear layers are quantised, a base."""

    def __init__(
        self,
        ledger: Ledger,
        method: Method,
        dtype: str,
        segment: int = 1,
        base: Base | None = None,
        within: Mapping[Kind, Callable[[Module], Module]] | None = None,
        layers: Layers | None = None,
    ) -> None:
        self.ledger, self.method, self.dtype, self.segment, self.base = ledger, method, dtype, segment, base
        self.within = within or {}
        """For each kind of module, what wraps its modules."""
        self.layers = layers or Layers()
        self.shared: dict[str, Tensor] = {}
        """Tensors that the method makes once and several modules use."""
        self.tied: dict[str, Tensor] = {}
        """Parameters by the names that they have in a second module."""
        self.dtypes: dict[str, str] = {}
        """By their names, the dtypes of parameters that have another one than the model's."""
        self.fixed: set[str] = set()
        """Names of the parameters that the model itself does not train, such as Whisper's positions."""
        self._copying = False

    def parameter(self, path: str, *shape: Size, dtype: str | None = None) -> Tensor:
        """A parameter of the base model; it requires a gradient if the method trains it."""
        dtype = dtype or self.dtypes.get(path, self.dtype)
        if self._copying:
            return self.adapter(path, shape, dtype)
        if path in self.tied:
            return self.tied[path]
        return self.ledger.parameter(path, shape, dtype, self.method.updates(path) and path not in self.fixed)

    def adapter(self, path: str, shape: Shape, dtype: str, trained: bool = True, storage: Size | None = None) -> Tensor:
        """A parameter that the method adds. ``storage``: the elements of its storage, where it is a view of more."""
        nbytes = None if storage is None else storage * ITEMSIZE[dtype]
        return self.ledger.parameter(path, shape, dtype, trained, added=True, nbytes=nbytes)

    def adapter_linear(
        self, path: str, n_in: Size, n_out: Size, bias: bool, dtype: str, trained: bool = True
    ) -> Linear:
        """A linear layer that the method adds."""
        return self.layers.of(path, Linear)(
            self,
            path,
            self.adapter(f"{path}.weight", (n_out, n_in), dtype, trained),
            self.adapter(f"{path}.bias", (n_out,), dtype, trained) if bias else None,
        )

    def wrapped(self, make: Callable[[], Module]) -> Module:
        """What ``make`` makes, wrapped by the method if it adapts it."""

        def copy() -> Module:
            self._copying = True
            module = make()
            self._copying = False
            return module

        return self.method.wrap(self, make(), copy)

    def linear(self, path: str, n_in: Size, n_out: Size, bias: bool = False, quantised: bool = True) -> Module:
        """``nn.Linear``, wrapped by the method if it adapts it. ``quantised``: if the base is, this layer is too."""

        def make() -> Linear:
            if self.base is not None and quantised:
                return self.base.linear(self, path, n_in, n_out, bias)
            weight = self.parameter(f"{path}.weight", n_out, n_in)
            bias_ = self.parameter(f"{path}.bias", n_out) if bias else None
            return self.layers.of(path, Linear)(self, path, weight, bias_)

        return self.wrapped(make)

    def embedding(self, path: str, count: Size, size: Size) -> Module:
        """``nn.Embedding``."""
        kind = self.layers.of(path, Embedding)
        return self.wrapped(lambda: kind(self, path, self.parameter(f"{path}.weight", count, size)))


class Linear(Module):
    """``nn.Linear``: weight [n_out, n_in], bias [n_out]."""

    transposed = False
    """Whether the weight is stored as [n_in, n_out], as GPT-2's ``Conv1D`` has it."""

    def __init__(self, build: Builder, path: str, weight: Tensor, bias: Tensor | None = None) -> None:
        self.path, self.ledger, self.weight, self.bias = path, build.ledger, weight, bias

    def forward(self, x: Tensor) -> Tensor:
        """X [..., n_in] -> [..., n_out]."""
        return ops.linear(x, self.weight, self.bias)


class Embedding(Module):
    """``nn.Embedding``: weight [vocabulary, hidden]."""

    def __init__(self, build: Builder, path: str, weight: Tensor) -> None:
        self.path, self.ledger, self.weight = path, build.ledger, weight

    def forward(self, ids: Tensor) -> Tensor:
        """Ids [B, S] -> [B, S, hidden]."""
        return ops.embedding(ids, self.weight)


LayerT = TypeVar("LayerT", bound=Module)


class Layers:
    """The classes of linear layers and embeddings."""

    def of(self, path: str, kind: type[LayerT]) -> type[LayerT]:
        """The class of the module at a path, which is of this kind: the kind itself, or one that does more."""
        return kind

    def join(self, scope: Any, parameters: Sequence[Tensor]) -> Any:
        """Called with what acts around the step, and with the model's parameters, once all are made. What is returned
        takes its place.
        """
        return scope
