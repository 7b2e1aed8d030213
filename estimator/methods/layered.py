"""What PEFT's adapters have in common: an adapted layer for each target, its size, trained biases."""

from collections.abc import Hashable
from typing import Annotated, Any, ClassVar, Generic, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field

from ..errors import InputError
from ..io.fields import Whole
from ..ledger import Size, whole
from ..programs import Builder, Config, Embedding, Linear, Method, Module
from . import patterns
from .base import AdapterMethod, Targets
from .options import AdapterDtype, TargetOptions, checked_dtype


def _list_name(text: str) -> str:
    if set(text) & set("(|)"):
        raise ValueError("must be the name of the list the layers are in, such as layers")
    return patterns.check(text)


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
ListName = Annotated[str, AfterValidator(_list_name)]
Layer = type[Any]
"""A class of adapted modules. It is called with the builder, the base module and the method, an ``Adapters``."""


class AdapterOptions(TargetOptions):
    """Options of methods that put adapters on chosen modules."""

    linear: ClassVar[Layer]
    """The class that adapts a linear layer."""
    embedding: ClassVar[Layer]
    """The class that adapts an embedding, where ``adapted`` has embeddings."""
    size_key: ClassVar[str] = ""
    """The option with the adapters' size, where it is not ``rank_key``."""
    pattern_key: ClassVar[str] = "rank_pattern"
    """The option with other sizes for some modules, if there is one."""
    pattern_form: ClassVar[str] = patterns.SUFFIX
    """How PEFT matches its keys: one of the forms in ``patterns``."""
    opens_rank: ClassVar[bool] = False
    """Whether formulas may keep the rank as a symbol."""
    adapter_dtype: AdapterDtype = Field(
        "float32", description="dtype of the adapters: float32 (PEFT's cast) or the base's"
    )

    def open_values(self) -> dict[str, int]:
        return {"r": getattr(self, self.rank_key)} if self.opens_rank else {}

    def layer(self, base: Module) -> Layer:
        """The class that adapts a module."""
        return self.embedding if isinstance(base, Embedding) else self.linear

    def check_target(self, path: str, n_out: int, n_in: int, size: Size) -> None:
        """Raise ``InputError`` where PEFT refuses a linear layer [n_out, n_in] as a target of an adapter's ``size``."""

    def build(self, config: Config, dtype: str, rank: Size | None = None) -> Method:
        method = Adapters(self, self._targets(config), dtype, rank if self.opens_rank else None)
        for path, shape in target_shapes(config, method.targets).items():
            self.check_target(path, *shape, method.size_at(path))
        return method


class LayerOptions(AdapterOptions):
    """Options of methods whose modules may be chosen by layer as well as by name."""

    pattern_alone: ClassVar[bool] = False
    """Whether PEFT takes ``layers_pattern`` without ``layers_to_transform``."""
    text_with_layers: ClassVar[bool] = False
    """Whether PEFT takes these two keys where ``target_modules`` is a regular expression."""
    layers_to_transform: Whole | list[Whole] | None = Field(None, description="indices of the layers to adapt")
    layers_pattern: ListName | list[ListName] | None = Field(None, description="name of the list the layers are in")

    def _targets(self, config: Config, **layers: Any) -> Targets:
        given, pattern = self.layers_to_transform, self.layers_pattern
        chosen = [given] if isinstance(given, int) else given
        for index in chosen or ():
            if not 0 <= index < config.num_hidden_layers:
                raise InputError(
                    f"layers_to_transform {index}: the model's layers are 0 to {config.num_hidden_layers - 1}"
                )
        if pattern and chosen is None and not self.pattern_alone:
            raise InputError("layers_pattern needs layers_to_transform (PEFT's rule)")
        self._check_text()
        names = [pattern] if isinstance(pattern, str) else pattern
        return super()._targets(config, layers_to_transform=chosen or None, layers_pattern=names, **layers)

    def _check_text(self) -> None:
        """Raise ``InputError`` for a choice of layers beside a text, where PEFT takes it beside a list alone."""
        chosen, pattern = self.layers_to_transform, self.layers_pattern
        given = chosen is not None and chosen != []
        if isinstance(self.target_modules, str) and not self.text_with_layers and (given or pattern):
            raise InputError(
                f"{'layers_to_transform' if given else 'layers_pattern'} needs target_modules as a list of names, "
                f"not '{self.target_modules}' (PEFT's rule)"
            )


OptionsT = TypeVar("OptionsT", bound=AdapterOptions)


class Adapters(AdapterMethod, Generic[OptionsT]):
    """A frozen base with an adapter on every target. PEFT's ``bias`` may train biases as well."""

    def __init__(self, options: OptionsT, targets: Targets, dtype: str, rank: Size | None = None) -> None:
        """``dtype`` is the base's. ``rank`` stands for the options' own size."""
        super().__init__(targets, options.saved, checked_dtype(options.adapter_dtype, dtype))
        self.options = options
        self.bias: str = getattr(options, "bias", "none")
        self.size: Size = getattr(options, options.size_key or options.rank_key, 0) if rank is None else rank
        size_pattern = getattr(options, options.pattern_key, None)
        self.size_by_path: dict[str, Size] = dict(size_pattern or {})
        self.size_by_pattern: patterns.Lookup[Size] = patterns.Lookup(size_pattern, options.pattern_form)
        self.by_layer = self.by_layer or bool(size_pattern)

    def trains(self, path: str) -> bool:
        if self.bias == "none" or not path.endswith(".bias"):
            return False
        return self.bias == "all" or path.removesuffix(".bias") in self.targets

    def size_at(self, path: str) -> Size:
        """The size at a module: its path may match a key of the options' sizes as a pattern, or else be a key."""
        return self.size_by_pattern.at(path, self.size_by_path.get(path, self.size))

    def signature(self, path: str) -> Hashable:
        return super().signature(path), path in self.targets and self.size_at(path)

    def adapt(self, build: Builder, base: Module) -> Module:
        if isinstance(base, Linear) and base.transposed and not self.options.adapts_conv1d:
            what = f"Target module {name_of(base.path)}, a Conv1D, is not supported"
            raise InputError(f"PEFT refuses method {self.options.name}: {what}")
        adapted: Module = self.options.layer(base)(build, base, self)
        return adapted


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
