"""What adapters of linear layers have in common: trained biases, the targets' shapes."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

from ..ledger import whole
from ..programs import Config, Linear
from . import patterns
from .base import AdapterMethod, Targets


def _bias(name: str) -> str:
    if name not in ("none", "all") and not name.endswith("_only"):
        raise ValueError("must be none, all, or a name that ends in _only")
    return name


def _absent(value: Any) -> Any:
    if value is not None:
        raise ValueError("must be left out (PEFT's configuration of this method has no such key)")
    return value


Bias = Annotated[str, AfterValidator(_bias)]
"""Which biases PEFT trains; any name that ends in _only means those of the targets."""
Absent = Annotated[None, BeforeValidator(_absent)]
"""A key that other methods have and this one has not."""


class BiasAdapter(AdapterMethod):
    """A frozen base of which some biases may train beside the adapters."""

    def __init__(self, targets: Targets, bias: str, modules_to_save: Sequence[str], adapter_dtype: str) -> None:
        super().__init__(targets, modules_to_save, adapter_dtype)
        self.bias = bias

    def trains(self, path: str) -> bool:
        if self.bias == "none" or not path.endswith(".bias"):
            return False
        return self.bias == "all" or path.removesuffix(".bias") in self.targets


class SizedAdapter(BiasAdapter):
    """Adapters sized by one number, which an option's patterns change for some modules."""

    def __init__(
        self,
        targets: Targets,
        size: int,
        pattern: Mapping[str, int] | None = None,
        bias: str = "none",
        modules_to_save: Sequence[str] = (),
        adapter_dtype: str = "float32",
    ) -> None:
        super().__init__(targets, bias, modules_to_save, adapter_dtype)
        self._size, self._by_path = size, dict(pattern or {})
        self._patterns = patterns.Lookup(pattern, patterns.BELOW)
        self.by_layer = self.by_layer or bool(self._by_path)

    def size(self, path: str) -> int:
        """The number at a module (``C3AModel._create_and_replace``, ``FourierFTModel._create_and_replace``)."""
        return self._patterns.at(path, self._by_path.get(path, self._size))

    def signature(self, path: str) -> Hashable:
        return super().signature(path), path in self.targets and self.size(path)


def name_of(path: str) -> str:
    """The last part of a module's path."""
    return path.rpartition(".")[2]


def target_shapes(config: Config, targets: Targets) -> dict[str, tuple[int, int]]:
    """[n_out, n_in] of every target by its path."""
    linear = config.modules.of("linear")
    return {path: (n_out, n_in) for path, _, (n_out, n_in), *_ in linear if path in targets}


def integer_shape(base: Linear) -> tuple[int, int]:
    """[n_out, n_in] of a linear layer whose sizes are numbers (``open_sizes`` is off)."""
    n_out, n_in = base.weight.shape
    return whole(n_out), whole(n_in)
