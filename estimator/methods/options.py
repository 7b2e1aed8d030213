"""What the options of every method have in common: PEFT's own names, checked by pydantic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Union

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from ..bases.formats import Base
from ..errors import InputError
from ..fields import FloatDtype, Name, Whole
from ..ledger.sizes import Size
from ..programs.config import LAYER_MODULES, LAYER_NORMS, Config
from ..programs.method import Method
from . import patterns
from .base import Targets, endings

if TYPE_CHECKING:
    from ..plans.models import ModelSpec
    from ..plans.plan import Plan


def _list_name(text: str) -> str:
    if set(text) & set("(|)"):
        raise ValueError("must be the name of the list the layers are in, such as layers")
    return patterns.check(text)


Pattern = Annotated[str, AfterValidator(patterns.check)]
ListName = Annotated[str, AfterValidator(_list_name)]
MOST_SAVED = 1000
"""Names in ``modules_to_save``: each is compared with the end of every module's path."""
Names = Union[Pattern, list[str]]
AdapterDtype = FloatDtype


class MethodOptions(BaseModel):
    """The block of a method in a plan."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)  # a plan has one of thirty methods
    name: str
    title: ClassVar[str]
    """What people call it."""
    rank_key: ClassVar[str] = "r"
    """The key that says how large the adapters are, where there is such a key."""
    peft: ClassVar[bool] = True
    """Whether it is PEFT's: ``name`` is then its peft_type in lower case."""
    peft_type: ClassVar[str] = ""
    """PEFT's type that makes the adapters, where it is not the name in upper case."""
    harmless: ClassVar[frozenset[str]] = frozenset()
    """Keys of the method's adapter_config.json that do not change memory."""
    open_sizes: ClassVar[bool] = True
    """Whether formulas may leave the architecture's sizes open."""
    by_token: ClassVar[bool] = True
    """Whether an adapted layer treats every token by itself, so that tokens may come in chunks."""
    pads_labels: ClassVar[bool] = False
    """Whether some positions have no label."""
    plain_saved: ClassVar[bool] = True
    """Whether all that adapted layers save is ordinary tensors, which quantised activations have a rule for."""
    quantised: ClassVar[tuple[str, ...]] = ()
    """Formats of a quantised base that the method runs on."""
    procedure: ClassVar[str] = "backpropagation"
    """How a step finds its update: backpropagation, zeroth-order or forward-mode."""
    plan_defaults: ClassVar[Mapping[str, Any]] = {}
    """Keys of the plan that the method sets where the user does not."""

    @property
    def inner(self) -> MethodOptions:
        """The method that makes the model: this one, or the one in its ``adapter`` block."""
        return self

    def build(self, config: Config, dtype: str, rank: Size | None = None) -> Method:
        """The method, checked against a model. ``rank`` replaces ``r`` (a symbol, for formulas).

        Raises ``InputError``.
        """
        raise NotImplementedError

    def check_base(self, base: Base, held_dtype: str, autocast: str | None) -> None:
        """Refuse a quantised base that the method cannot run on; ``held_dtype`` is the other weights'.

        Raises ``InputError``.
        """
        if base.format not in self.quantised:
            known = ", ".join(self.quantised) or "unquantised bases only"
            raise InputError(f"{self.title} has no rule for a base in {base.format}; it knows {known}")

    def check_plan(self, plan: Plan, spec: ModelSpec) -> None:
        """Raise ``InputError`` where the method cannot be combined with the rest of the plan or the model."""

    def notes(self, plan: Plan) -> list[str]:
        """What an answer should say of the method."""
        return []

    def open_values(self) -> dict[str, int]:
        """The rank, by its symbol's name, where formulas may leave it open."""
        return {}

    def peft_options(self) -> dict[str, Any]:
        """Arguments of the PEFT config class."""
        return self.model_dump(exclude_none=True, exclude={"name", "adapter_dtype"})


@lru_cache(maxsize=64)
def _ends(paths: tuple[str, ...]) -> frozenset[str]:
    """The ends of all paths: of a model's many plans the same."""
    return frozenset(end for path in paths for end in endings(path))


