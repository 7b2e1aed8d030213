"""A model's modules as a table. Other folders ask it, so that they need not know a family's module names."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import cached_property, lru_cache
from itertools import groupby
from typing import Any, Generic, Literal, NamedTuple, TypeVar, get_args

from ..ledger import Size

Kind = Literal["linear", "embedding", "norm", "attention", "mlp", "container"]
"""What a module is. A container has no parameters except those of the modules in it."""
KINDS: tuple[Kind, ...] = get_args(Kind)
Role = Literal["input embedding", "output embedding"]
"""The modules that transformers' ``get_input_embeddings`` and ``get_output_embeddings`` return."""


SizeT = TypeVar("SizeT", bound=Size)


class NamedModule(NamedTuple, Generic[SizeT]):
    """A module of a model."""

    path: str
    """Its name in ``named_modules()``."""
    kind: Kind
    shape: tuple[SizeT, ...] = ()
    """The weight's shape: a linear layer's [n_out, n_in], an embedding's [rows, size], a norm's [size]."""
    bias: bool = False
    role: Role | None = None
    layer: int | None = None
    """The index of the layer that the module is, or is in."""


@lru_cache(maxsize=20_000)
def endings(path: str) -> tuple[str, ...]:
    """A path and what follows each of its dots. A name in a list of targets means every path that ends with it."""
    parts = path.split(".")
    return tuple(".".join(parts[i:]) for i in range(len(parts)))


TELL_TEXTS_APART = (
    *("bert", "bros", "canine", "convbert", "deberta", "deberta-v2", "electra", "ernie", "fnet", "layoutlm"),
    *("markuplm", "megatron-bert", "mobilebert", "nomic_bert", "squeezebert"),
)
"""Encoders of text whose tokenizer makes ``token_type_ids`` (transformers 5.24: ``model_input_names``). RoBERTa's
makes none, however many its model tells apart."""


def has_token_types(family: str, modules: Iterable[NamedModule[Any]]) -> bool:
    """Whether the tokenizer says to which of two texts a token belongs, and the model tells them apart."""
    return family in TELL_TEXTS_APART and any(
        one.path.endswith("token_type_embeddings") and one.shape[0] > 1 for one in modules
    )


class ModuleTable:
    """The modules of a model, in the order of the original's ``named_modules()``."""

    def __init__(self, modules: Iterable[NamedModule[int]]) -> None:
        self.modules = tuple(modules)
        self._of: dict[tuple[Kind, ...], tuple[NamedModule[int], ...]] = {}
        self._ends: dict[tuple[Kind, ...], frozenset[str]] = {}

    def __getitem__(self, path: str) -> NamedModule[int]:
        return self._by_path[path]

    @cached_property
    def _by_path(self) -> dict[str, NamedModule[int]]:
        return {module.path: module for module in self.modules}

    def of(self, *kinds: Kind) -> tuple[NamedModule[int], ...]:
        """The modules of the given kinds."""
        if kinds not in self._of:
            self._of[kinds] = tuple(module for module in self.modules if module.kind in kinds)
        return self._of[kinds]

    def ends(self, *kinds: Kind) -> frozenset[str]:
        """The ends of the paths of the modules of the given kinds."""
        if kinds not in self._ends:
            self._ends[kinds] = frozenset(end for module in self.of(*kinds) for end in endings(module.path))
        return self._ends[kinds]

    @cached_property
    def all_linear(self) -> Collection[str]:
        """Paths of all linear layers except the output embedding: PEFT's all-linear, and what quantisation packs."""
        return dict.fromkeys(module.path for module in self.of("linear") if module.role is None)

    @cached_property
    def layers(self) -> tuple[tuple[NamedModule[int], ...], ...]:
        """The modules of each layer, the layer itself first."""
        inside = [module for module in self.modules if module.layer is not None]
        return tuple(tuple(layer) for _, layer in groupby(inside, key=lambda module: module.layer))

    def path_of(self, role: Role) -> str:
        """The path of the module with that role; empty where the model has none."""
        return next((module.path for module in self.modules if module.role == role), "")
