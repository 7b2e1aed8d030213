"""What adapters of linear layers have in common: chosen layers, trained biases, the targets' shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BeforeValidator, Field

from ..errors import InputError
from ..fields import Whole
from ..programs.config import Config
from ..programs.modules import Linear
from .base import AdapterMethod, Targets
from .options import AdapterOptions, ListName, all_paths, module_paths


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

LLAMA_LIKE: Mapping[str, list[str]] = {
    family: ["q_proj", "v_proj"] for family in ("llama", "mistral", "qwen2", "qwen3")
}
"""PEFT's default targets (``peft/utils/constants.py``), the same ones for all methods that copy LoRA's."""


class LinearOptions(AdapterOptions):
    """Options of a method that adapts linear layers and nothing else."""

    open_sizes: ClassVar[bool] = False

    def _linear_targets(self, config: Config, **layers: Any) -> Targets:
        targets = self._targets(config, **layers)
        shapes = config.linear_shapes()
        for path in all_paths(config):
            if path in targets and name_of(path) not in shapes:
                raise InputError(f"{self.title} adapts linear layers only; take {name_of(path)} out of target_modules")
        return targets


class LayeredOptions(LinearOptions):
    """The same for a method whose PEFT configuration can choose layers by index."""

    text_with_layers: ClassVar[bool] = False
    """Whether PEFT takes ``layers_to_transform`` beside a regular expression."""
    layers_to_transform: Whole | list[Whole] | None = Field(None, description="indices of the layers to adapt")
    layers_pattern: ListName | list[ListName] | None = Field(None, description="name of the list the layers are in")

    def _layered_targets(self, config: Config) -> Targets:
        return self._linear_targets(config, **self._layers(config))

    def _layers(self, config: Config) -> dict[str, Any]:
        chosen = self.layers_to_transform
        layers = [chosen] if isinstance(chosen, int) else chosen
        for index in layers or ():
            if not 0 <= index < config.num_hidden_layers:
                raise InputError(
                    f"layers_to_transform {index}: the model's layers are 0 to {config.num_hidden_layers - 1}"
                )
        if isinstance(self.target_modules, str) and not self.text_with_layers:
            for key, value in (("layers_to_transform", layers), ("layers_pattern", self.layers_pattern)):
                if value is not None:
                    raise InputError(
                        f"{key} needs target_modules as a list of names, not '{self.target_modules}' (PEFT's rule)"
                    )
        pattern = [self.layers_pattern] if isinstance(self.layers_pattern, str) else self.layers_pattern
        return {"layers_to_transform": layers or None, "layers_pattern": pattern}


class BiasAdapter(AdapterMethod):
    """A frozen base of which some biases may train beside the adapters."""

    def __init__(self, targets: Targets, bias: str, modules_to_save: Sequence[str], adapter_dtype: str) -> None:
        super().__init__(targets, modules_to_save, adapter_dtype)
        self.bias = bias

    def trains(self, path: str) -> bool:
        if self.bias == "none" or not path.endswith(".bias"):
            return False
        return self.bias == "all" or path.removesuffix(".bias") in self.targets


def name_of(path: str) -> str:
    """The last part of a module's path."""
    return path.rpartition(".")[2]


def target_shapes(config: Config, targets: Targets) -> dict[str, tuple[int, int]]:
    """[n_out, n_in] of every target by its path."""
    shapes = config.linear_shapes()
    return {path: shapes[name_of(path)] for path in module_paths(config) if path in targets}


def integer_shape(base: Linear) -> tuple[int, int]:
    """[n_out, n_in] of a linear layer whose sizes are numbers (``open_sizes`` is off)."""
    n_out, n_in = base.weight.shape
    assert isinstance(n_out, int)
    assert isinstance(n_in, int)
    return n_out, n_in
