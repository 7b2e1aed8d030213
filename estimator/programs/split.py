"""The program of one of the processes that split a model's weights, by a plan of transformers (``tp_plan``).

Between the modules of a plan tensors are whole, or one process's heads or features of an MLP. So a process runs the
program of a model with fewer heads and a narrower MLP. Modules whose inputs and outputs are whole have fewer rows or
columns in their weights, and nothing else is changed.

Source: ``transformers/distributed/tensor_parallel.py`` (each style's ``shard_param``). All is of the first process.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from ..errors import InputError
from ..ledger import Shape, ceiling
from ..ledger.sizes import Poly
from .program import Program, Stored


class PartOfHead(InputError):
    """Heads are not split evenly."""


class Style(NamedTuple):
    """What a style does with a weight."""

    dim: int | None = None
    """The dimension that it splits, from the end."""
    bias: bool = True
    """A bias is split, too."""
    tensors: int = 1
    """So many stand in the dimension one behind the other, and each is split."""
    whole: bool = False
    """The module's inputs and outputs are whole."""


STYLES: Mapping[str, Style] = {
    "colwise": Style(-2),
    "rowwise": Style(-1, bias=False),
    "packed_colwise": Style(-2, tensors=2),
    "packed_rowwise": Style(-1, bias=False, tensors=2),
    "embedding_rowwise": Style(-2, whole=True),
    "colwise_gather_output": Style(-2, whole=True),
    "rowwise_split_input": Style(-1, bias=False, whole=True),
    "replicated_with_grad_allreduce": Style(),
    "moe_tp_experts": Style(),
    "mla_kv_a_proj": Style(),
}
"""Those that have rules. The last three exchange something, and split no weight."""


@dataclass(frozen=True)
class Split:
    """A plan's split of a model's weights over ``parts`` processes."""

    plan: Mapping[str, str]
    """Styles by the names of modules and parameters, with * for the number of a layer."""
    parts: int
    whole: Mapping[str, Shape] = field(default_factory=dict)
    """The shapes of all parameters."""

    @classmethod
    def of(cls, plan: Mapping[str, str], parts: int, model_type: str) -> Split | None:
        """That of a model; ``None`` for one process. Raises ``InputError`` where transformers has no plan."""
        if parts == 1:
            return None
        if not plan:
            raise InputError(
                f"`tp_size={parts}` was requested, but {model_type} has no `tp_plan` (transformers' words); leave "
                "sharding.tp out"
            )
        return cls(plan, parts)

    def style(self, name: str) -> str:
        """The style of a module or of a parameter; empty for none."""
        return self.plan.get(re.sub(r"\.\d+(?=\.|$)", ".*", name), "")

    def _of_parameter(self, name: str) -> Style:
        style = self.style(name) or self.style(name.rpartition(".")[0])
        return STYLES.get(style, Style())

    def is_whole(self, name: str) -> bool:
        """Whether a parameter's module is split within itself: its inputs and outputs are whole."""
        return self._of_parameter(name).whole

    @staticmethod
    def _dim(style: Style, shape: Shape) -> int | None:
        """The dimension of a parameter that is split."""
        whole = style.dim is None or (len(shape) == 1 and not style.bias)
        return None if whole else max(len(shape) + style.dim, 0)  # type: ignore[operator]

    def part(self, name: str, shape: Shape) -> Shape:
        """The shape of a process's part of a parameter."""
        style = self._of_parameter(name)
        if (dim := self._dim(style, shape)) is None:
            return shape
        each = ceiling(shape[dim] // style.tensors, self.parts) * style.tensors
        return (*shape[:dim], each, *shape[dim + 1 :])

    def _narrowed(self, parameters: Iterable[Stored]) -> list[str]:
        """The sizes that are smaller between modules: heads, and features of an MLP or of an expert.

        In each dimension that is split one is, which stands in no dimension that is not. The size of a head stays.
        """
        split: list[Poly] = []
        whole: set[str] = set()
        for stored in parameters:
            style = self._of_parameter(stored.name)
            for dim, size in enumerate(stored.shape):
                if not isinstance(size, Poly):
                    continue
                if dim != self._dim(style, stored.shape):
                    whole |= size.symbols()
                elif not style.whole:
                    split.append(size)
        found: list[str] = []
        for size in sorted(split, key=lambda size: len(size.symbols())):
            names = size.symbols()
            if names.isdisjoint(found):
                found += [name for name in ("K", "I", *sorted(names)) if name in names - whole][:1]
        return found

    def sizes(self, program: Program, values: Mapping[str, int]) -> dict[str, int]:
        """Of a program's sizes those that are smaller between modules. Raises ``PartOfHead``."""
        narrowed = self._narrowed(program.parameters)
        if "K" in narrowed and values["K"] % self.parts:
            raise PartOfHead(
                f"sharding.tp {self.parts} does not divide the model's {values['K']} heads of keys and values, of "
                "which transformers cannot view a part; take one that does"
            )
        return {name: -(-values[name] // self.parts) for name in narrowed}

    def applied(self, program: Program, whole: Mapping[str, Shape]) -> Program:
        """The program of these sizes with a process's weights. ``whole`` are the shapes of all parameters.

        Raises ``InputError`` where the sizes do not say how a weight is split.
        """
        for name in (*program.rows, *whole):
            if (style := self.style(name)) and style not in STYLES:
                raise InputError(f"sharding.tp has no rule for {name}, which is {style} in transformers' plan")
        parts = {name: self.part(name, shape) for name, shape in whole.items()}
        for stored in program.parameters:
            if stored.shape != parts[stored.name] and not self.is_whole(stored.name):
                raise InputError(
                    f"sharding.tp has no rule for this model: a process's part of {stored.name} {whole[stored.name]} "
                    f"is {parts[stored.name]}, and {stored.shape} with fewer heads and a narrower MLP"
                )
        rows = [
            row._replace(shape=self.part(f"{row.path}.weight", row.shape))
            if self.is_whole(f"{row.path}.weight")
            else row
            for row in program.modules
        ]
        parameters = [stored._replace(shape=parts[stored.name]) for stored in program.parameters]
        return replace(program, modules=tuple(rows), parameters=tuple(parameters), split=replace(self, whole=whole))
