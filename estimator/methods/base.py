"""What adapters have in common in PEFT: which modules are meant by names, and what replaces them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence

from ..programs import Builder, Method, Module
from ..programs.module_table import endings
from . import patterns


def by_layer(names: str | Sequence[str]) -> bool:
    """Whether names may choose single layers: they are a regular expression, or one has an index in it."""
    return isinstance(names, str) or any(any(c.isdigit() for c in name) for name in names)


def is_saved(path: str, names: Sequence[str]) -> bool:
    """Whether a module, or one that it is in, has a path that ends with one of the names (``_set_trainable``)."""
    return any(path.endswith(name) or f"{name}." in path for name in names)


class Targets:
    """PEFT's matching of module names (``peft/tuners/tuners_utils.py: check_target_module_exists``)."""

    def __init__(
        self,
        target_modules: str | Sequence[str],
        exclude_modules: str | Sequence[str] | None = None,
        layers_to_transform: Sequence[int] | None = None,
        layers_pattern: Sequence[str] | None = None,
        all_linear: Collection[str] = (),
    ) -> None:
        """``all_linear``: the paths that PEFT's word all-linear stands for."""
        names = [n for n in (target_modules, exclude_modules) if n is not None and n != "all-linear"]
        self.by_layer = layers_to_transform is not None or any(by_layer(n) for n in names)
        self.all_linear = all_linear if target_modules == "all-linear" else None
        self.target_modules = target_modules if isinstance(target_modules, str) else frozenset(target_modules)
        self.exclude_modules = exclude_modules if isinstance(exclude_modules, str) else frozenset(exclude_modules or ())
        self.layers = None if layers_to_transform is None else frozenset(layers_to_transform)
        self.layers_pattern = layers_pattern

    def __contains__(self, path: str) -> bool:
        if self.exclude_modules and self._named(path, self.exclude_modules):
            return False
        if self.all_linear is not None:
            return path in self.all_linear and self._layer_chosen(path)
        if not self._named(path, self.target_modules):
            return False
        return path in self.target_modules or isinstance(self.target_modules, str) or self._layer_chosen(path)

    @staticmethod
    def _named(path: str, names: str | frozenset[str]) -> bool:
        if isinstance(names, str):
            return patterns.groups(names, patterns.WHOLE, path) is not None
        return any(end in names for end in endings(path))

    def _layer_chosen(self, path: str) -> bool:
        if self.layers is None:
            return True
        names, form = (self.layers_pattern, patterns.LAYERS) if self.layers_pattern else (["[^.]*"], patterns.ANY_LAYER)
        for pattern in names:
            found = patterns.groups(pattern, form, path)
            if found is not None:
                return int(str(found[-1])) in self.layers
        return False


class AdapterMethod(Method):
    """A frozen base model with adapters on the targets and trainable copies of ``modules_to_save``."""

    def __init__(self, targets: Targets, modules_to_save: Sequence[str], adapter_dtype: str) -> None:
        self.targets, self.modules_to_save, self.adapter_dtype = targets, tuple(modules_to_save), adapter_dtype
        self.by_layer = targets.by_layer or by_layer(self.modules_to_save)

    def trains(self, path: str) -> bool:
        return False

    def saves(self, path: str) -> bool:
        """Whether PEFT replaces the module by a trainable copy (``ModulesToSaveWrapper``)."""
        return is_saved(path, self.modules_to_save)

    def adapt(self, build: Builder, base: Module) -> Module:
        """The module that stands in for a target."""
        raise NotImplementedError

    def adapts(self, path: str) -> bool:
        return path in self.targets

    def wrap(self, build: Builder, base: Module, copy: Callable[[], Module]) -> Module:
        if self.saves(base.path):
            return copy()
        return self.adapt(build, base) if base.path in self.targets else base

    def signature(self, path: str) -> Hashable:
        return self.saves(path) or path in self.targets
