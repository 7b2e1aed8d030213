"""What PEFT's adapters have in common: an adapted layer for each target, its size, trained biases."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Annotated, Any, Generic, TypeVar

from pydantic import AfterValidator, BeforeValidator

from ..errors import InputError
from ..ledger import Size, whole
from ..programs import Builder, Config, Embedding, Linear, Module
from . import patterns
from .base import AdapterMethod, Targets
from .options import AdapterOptions


def _bias(name: str) -> str:
    if name not in ("none", "all") and not name.endswith("_only"):
        raise ValueError("must be none, all, or a name that ends in _only")
    return name


def _absent(value: Any) -> Any:
    if value is not None:
        raise ValueError("must be left out (PEFT's configuration of this method has no such key)")
    return value


Bias = Annotated[str, AfterValidator(_bias)]
"""Which biases PEFT trains. Any name that ends in _only means those of the targets."""
Absent = Annotated[None, BeforeValidator(_absent)]
"""A key of other methods that PEFT's configuration of this method lacks."""


OptionsT = TypeVar("OptionsT", bound=AdapterOptions)
Layer = Callable[[Builder, Any, Any], Module]
"""A class of adapted modules. It is called with the builder, the base module and the method, an ``Adapters``."""


class Adapters(AdapterMethod, Generic[OptionsT]):
    """A frozen base with an adapter on every target. PEFT's ``bias`` may train biases as well."""

    def __init__(
        self,
        options: OptionsT,
        targets: Targets,
        adapter_dtype: str,
        linear: Layer,
        embedding: Layer | None = None,
        size: Size = 0,
        size_pattern: Mapping[str, int] | None = None,
        form: str = patterns.SUFFIX,
    ) -> None:
        """``linear`` and ``embedding`` are the classes that adapt a linear layer and an embedding.

        ``size`` is the adapters' rank, block size or the like. ``size_pattern`` has other sizes for some modules. PEFT
        matches its keys in ``form``, one of the forms in ``patterns``.
        """
        super().__init__(targets, options.modules_to_save or (), adapter_dtype)
        self.options, self.linear, self.embedding, self.size = options, linear, embedding, size
        self.bias: str = getattr(options, "bias", "none")
        self.size_by_path = dict(size_pattern or {})
        self.size_by_pattern: patterns.Lookup[Size] = patterns.Lookup(size_pattern, form)
        self.by_layer = self.by_layer or bool(size_pattern)

    def trains(self, path: str) -> bool:
        if self.bias == "none" or not path.endswith(".bias"):
            return False
        return self.bias == "all" or path.removesuffix(".bias") in self.targets

    def size_at(self, path: str) -> Size:
        """The size at a module: its path may match a key of ``size_pattern`` as a pattern, or else be a key."""
        return self.size_by_pattern.at(path, self.size_by_path.get(path, self.size))

    def signature(self, path: str) -> Hashable:
        return super().signature(path), path in self.targets and self.size_at(path)

    def adapt(self, build: Builder, base: Module) -> Module:
        if isinstance(base, Linear) and base.transposed and not self.options.adapts_conv1d:
            what = f"Target module {name_of(base.path)}, a Conv1D, is not supported"
            raise InputError(f"PEFT refuses method {self.options.name}: {what}")
        layer = self.embedding if isinstance(base, Embedding) else self.linear
        assert layer is not None
        return layer(build, base, self)


def name_of(path: str) -> str:
    """The last part of a module's path."""
    return path.rpartition(".")[2]


def target_shapes(config: Config, targets: Targets) -> dict[str, tuple[int, int]]:
    """[n_out, n_in] of every target by its path."""
    linear = config.modules.of("linear")
    return {path: (n_out, n_in) for path, _, (n_out, n_in), *_ in linear if path in targets}


def largest_shape(config: Config, targets: Targets) -> tuple[int, int]:
    """The largest n_out and the largest n_in of the targets."""
    rows, columns = zip(*target_shapes(config, targets).values(), strict=True)
    return max(rows), max(columns)


def integer_shape(base: Linear) -> tuple[int, int]:
    """[n_out, n_in] of a linear layer, as numbers: for methods whose ``open_sizes`` is off."""
    n_out, n_in = base.weight.shape
    return whole(n_out), whole(n_in)
