"""Other orders of a config's layers, so that a family has every kind of layer in every place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...programs.config_values import DENSE_FIRST, number_of, signatures
from ...programs.depth import Kinds, Signature
from ...programs.program import Program
from ...programs.releases import is_before
from ..kinds import SeveralKinds, extended
from ..lifting import lifted
from .configs import resolved_keys
from .draws import DENSE_ONES, Draw, program_of
from .structure import Structure

Order = Mapping[str, Any] | int
"""Other keys of a config, or by how many layers its lists are rotated."""


def _orders(found: Structure, raw: Mapping[str, Any], lists: Mapping[str, Any]) -> list[Order]:
    """Other orders of a config's layers: each kind comes first, and dense layers stand among those of experts."""
    if found.chosen or found.runs or found.chunk is not None or is_before("5"):
        return []
    resolved = resolved_keys(raw)
    orders: list[Order] = [{key: 0} for key in DENSE_FIRST if raw.get(key)]
    if DENSE_ONES in resolved:
        orders += [{DENSE_ONES: [0]}, {DENSE_ONES: []}]
    rows = [str(row) for row in zip(*(resolved[key] for key in lists), strict=False)]
    return orders + sorted({rows.index(row) for row in rows} - {0})


def in_order(raw: Mapping[str, Any], order: Order, lists: Mapping[str, Any]) -> dict[str, Any]:
    """A config with its layers in another order."""
    if not isinstance(order, int):
        return {**raw, **order}
    resolved = resolved_keys(raw)
    return {**raw, **{key: [*resolved[key][order:], *resolved[key][:order]] for key in lists}}


def signs_of(raw: Mapping[str, Any], lists: Mapping[str, Any], layers: str) -> list[Signature]:
    """What a config says of each layer."""
    resolved = resolved_keys(raw)
    return signatures(resolved, {key: resolved[key] for key in lists}, number_of(resolved[layers]))


def with_orders(
    found: Structure, draw: Draw, program: Program, kinds: Kinds, lists: Mapping[str, Any], orders: Sequence[Order]
) -> tuple[Program, Kinds]:
    """The program with the kinds of layers that other orders have."""
    for order in orders:
        raw = in_order(draw.raw, order, lists)
        other = lifted(program_of(raw, draw, found))
        program, kinds = extended(program, kinds, other, signs_of(raw, lists, found.layers))
    return program, kinds


def useful_orders(
    found: Structure, draw: Draw, program: Program, kinds: Kinds, lists: Mapping[str, Any]
) -> Iterator[Order]:
    """Of other orders of the layers, those that the class takes and that have other kinds."""
    for order in _orders(found, draw.raw, lists):
        try:
            program, more = with_orders(found, draw, program, kinds, lists, [order])
        except SeveralKinds:
            raise
        except Exception:  # whatever the class says of such a config
            continue
        if more != kinds:
            kinds = more
            yield order


def needs_every_kind(found: Structure, draw: Draw, program: Program, kinds: Kinds, lists: Mapping[str, Any]) -> bool:
    """Whether models that have layers of one kind of the config's lists alone call something else outside them."""
    resolved = resolved_keys(draw.raw)
    rows = {str(row): row for row in zip(*(resolved[key] for key in lists), strict=False)}
    if len(rows) < 2:
        return False
    if found.chosen or found.runs or found.chunk is not None or is_before("5"):
        return True  # not compared
    layers, window = number_of(resolved[found.layers]), "sliding_attention"
    wanted = [row for row in rows.values() if window in row] or list(rows.values())  # without any it is refused anyway
    alone = [{key: [x] * layers for key, x in zip(lists, row, strict=True)} for row in wanted]
    try:
        with_orders(found, draw, program, kinds, lists, alone)
    except Exception:
        return True
    return False
