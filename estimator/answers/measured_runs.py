"""Runs that the callback predicted and measured: their lines read, checked and compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from pydantic import StrictInt, TypeAdapter, ValidationError

from ..errors import InputError
from ..io.files import lines, parse_json
from ..text import human

MEASURES = ("allocated", "reserved", "process")
SCHEMA = 1


@dataclass(frozen=True)
class MeasuredRun:
    """What was predicted of a run and what was measured, in bytes by name: ``MEASURES``."""

    model: str
    device: str
    date: str
    predicted: Mapping[str, StrictInt]
    measured: Mapping[str, StrictInt]
    versions: Mapping[str, str]
    plan: Mapping[str, Any]
    error: str
    """Why there is no prediction; empty where there is one."""

    def to_dict(self) -> dict[str, Any]:
        """The record as one line of a file holds it."""
        return {"schema": SCHEMA, **vars(self)}

    def line(self) -> str:
        """Predicted against measured, in one sentence."""
        if not self.predicted:
            return f"estimator: no estimate of {self.model}: {self.error}"
        parts = [
            f"{name} {human(self.predicted[name])} predicted, {human(size)} measured ({100 * off:+.1f} %)"
            for name, size in self.measured.items()
            if (off := self.off(name)) is not None
        ]
        return f"estimator: {self.model} on {self.device}: {'; '.join(parts)}"

    def off(self, name: str) -> float | None:
        """The share by which a prediction differs from its measurement; ``None`` where one of them is absent."""
        measured = self.measured.get(name)
        return self.predicted[name] / measured - 1 if measured and name in self.predicted else None


def read(names: list[str]) -> list[MeasuredRun]:
    """The records in files of JSON lines; ``-`` is standard input. Raises ``InputError``."""
    found = [row for name in names for row in _of_file(name)]
    if not found:
        raise InputError(f"{', '.join(names)}: no records; a run with estimator.callback(output=FILE) writes one")
    return found


def _of_file(name: str) -> Iterator[MeasuredRun]:
    for number, line in enumerate(lines(name, "a file of records that estimator.callback wrote"), 1):
        if line.strip():
            try:
                yield _row(parse_json(line))
            except InputError as error:
                raise InputError(f"{name}, line {number}: {error}") from None


_RECORD = TypeAdapter(MeasuredRun)


def _row(data: Any) -> MeasuredRun:
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise InputError(f"no record of schema {SCHEMA}; estimator.callback writes them")
    try:
        return _RECORD.validate_python(data)
    except ValidationError:
        raise InputError(
            "the record is not whole: model, device, date and error are texts, sizes are bytes by name"
        ) from None


def medians(rows: list[MeasuredRun]) -> dict[str, float]:
    """The median of the absolute differences, by the name of what was measured."""
    found = {name: [abs(off) for row in rows if (off := row.off(name)) is not None] for name in MEASURES}
    return {name: median(values) for name, values in found.items() if values}
