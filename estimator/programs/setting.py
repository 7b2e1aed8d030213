"""What decides, besides sizes, which functions a model's forward pass calls: the setting of a step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from .step import Step

LOWER = ("bfloat16", "float16")
"""The dtypes of autocast, and those that the package flash-attn takes."""
DTYPES = ("float32", *LOWER)
Settings = Mapping[str, tuple[Any, ...]]
"""For each field of ``Setting`` the values that a program serves, any of one with any of another."""

_TASK, _NAMED = ("trains", "attention_mask", "packing"), ("attention", "device", "dtype")


class Setting(NamedTuple):
    """What decides, besides sizes, which functions a forward pass calls. ``VALUES`` has the values of each field."""

    trains: bool = True
    attention: str = "sdpa"
    device: str = "cpu"
    """The device's type."""
    dtype: str = "bfloat16"
    """That of all weights that are not quantised."""
    autocast: str | None = None
    attention_mask: bool = False
    """The rows are padded."""
    packing: bool = False
    use_cache: bool = False
    """The model returns its cache."""
    cache: str | None = None
    """In a pass of ``generate``: the implementation of the cache with which it starts."""
    past: str | None = None
    """What made the tokens of that cache: ``prefill`` all of them, or ``decode`` the latest. ``None``: it is empty."""
    reordered: bool = False
    """Beam search has copied the cache since."""
    experts_implementation: str | None = None
    """``None``: as transformers picks."""
    routing: str = "balanced"
    token_types: bool = False
    """The batch has token_type_ids."""

    @classmethod
    def of(cls, step: Step) -> Setting:
        """The setting of a step."""
        cached = step.cached
        past = None if cached is None or not cached.past else "prefill" if cached.prefilled else "decode"
        return cls(
            step.procedure.trains,
            step.attention,
            "cuda" if step.attention == "flash" else step.device.type,  # the package has no kernel for a CPU
            step.dtype,
            step.autocast,
            step.attention_mask and cached is None,  # in generate the program calls for the mask
            step.packing,
            step.returns_cache,
            None if cached is None else cached.implementation,
            past,
            cached is not None and cached.reordered,
            step.experts_implementation,
            step.routing,
            step.token_types,
        )

    def is_of(self, settings: Iterable[Settings]) -> bool:
        """Whether these settings have this one."""
        return any(all(value in one[name] for name, value in zip(self._fields, self, strict=True)) for one in settings)

    @property
    def task(self) -> str:
        """What runs, in words."""
        task = "generate" if self.cache is not None else "training" if self.trains else "inference"
        return task + " on packed rows" * self.packing + " on padded rows" * self.attention_mask

    def __str__(self) -> str:
        """The task, and by their names those other options that are not as they mostly are."""
        said = {name for name, values in ALONE.items() if values == (getattr(self, name),)} | {*_TASK}
        others = [f"{name}: {value}" for name, value in self._asdict().items() if name in _NAMED or name not in said]
        return f"{self.task} with {', '.join(others)}"


VALUES: Settings = {
    "trains": (True, False),
    "attention": ("eager", "sdpa", "flash"),
    "device": ("cpu", "cuda"),
    "dtype": DTYPES,
    "autocast": (None, *LOWER),
    "attention_mask": (False, True),
    "packing": (False, True),
    "use_cache": (False, True),
    "cache": (None, "dynamic", "static", "quantized"),
    "past": (None, "prefill", "decode"),
    "reordered": (False, True),
    "experts_implementation": (None, "eager", "batched_mm", "grouped_mm"),
    "routing": ("balanced", "worst"),
    "token_types": (False, True),
}
ALONE: Settings = {name: (value,) for name, value in Setting()._asdict().items()}
"""Of each field the value that a program serves where its file says nothing of it."""


def merged(settings: Iterable[Settings]) -> tuple[Settings, ...]:
    """The same settings in fewer rows, in the order of ``VALUES``: those that differ in one field become one."""
    found, before = [*settings], 0
    while len(found) != before:
        before = len(found)
        for name, order in VALUES.items():
            groups: dict[Any, tuple[Settings, set[Any]]] = {}
            for one in found:
                others = tuple(values for field, values in one.items() if field != name)
                groups.setdefault(others, (one, set()))[1].update(one[name])
            found = [{**one, name: tuple(x for x in order if x in values)} for one, values in groups.values()]
    return tuple(sorted(found, key=lambda one: [[VALUES[name].index(x) for x in one[name]] for name in VALUES]))