class TargetOptions(MethodOptions):
    """What methods that change chosen modules have in common."""

    default_targets: ClassVar[Mapping[str, Names]] = {}
    target_modules: Names | None = Field(None, description="modules to adapt: names, a regular expression, all-linear")
    exclude_modules: Names | None = Field(None, description="modules to leave out")
    modules_to_save: Annotated[list[Name], Field(max_length=MOST_SAVED)] | None = Field(
        None, description="modules trained as full copies"
    )

    def _targets(self, config: Config, paths: list[str] | None = None, **layers: Any) -> Targets:
        """The targets among ``paths`` (linear layers and the embedding, if not given). Raises ``InputError``."""
        names = self.target_modules if self.target_modules is not None else self.default_targets.get(config.family)
        if names is None:
            raise InputError(f"PEFT has no default target_modules of {self.title} for {config.family}; name some")
        targets = Targets(names, self.exclude_modules, **layers)
        paths = paths or module_paths(config)
        wanted = [names] if isinstance(names, str) else names
        if not wanted:
            raise InputError("target_modules is empty; name a module such as q_proj, or leave it out")
        ends = _ends(tuple(paths)) if isinstance(names, list) else frozenset()
        for name in wanted:
            if name not in ends if isinstance(names, list) else not _any_in(paths, Targets(names)):
                raise InputError(
                    f"target_modules '{name}' matches nothing in this model; its modules are "
                    f"{', '.join(dict.fromkeys(path.rpartition('.')[2] for path in paths))}"
                )
        if not _any_in(paths, targets):
            raise InputError(
                "exclude_modules or layers_to_transform leave nothing of target_modules; change one of them"
            )
        check_modules_to_save(config, self.modules_to_save)
        for name in self.modules_to_save or ():
            if any(path.endswith(name) and path in targets for path in paths):
                raise InputError(f"'{name}' is in target_modules and in modules_to_save; keep one of them")
        return targets


class AdapterOptions(TargetOptions):
    """What methods that put adapters on chosen modules have in common."""

    adapter_dtype: AdapterDtype = Field(
        "float32", description="dtype of the adapters: float32 (PEFT's cast) or the base's"
    )

    def _dtype(self, dtype: str) -> str:
        return checked_dtype(self.adapter_dtype, dtype)


class LayerOptions(AdapterOptions):
    """Modules chosen by name and, as PEFT's newer configs let one, by layer."""

    layers_to_transform: Whole | list[Whole] | None = Field(None, description="indices of the layers to adapt")
    layers_pattern: ListName | list[ListName] | None = Field(None, description="name of the list the layers are in")

    def _targets(self, config: Config, paths: list[str] | None = None, **layers: Any) -> Targets:
        chosen = [self.layers_to_transform] if isinstance(self.layers_to_transform, int) else self.layers_to_transform
        for index in chosen or ():
            if not 0 <= index < config.num_hidden_layers:
                raise InputError(
                    f"layers_to_transform {index}: the model's layers are 0 to {config.num_hidden_layers - 1}"
                )
        if self.layers_pattern and self.layers_to_transform is None:
            raise InputError("layers_pattern needs layers_to_transform (PEFT's rule)")
        if chosen and isinstance(self.target_modules, str):
            raise InputError(
                "layers_to_transform needs target_modules as a list of names, "
                f"not '{self.target_modules}' (PEFT's rule)"
            )
        pattern = [self.layers_pattern] if isinstance(self.layers_pattern, str) else self.layers_pattern
        return super()._targets(config, paths, layers_to_transform=chosen or None, layers_pattern=pattern, **layers)

    def _linear_targets(self, config: Config) -> Targets:
        """Targets of a method that adapts linear layers only."""
        targets = self._targets(config)
        if "model.embed_tokens" in targets:
            raise InputError(f"{self.title} adapts linear layers only; take embed_tokens out of target_modules")
        return targets


def checked_dtype(adapter_dtype: str, dtype: str) -> str:
    """The adapters' dtype on a base of ``dtype``. Raises ``InputError``."""
    if adapter_dtype not in ("float32", dtype):
        raise InputError(
            f"adapter_dtype {adapter_dtype} is neither float32 nor the base's dtype {dtype}; "
            "PEFT casts adapters to one of these"
        )
    return adapter_dtype


def check_modules_to_save(config: Config, names: Sequence[str] | None) -> None:
    """Raises ``InputError`` for a name that no module's path ends with."""
    for name in names or ():
        if not any(path.endswith(name) for path in all_paths(config)):
            raise InputError(f"modules_to_save '{name}' matches nothing in this model")


def _any_in(paths: list[str], targets: Targets) -> bool:
    return any(path in targets for path in paths)


def module_paths(config: Config) -> list[str]:
    """Paths of the modules that adapters go on: linear layers and the embedding."""
    layers = range(config.num_hidden_layers)
    return [*(f"model.layers.{i}.{m}" for i in layers for m in LAYER_MODULES), "model.embed_tokens", "lm_head"]


def all_paths(config: Config) -> list[str]:
    """Paths of all modules with parameters of their own."""
    norms = LAYER_NORMS if config.family == "qwen3" else LAYER_NORMS[:2]
    layers = range(config.num_hidden_layers)
    return [*module_paths(config), *(f"model.layers.{i}.{m}" for i in layers for m in norms), "model.norm"]
